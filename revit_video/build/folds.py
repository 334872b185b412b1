"""Cross-labelling: the runs that each leave out a part of the training list, and who labels which video."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import nn

from revit_video.build.lists import build_split
from revit_video.build.networks import as_decoded, trained_model
from revit_video.build.passes import augmentation
from revit_video.config import Config
from revit_video.data.folds import fold_of
from revit_video.stages.job import Device, RunFolder
from revit_video.stages.labels import FoldJob
from revit_video.stages.revit import RevitJob
from revit_video.train.checkpoint import load_checkpoint
from revit_video.types import VideoSample


def fold_configs(config: Config) -> list[Config]:
    """An ordinary run of stage 1 for each part of `labels.folds`, in a folder of its own: 0_of_5 and so on,
    so that another number of parts never finds the models of this one.
    """
    parts = config.labels.folds
    return [
        replace(
            config,
            stage="revit",
            resume="auto",
            output_dir=str(Path(config.output_dir) / "folds" / f"{number}_of_{parts}"),
            data=replace(config.data, leave_out=f"{number}/{parts}"),
            labels=replace(config.labels, folds=0),
        )
        for number in range(parts)
    ]


def fold_jobs(config: Config, samples: Sequence[VideoSample], run: Device) -> list[FoldJob]:
    """Which model labels which videos of the label list: the part that it has not seen. A part of which
    `labels.max_videos` drew no video has none.
    """
    parts, pattern = config.labels.folds, config.data.group_pattern
    held = [fold_of(sample, parts, group_pattern=pattern) for sample in samples]
    jobs = []
    for number, part in enumerate(fold_configs(config)):
        rows = [row for row, fold in enumerate(held) if fold == number]
        if rows:
            file = RunFolder(Path(part.output_dir)).revit
            jobs.append(FoldJob(number, file, rows, partial(fold_model, file, run)))
    return jobs


def fold_model(file: Path, run: Device) -> nn.Module:
    model, _ = trained_model(load_checkpoint(file, kind="revit"), source=file, run=run)
    return as_decoded(model, None, run)[0]


def fold_lines(config: Config, job: RevitJob) -> Iterator[str]:
    """What cross-labelling costs beside the run itself; `job` is the run's stage 1."""
    solver, clips = config.solver, config.solver.batch_size
    whole = job.total_steps * clips * sum(job.gmacs)
    spent = 0.0
    for part in fold_configs(config):
        videos = len(build_split(part, "train").samples)
        per_epoch = max(1, videos * augmentation(config).repeats // clips)
        steps = solver.max_steps or solver.max_epoch * per_epoch
        done = (Path(part.output_dir) / "checkpoints/revit.pt").exists()
        yield (
            f"labels.folds: part {part.data.leave_out} is left out: {videos:,} videos, {steps:,} steps"
            f"{', finished' if done else ''}"
        )
        spent += 0.0 if done else steps * clips * sum(job.gmacs)
    yield (
        f"labels.folds={config.labels.folds}: these trainings cost {spent / whole:.2f} times that of the "
        "run's own backbone, on top of it; finished ones are kept"
    )
