"""The test: every video decoded once, every level run on every view, every way of choosing a length compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from revit_video.backbones.core import ReViT
from revit_video.evaluate.adaptive import (
    Stored,
    oracle_baseline,
    random_baseline,
    random_hits,
    shares,
    summary,
    tag_table,
)
from revit_video.evaluate.metrics import paired_difference
from revit_video.report.throughput import interleave
from revit_video.routing.assigner import Assigner
from revit_video.routing.budget import biased_levels, cascade_costs, cascade_levels
from revit_video.routing.router import AssignerRouter, run_at_levels
from revit_video.stages.job import EvalJob, all_levels
from revit_video.train.log import RunLog

THROUGHPUT_CLIPS = 160  # regrouped by length, so that every group fills its batches


@dataclass
class TestJob:
    """A trained recognizer and a test list. `router`: costs, bias, threshold and curve as solved on held-out videos."""

    __test__ = False  # no pytest class

    model: ReViT
    assigner: Assigner
    router: dict
    evaluation: EvalJob
    num_clips: int
    num_crops: int
    batch_size: int
    throughput: bool = True
    protocol: dict = field(default_factory=dict)


@dataclass(frozen=True)
class TestResult:
    """`report` is report.json; `levels` (N, C) are the assigner's choices for the videos at `indices` (N,) of the list."""

    __test__ = False

    report: dict
    levels: Tensor
    indices: Tensor


