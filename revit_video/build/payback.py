"""The numbers of the study of pay-back, from what a tested run left in its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import torch

from revit_video.backbones.costs import level_gmacs
from revit_video.backbones.memory import StepMemory, saved_bytes, step_memory
from revit_video.build.device import build_device
from revit_video.build.networks import build_model
from revit_video.config import Config, load_config
from revit_video.report.payback import PASSES, Training, payback_rows
from revit_video.report.training_plots import read_log, read_report
from revit_video.stages.job import RunFolder
from revit_video.train.checkpoint import load_checkpoint
from revit_video.train.team import split_levels
from revit_video.types import InputError


def payback(run: Path) -> tuple[list[dict], list[str]]:
    """The table, and what it was made from, a sentence each."""
    folder, report = RunFolder(run), read_report(run)
    if "adaptive" not in report:
        raise InputError(f"{folder.report} is of a backbone without an assigner; there is nothing that saves")
    config, state = load_config(folder.config), load_checkpoint(folder.revit, kind="revit")
    with torch.device("meta"):
        model = build_model(config, len(state["class_names"])).train()
    gmacs = level_gmacs(model)
    steps = state["step"]
    levels = len(gmacs)
    training = Training(
        gmacs,
        clips=config.solver.batch_size,
        steps=steps,
        grow_steps=round(steps * config.revit.grow_share),
        groups=[(group.levels, group.ranks) for group in split_levels(gmacs, levels)],
        later_gmacs=later_gmacs(config, folder, report, gmacs),
    )
    seconds, rate = training_seconds(config, run), None
    if config.distributed.lengths == "sequential" and seconds:
        rate = seconds / training.together()
    saved, notes = saved_seconds(report), []
    rows = payback_rows(
        training,
        adaptive=report["adaptive"]["gmacs"],
        memory=memory_of(config, model, training),
        seconds_per_gmac=rate,
        saved_seconds=saved,
    )
    whole, adaptive = gmacs[0], report["adaptive"]["gmacs"]
    notes.append(
        f"A view costs {adaptive:.4g} GMACs in place of {whole:.4g}: {whole - adaptive:.4g} are saved."
    )
    if rate is not None:
        notes.append(f"Stage 1 took {seconds:,.0f} s by its log, all waiting for data among them.")
    if saved is None:
        notes.append("The test was not timed (test.throughput=false), so nothing is said of time.")
    else:
        notes.append(f"A clip takes {1e3 * saved:+.3g} ms less than at the longest length, in full batches.")
    return rows, notes


def later_gmacs(config: Config, folder: RunFolder, report: Mapping, gmacs: Sequence[float]) -> float:
    """Of the length labels, one view of every video at every length, of the assigner's training, and of the
    trainings of cross-labelling.
    """
    labels = json.loads(folder.labels.read_text())
    videos, share = len(labels["indices"]), 1 - config.router.holdout_share
    assigner = PASSES * config.assigner.epochs * share * videos * report["adaptive"]["assigner_gmacs"]
    steps = load_checkpoint(folder.revit, kind="revit")["step"] * len(labels.get("fold_sha256", ()))
    crossed = PASSES * config.solver.batch_size * steps * sum(gmacs)
    return videos * sum(gmacs) + assigner + crossed


def training_seconds(config: Config, run: Path) -> float:
    """Of all steps of stage 1, by the rates in the log: a pause between two starts does not count."""
    rows = [row for row in read_log(run).rows if row["stage"] == "revit" and row.get("clips_per_s")]
    parts = ((now["step"] - before["step"], now["clips_per_s"]) for before, now in pairwise(rows))
    return sum(steps * config.solver.batch_size / rate for steps, rate in parts)


def saved_seconds(report: Mapping) -> float | None:
    """Per clip, in full batches; None where the test was not timed."""
    longest, adaptive = (row.get("clips_per_s") for row in (report["per_length"][0], report["adaptive"]))
    return 1 / longest - 1 / adaptive if longest and adaptive else None


def memory_of(config: Config, model, training: Training) -> dict[str, float]:
    """GiB of a process in each way to train, estimated as --dry-run does."""
    solver, run = config.solver, build_device(config)
    kinds = {
        "dtype": run.dtype,
        "recompute": solver.activation_checkpointing,
        "fused": run.device.type == "cuda" or run.dtype == torch.float32,
    }
    most = solver.micro_batch_size or training.clips

    def needed(levels: Sequence[int], processes: int) -> float:
        clips = min(most, -(-training.clips // processes))
        whole: StepMemory = step_memory(
            model,
            clips=clips,
            optimizer=solver.optimizer,
            momentum=solver.momentum,
            ema=solver.ema > 0,
            **kinds,
        )
        kept, largest = max(saved_bytes(model, level, clips=clips, **kinds) for level in levels)
        return (whole.total - whole.activations - whole.passing + kept + 4 * largest) / 2**30

    everything = range(len(training.gmacs))
    return {
        "longest length alone": needed([0], 1),
        "sequential": needed(everything, 1),
        "length-parallel": max(needed(levels, count) for levels, count in training.groups),
        "separate networks": max(needed([level], 1) for level in everything),
    }
