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
    """A trained recognizer, or a backbone alone, and a test list.

    costs: GMACs of each level.
    assigner: None: every fixed length is tested, and nothing that chooses.
    router: assigner_cost, budget, bias, threshold and curve, as solved on held-out videos; None likewise.
    """

    __test__ = False  # no pytest class

    model: ReViT
    costs: Sequence[float]
    assigner: Assigner | None
    router: dict | None
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
    the list, None without one.
    """

    __test__ = False

    report: dict
    levels: Tensor | None
    indices: Tensor


def run_test(job: TestJob, log: RunLog) -> TestResult:
    """One pass over the list, then tables from the stored logits; wall time on clips of the same list."""
    scores = job.evaluation.score(all_levels(job.model, job.assigner), log, title="test")
    logits = scores.values["logits"].unflatten(1, (job.num_clips, job.num_crops))
    stored = Stored(logits, scores.labels, tuple(job.costs))
    lengths = job.model.token_lengths
    fixed = [summary(stored, stored.fixed(level), gmacs=cost) for level, cost in enumerate(stored.costs)]
    report = {"per_length": [{"length": length, **row} for length, row in zip(lengths, fixed, strict=True)]}
    samples = job.evaluation.dataset.samples
    levels = None
    if job.assigner is not None:
        levels = add_choices(report, job, stored, scores)
        tags = [samples[i].tag for i in scores.indices.tolist()]
        if any(tags):
            report["tags"] = tag_table(stored, levels, tags)
    if job.throughput:
        add_throughput(report, timing(job))
    report["protocol"] = protocol(job, scores, report)
    scored, missing = report["protocol"]["num_scored"], report["protocol"]["num_unreadable"]
    log.say(f"test: {scored} of {len(samples)} videos scored, {missing} unreadable")
    return TestResult(report, levels, scores.indices)


def add_choices(report: dict, job: TestJob, stored: Stored, scores: Scores) -> Tensor:
    """Put the assigner's choice, its baselines and its curves into the report; the levels (N, C) it chose."""
    wishes = scores.values["assigner"].unflatten(1, (job.num_clips, job.num_crops))
    wishes = wishes[:, :, job.num_crops // 2]  # (N, C, L), of the middle crop
    look = job.router["assigner_cost"] / job.num_crops  # GMACs per view: one look per clip, for all its crops

    def assigned(bias: float) -> tuple[Tensor, dict[str, float]]:
        levels = biased_levels(wishes, stored.costs, bias)
        return levels, summary(stored, levels, gmacs=stored.cost(levels) + look)

    levels, adaptive = assigned(job.router["bias"])
    lengths, curve = job.model.token_lengths, job.router["curve"]
    share = dict(zip(map(str, lengths), shares(levels, len(lengths)), strict=True))
    router = {"budget": job.router["budget"], "assigner_gmacs": job.router["assigner_cost"]}
    report |= {
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
    return levels


def protocol(job: TestJob, scores: Scores, report: dict) -> dict:
    """How the numbers came about, and the accuracies if unreadable videos counted as wrong."""
    num_videos, num_unreadable = len(job.evaluation.dataset.samples), len(scores.unreadable)
    num_scored = num_videos - num_unreadable
    named = {"longest": report["per_length"][0]}
    if "adaptive" in report:
        named["adaptive"] = report["adaptive"]
    return {
        "views": f"{job.num_clips}x{job.num_crops}",
        "num_videos": num_videos,
        "num_scored": num_scored,
        "num_unreadable": num_unreadable,
        "unreadable": [scores.unreadable[i] for i in sorted(scores.unreadable)][:20],
        **{
            f"top1_{name}_of_all_videos": row["top1"] * num_scored / num_videos for name, row in named.items()
        },
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
    solved = job.router or {"bias": 0.0, "assigner_cost": 0.0}
    router = AssignerRouter(job.model, job.assigner, costs=job.costs, bias=solved["bias"])
    clips = first_clips(job.evaluation, num_crops=job.num_crops, limit=TIMED_CLIPS)
    return time_lengths(
        router, clips, assigner_gmacs=solved["assigner_cost"], batch_size=job.batch_size, repeats=repeats
    )


def add_throughput(report: dict, seen: dict) -> None:
    """Put clips/s beside the accuracies, and how much of the saved multiply-adds became saved time."""
    rate = seen["clips_per_s"]
    for row in report["per_length"]:
        row["clips_per_s"] = rate[row["length"]]
    if "adaptive" in report:
        report["adaptive"]["clips_per_s"] = rate["adaptive"]
    report["throughput"] = {**seen, "clips_per_s": {str(name): value for name, value in rate.items()}}