def run_test(job: TestJob, log: RunLog) -> TestResult:
    """One pass over the list, then tables from the stored logits; wall time on clips of the same list."""
    scores = job.evaluation.score(all_levels(job.model, job.assigner), log, title="test")
    shape = (job.num_clips, job.num_crops)
    stored = Stored(scores.values["logits"].unflatten(1, shape), scores.labels, tuple(job.router["costs"]))
    wishes = scores.values["assigner"].unflatten(1, shape)[:, :, job.num_crops // 2]  # (N, C, L), of the middle crop
    look = job.router["assigner_cost"] / job.num_crops  # GMACs per view: one look per clip, shared by its crops

    def assigned(bias: float) -> Tensor:
        return biased_levels(wishes, stored.costs, bias)

    levels = assigned(job.router["bias"])
    lengths = job.model.token_lengths
    report = {
        "per_length": [
            {"length": n, **summary(stored, stored.fixed(i), gmacs=stored.costs[i])} for i, n in enumerate(lengths)
        ],
        "adaptive": {
            **summary(stored, levels, gmacs=stored.cost(levels) + look),
            "share": dict(zip(map(str, lengths), shares(levels, len(lengths)), strict=True)),
            "budget": job.router["budget"],
            "assigner_gmacs": job.router["assigner_cost"],
        },
        "baselines": {
            "random": random_baseline(stored, levels),
            "oracle": oracle_baseline(stored),
            "cascade": cascade_summary(stored, job.router["threshold"]),
        },
        "curve": {
            "assigner": [
                {"budget": row["budget"], **summary(stored, assigned(row["bias"]), gmacs=stored.cost(assigned(row["bias"])) + look)}
                for row in job.router["curve"]
            ],
            "cascade": [
                {"budget": row["budget"], **cascade_summary(stored, row["threshold"])} for row in job.router["curve"]
            ],
        },
    }
    report["paired"] = {
        f"{n}x{n}": paired_difference(stored.hit(levels), stored.hit(stored.fixed(i))) for i, n in enumerate(lengths)
    }
    report["paired"]["random"] = paired_difference(stored.hit(levels), random_hits(stored, levels).double().mean(dim=0))
    samples = job.evaluation.dataset.samples
    tags = [samples[i].tag for i in scores.indices.tolist()]
    if any(tags):
        report["tags"] = tag_table(stored, levels, tags)
    if job.throughput:
        add_throughput(report, job)
    num_videos, num_unreadable = len(samples), len(scores.unreadable)
    report["protocol"] = {
        "views": f"{job.num_clips}x{job.num_crops}",
        "num_videos": num_videos,
        "num_scored": num_videos - num_unreadable,
        "num_unreadable": num_unreadable,
        "unreadable": [scores.unreadable[i] for i in sorted(scores.unreadable)][:20],
        **job.protocol,
    }
    log.say(f"test: {num_videos - num_unreadable} of {num_videos} videos scored, {num_unreadable} unreadable")
    return TestResult(report, levels, scores.indices)


def cascade_summary(stored: Stored, threshold: float) -> dict[str, float]:
    """Shortest first, on while the largest probability is below the threshold; pays for every pass."""
    levels = cascade_levels(stored.confidence().flatten(0, 1), threshold).view(stored.logits.shape[:2])
    return summary(stored, levels, gmacs=stored.cost(levels, cascade_costs(stored.costs)))


def add_throughput(report: dict, job: TestJob) -> None:
    """Put clips/s beside the accuracies, and how much of the saved multiply-adds became saved time."""
    seen = time_lengths(job)
    for row in report["per_length"]:
        row["clips_per_s"] = seen["clips_per_s"][row["length"]]
    report["adaptive"]["clips_per_s"] = seen["adaptive"]["clips_per_s"]
    report["throughput"] = {
        **{key: seen["adaptive"][key] for key in ("speed_up", "gmacs_ratio", "follows")},
        **{key: seen[key] for key in ("assigner_clips_per_s", "num_clips", "batch_size")},
    }


@torch.inference_mode()
def time_lengths(job: TestJob, *, warmup: int = 1, repeats: int = 3) -> dict:
    """Clips per second of every length and of the assigner's choice, on the same clips, in turns in one process.

    `follows` is the speed-up over the longest length divided by what the multiply-adds promise on these very clips.
    """
    clips = throughput_clips(job)
    router = AssignerRouter(job.model, job.assigner, costs=job.router["costs"], bias=job.router["bias"])
    functions = throughput_functions(router, clips, batch_size=job.batch_size)
    timings = interleave(functions, items=len(clips), warmup=warmup, repeats=repeats)
    costs = job.router["costs"]
    mean = torch.tensor(costs)[router.levels(clips).cpu()].mean().item() + job.router["assigner_cost"]
    adaptive, longest = (timings[name].items_per_s for name in ("adaptive", f"length {job.model.token_lengths[0]}"))
    speed_up, promised = adaptive / longest, costs[0] / mean
    return {
        "clips_per_s": {n: timings[f"length {n}"].items_per_s for n in job.model.token_lengths},
        "assigner_clips_per_s": timings["assigner"].items_per_s,
        "adaptive": {
            "clips_per_s": adaptive,
            "speed_up": speed_up,
            "gmacs_ratio": promised,
            "follows": speed_up / promised,
        },
        "num_clips": len(clips),
        "batch_size": job.batch_size,
    }


def throughput_clips(job: TestJob) -> Tensor:
    """The first clips of the test list, middle crops, ready for the model: (M, C, T, H, W) with M up to THROUGHPUT_CLIPS."""
    dataset, run = job.evaluation.dataset, job.evaluation.run
    clips: list[Tensor] = []
    for index in range(len(dataset)):
        item = dataset[(0, index)]
        if item.clips is not None:
            clips += item.clips[job.num_crops // 2 :: job.num_crops]
        if len(clips) >= THROUGHPUT_CLIPS:
            break
    return run.to_clips(torch.stack(clips[:THROUGHPUT_CLIPS]), dtype=run.dtype)


def throughput_functions(router: AssignerRouter, clips: Tensor, *, batch_size: int) -> dict[str, Callable[[], object]]:
    """What is timed: each fixed length in batches, and the whole adaptive way (look, regroup, run, put back in order)."""

    def fixed(level: int) -> Callable[[], object]:
        levels = torch.full((len(clips),), level, device=clips.device)
        return lambda: run_at_levels(router.backbone, clips, levels, batch_size=batch_size)

    lengths: Sequence[int] = router.backbone.token_lengths
    functions = {f"length {n}": fixed(level) for level, n in enumerate(lengths)}
    functions["assigner"] = lambda: router.levels(clips)
    functions["adaptive"] = lambda: router(clips, batch_size=batch_size)
    return functions
