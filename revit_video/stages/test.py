"""The test: every video decoded once, every level run on every view, every choice of lengths compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

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
from revit_video.evaluate.run import Scores
from revit_video.routing.assigner import Assigner
from revit_video.routing.budget import biased_levels, cascade_costs, cascade_levels
from revit_video.routing.router import AssignerRouter
from revit_video.stages.job import EvalJob, all_levels
from revit_video.stages.timing import first_clips, time_lengths
from revit_video.train.log import RunLog

TIMED_CLIPS = 160  # regrouped by length, so that every group fills its batches


@dataclass
class TestJob:
    """A trained recognizer and a test list.

    router: costs, assigner_cost, budget, bias, threshold and curve, as solved on held-out videos.
    """

    __test__ = False  # no pytest class

    model: ReViT
    assigner: Assigner
    router: dict
    evaluation: EvalJob
    num_clips: int
    num_crops: int
    batch_size: int
    class_names: Sequence[str]
    title: str  # of the pictures
    throughput: bool = True
    plots: bool = True
    sheet_clips: int = 6  # clips of each length on the sheet; 0: no sheet
    protocol: dict = field(default_factory=dict)


@dataclass(frozen=True)
class TestResult:
    """`report` is report.json; `levels` (N, C) are the assigner's choices for the videos at `indices` (N,) of
    the list.
    """

    __test__ = False

    report: dict
    levels: Tensor
    indices: Tensor


def run_test(job: TestJob, log: RunLog) -> TestResult:
    """One pass over the list, then tables from the stored logits; wall time on clips of the same list."""
    scores = job.evaluation.score(all_levels(job.model, job.assigner), log, title="test")
    shape = (job.num_clips, job.num_crops)
    stored = Stored(scores.values["logits"].unflatten(1, shape), scores.labels, tuple(job.router["costs"]))
    wishes = scores.values["assigner"].unflatten(1, shape)[:, :, job.num_crops // 2]  # (N, C, L), middle crop
    look = job.router["assigner_cost"] / job.num_crops  # GMACs per view: one look per clip, for all its crops

    def assigned(bias: float) -> tuple[Tensor, dict[str, float]]:
        levels = biased_levels(wishes, stored.costs, bias)
        return levels, summary(stored, levels, gmacs=stored.cost(levels) + look)

    levels, adaptive = assigned(job.router["bias"])
    lengths = job.model.token_lengths
    fixed = [summary(stored, stored.fixed(level), gmacs=cost) for level, cost in enumerate(stored.costs)]
    share = dict(zip(map(str, lengths), shares(levels, len(lengths)), strict=True))
    router = {"budget": job.router["budget"], "assigner_gmacs": job.router["assigner_cost"]}
    curve = job.router["curve"]
    report = {
        "per_length": [{"length": length, **row} for length, row in zip(lengths, fixed, strict=True)],
        "adaptive": {**adaptive, "share": share, **router},
        "baselines": {
            "random": random_baseline(stored, levels),
            "oracle": oracle_baseline(stored),
            "cascade": cascade_summary(stored, job.router["threshold"]),
        },
        "paired": paired_rows(stored, levels, lengths),
        "curve": {
            "assigner": [{"budget": row["budget"], **assigned(row["bias"])[1]} for row in curve],
            "cascade": [
                {"budget": row["budget"], **cascade_summary(stored, row["threshold"])} for row in curve
            ],
        },
    }
    samples = job.evaluation.dataset.samples
    tags = [samples[i].tag for i in scores.indices.tolist()]
    if any(tags):
        report["tags"] = tag_table(stored, levels, tags)
    if job.throughput:
        add_throughput(report, timing(job))
    report["protocol"] = protocol(job, scores, report)
    scored, missing = report["protocol"]["num_scored"], report["protocol"]["num_unreadable"]
    log.say(f"test: {scored} of {len(samples)} videos scored, {missing} unreadable")
    return TestResult(report, levels, scores.indices)


def protocol(job: TestJob, scores: Scores, report: dict) -> dict:
    """How the numbers came about, and the accuracies if unreadable videos counted as wrong."""
    num_videos, num_unreadable = len(job.evaluation.dataset.samples), len(scores.unreadable)
    num_scored = num_videos - num_unreadable
    return {
        "views": f"{job.num_clips}x{job.num_crops}",
        "num_videos": num_videos,
        "num_scored": num_scored,
        "num_unreadable": num_unreadable,
        "unreadable": [scores.unreadable[i] for i in sorted(scores.unreadable)][:20],
        "top1_longest_of_all_videos": report["per_length"][0]["top1"] * num_scored / num_videos,
        "top1_adaptive_of_all_videos": report["adaptive"]["top1"] * num_scored / num_videos,
        **job.protocol,
    }


def paired_rows(stored: Stored, levels: Tensor, lengths: Sequence[int]) -> dict[str, dict[str, float]]:
    """The choice `levels` (N, C) against each fixed length and random shares, over the same videos."""
    ours = stored.hit(levels)
    rows = {f"{n}x{n}": paired_difference(ours, stored.hit(stored.fixed(i))) for i, n in enumerate(lengths)}
    return rows | {"random": paired_difference(ours, random_hits(stored, levels).double().mean(dim=0))}


def cascade_summary(stored: Stored, threshold: float) -> dict[str, float]:
    """Shortest first, on while the largest probability is below the threshold; pays for every pass."""
    levels = cascade_levels(stored.confidence().flatten(0, 1), threshold).view(stored.logits.shape[:2])
    return summary(stored, levels, gmacs=stored.cost(levels, cascade_costs(stored.costs)))


def timing(job: TestJob, *, repeats: int = 3) -> dict:
    """Clips per second on clips of the test list, see `stages.timing`."""
    router = AssignerRouter(job.model, job.assigner, costs=job.router["costs"], bias=job.router["bias"])
    clips = first_clips(job.evaluation, num_crops=job.num_crops, limit=TIMED_CLIPS)
    return time_lengths(
        router, clips, assigner_gmacs=job.router["assigner_cost"], batch_size=job.batch_size, repeats=repeats
    )


def add_throughput(report: dict, seen: dict) -> None:
    """Put clips/s beside the accuracies, and how much of the saved multiply-adds became saved time."""
    rate = seen["clips_per_s"]
    for row in report["per_length"]:
        row["clips_per_s"] = rate[row["length"]]
    report["adaptive"]["clips_per_s"] = rate["adaptive"]
    report["throughput"] = {**seen, "clips_per_s": {str(name): value for name, value in rate.items()}}
