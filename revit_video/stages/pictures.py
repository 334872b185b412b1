"""The pictures of a test: accuracy against cost, and which clips got which length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from revit_video.data.classes import label_name
from revit_video.report.plots import plot_accuracy_vs_cost, plot_length_sheet
from revit_video.routing.rule import KINDS
from revit_video.stages.test import TestJob, TestResult, router_of
from revit_video.types import InputError


def draw_result(job: TestJob, result: TestResult, folder: Path) -> None:
    """accuracy_vs_gmacs.png; accuracy_vs_time.png, where speeds were measured; lengths.png unless the sheet
    is to hold no clips.
    """
    report = result.report
    title = f"{job.title}: {report['protocol']['num_scored']} videos"
    points = {"adaptive": report["adaptive"], **report["baselines"]}
    drawn = {"fixed": report["per_length"], "curves": report["curve"], "title": title}
    plot_accuracy_vs_cost(folder / "accuracy_vs_gmacs.png", points=points, **drawn)
    if "throughput" in report:
        drawn["curves"] = {name: rows for name, rows in report["curve"].items() if name in KINDS}
        plot_accuracy_vs_cost(folder / "accuracy_vs_time.png", cost="ms", **drawn)
    if job.sheet_clips:
        plot_length_sheet(
            folder / "lengths.png", groups=length_groups(job, chosen_of_each_level(job, result))
        )


def draw_sheet(job: TestJob, path: Path) -> None:
    """The sheet alone, of a list that need not be tested."""
    if job.assigner is None or not job.sheet_clips:
        missing = "an assigner" if job.assigner is None else "report.sheet_clips of 1 or more"
        raise InputError(f"a sheet shows which clips the router sends to which length, and needs {missing}")
    plot_length_sheet(path, groups=length_groups(job, first_of_each_level(job)))


@torch.inference_mode()
def first_of_each_level(job: TestJob) -> dict[int, list[int]]:
    """level -> the first videos of the list whose first clip the router sends there, `sheet_clips` at most;
    no more of the list is read than that takes.
    """
    dataset, run, router = job.evaluation.dataset, job.evaluation.run, router_of(job)
    found: dict[int, list[int]] = {level: [] for level in range(job.model.num_levels)}
    for start in range(0, len(dataset), job.batch_size):
        indices = range(start, min(start + job.batch_size, len(dataset)))
        read = {index: dataset[(0, index)].clips for index in indices}
        views = {index: clips[job.num_crops // 2] for index, clips in read.items() if clips is not None}
        if not views:
            continue
        routed = router(run.to_clips(torch.stack(list(views.values())), dtype=run.dtype))
        for index, level in zip(views, routed.levels.tolist(), strict=True):
            found[level].append(index)
        if all(len(chosen) >= job.sheet_clips for chosen in found.values()):
            break
    return {level: chosen[: job.sheet_clips] for level, chosen in found.items()}


def chosen_of_each_level(job: TestJob, result: TestResult) -> dict[int, list[int]]:
    """The same from a test's result."""
    return {
        level: result.indices[result.levels[:, 0] == level].tolist()[: job.sheet_clips]
        for level in range(job.model.num_levels)
    }


def length_groups(job: TestJob, chosen: Mapping[int, Sequence[int]]) -> dict[str, list[dict]]:
    """For each length, shortest first, the chosen clips: frames uint8 (T, H, W, C) and a caption.

    The names are the paper's (Figure 6): what needs few tokens is easy.
    """
    dataset, last = job.evaluation.dataset, job.model.num_levels - 1
    groups = {}
    for level in reversed(range(job.model.num_levels)):
        clips = []
        for index in chosen[level]:
            sample = dataset.samples[index]
            name = label_name(sample.label, job.class_names, job.heads)
            words = [word for word in (name, sample.tag) if word]
            frames = dataset[(0, index)].clips[0].permute(0, 2, 3, 1).numpy()
            clips.append({"frames": frames, "caption": " · ".join(words)})
        need, length = {last: "easy", 0: "hard"}.get(level, "medium"), job.model.token_lengths[level]
        groups[f"{need} ({length}x{length})"] = clips
    return groups
