"""The test: every video decoded once, every level run on every view, every choice of lengths compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from revit_video.backbones.core import ReViT
from revit_video.competitors.cascade import Cascade
from revit_video.competitors.early_exit import Thresholds
from revit_video.evaluate.adaptive import Stored, summary, tag_table
from revit_video.evaluate.heads import NAMES, Heads
from revit_video.evaluate.run import Scores
from revit_video.report.known_failures import (
    alone_as_good,
    by_length,
    far_below,
    lean_to_short,
    no_better_than_chance,
    one_length,
)
from revit_video.routing.assigner import Assigner
from revit_video.routing.router import Router
from revit_video.routing.rule import Rule
from revit_video.routing.stored import held_out, rule_of, rules_at
from revit_video.stages.choices import Choices, Speeds, choice_tables, rule_kind
from revit_video.stages.exits import exit_tables, time_exits
from revit_video.stages.fewer_frames import FewerFrames, add_fewer_frames
from revit_video.stages.job import EvalJob, all_levels
from revit_video.stages.timing import first_clips, time_lengths
from revit_video.train.log import RunLog

TIMED_CLIPS = 160  # regrouped by length, so that every group fills its batches


@dataclass
class TestJob:
    """A trained recognizer, or a backbone alone, and a test list.

    costs: GMACs of each level.
    assigner: None: every fixed length is tested, and nothing that chooses.
    router: as solved on held-out videos, see `routing.stored`; None likewise.
    exits: thresholds of a cascade, see `stages.exits`; those that were asked for are the first.
    share: `clip` | `video`: whose views run at the same lengths.
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
    heads: Heads = ()  # of several lists of classes, see evaluate.heads
    exits: Sequence[Thresholds] = ()
    fewer_frames: Sequence[FewerFrames] = ()  # baselines
    share: str = "clip"
    memorised: bool = False  # whether the length labels are of videos that the backbone was trained on
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
    """One pass over the list, then tables from the stored logits; wall time on clips of the same list.

    Several processes share the pass. Rank 0 does the rest, and times while the others wait.
    """
    scores = job.evaluation.score(all_levels(job.model, job.assigner), log, title="test")
    fewer = [(one, one.score(log)) for one in job.fewer_frames]
    return job.evaluation.run.world.from_main(lambda: evaluate_scores(job, scores, log, fewer=fewer))


def evaluate_scores(
    job: TestJob, scores: Scores, log: RunLog, *, fewer: Sequence[tuple[FewerFrames, Scores]] = ()
) -> TestResult:
    """The report of a test from the scores of all its videos."""
    stored = stored_of(job, scores)
    lengths = job.model.token_lengths
    fixed = [summary(stored, stored.fixed(level), gmacs=cost) for level, cost in enumerate(stored.costs)]
    report = {"per_length": [{"length": length, **row} for length, row in zip(lengths, fixed, strict=True)]}
    seen = timing(job) if job.throughput else None
    samples = job.evaluation.dataset.samples
    levels = None
    if isinstance(job.model, Cascade):
        for level, row in enumerate(report["per_length"]):
            row["exit"] = job.model.num_exits - level
        report |= exit_tables(stored, job.exits) if job.exits else {}
    if job.assigner is not None:
        speeds = None if seen is None else speeds_of(seen, lengths)
        levels, gmacs = add_choices(report, job, stored, scores, speeds=speeds)
        tags = [samples[i].tag for i in scores.indices.tolist()]
        if any(tags):
            report["tags"] = tag_table(stored, levels, tags, gmacs=gmacs)
    ours = None if levels is None else (scores.indices, stored.hit(levels))
    views = (job.num_clips, job.num_crops)
    frames = job.model.num_frames
    add_fewer_frames(report, fewer, ours=ours, frames=frames, views=views, heads=job.heads)
    report["warnings"] = failures(report, job)
    for line in report["warnings"]:
        log.say(line)
    if seen is not None:
        add_throughput(report, seen)
    report["protocol"] = protocol(job, scores, report)
    scored, missing = report["protocol"]["num_scored"], report["protocol"]["num_unreadable"]
    log.say(f"test: {scored} of {len(samples)} videos scored, {missing} unreadable")
    return TestResult(report, levels, scores.indices)


def stored_of(job: TestJob, scores: Scores) -> Stored:
    logits = scores.values["logits"].unflatten(1, (job.num_clips, job.num_crops))
    return Stored(logits, scores.labels, tuple(job.costs), job.heads)


def failures(report: dict, job: TestJob) -> list[str]:
    """Known ways to fail that the figures show, a line each."""
    lengths, rows = job.model.token_lengths, report["per_length"]
    top1 = by_length(lengths, [row["top1"] for row in rows])
    lines = far_below(top1)
    if "adaptive" in report:
        idle = one_length(report["adaptive"]["share"], where="test clips")
        lines += idle or no_better_than_chance(report["paired"]["random"])
        lines += alone_as_good(rows, report["adaptive"])
        held = held_out(job.router)
        if held is not None and job.memorised:
            labelled = by_length(lengths, (100.0 * held.correct.double().mean(dim=0)).tolist())
            lines += lean_to_short(labelled, top1, where="test videos")
    return lines


def speeds_of(seen: Mapping, lengths: Sequence[int]) -> Speeds:
    """Of what `timing` found."""
    rate = seen["clips_per_s"]
    return Speeds(tuple(1000 / rate[length] for length in lengths), 1000 / rate["assigner"])


def add_choices(
    report: dict, job: TestJob, stored: Stored, scores: Scores, *, speeds: Speeds | None = None
) -> tuple[Tensor, Tensor]:
    """Put the router's choice, its baselines and its curves into the report; the levels (N, C) it chose, and
    what each clip cost (N, C).
    """
    choices = choices_of(job, stored, scores)
    made, levels = choice_tables(choices, job.router, job.model.token_lengths, speeds=speeds)
    report |= made
    gmacs = choices.run_each(rule_of(job.router))[1]
    return levels.expand(-1, job.num_clips), gmacs.expand(-1, job.num_clips)


def choices_of(job: TestJob, stored: Stored, scores: Scores) -> Choices:
    """The clips, or with `share=video` the videos, that share their lengths, and what the assigner wished."""
    wishes = scores.values["assigner"].unflatten(1, (job.num_clips, job.num_crops))
    wishes = wishes[:, :, job.num_crops // 2]  # (N, C, L), of the middle crop
    views = job.num_crops
    if job.share == "video":
        wishes, views = wishes[:, job.num_clips // 2, None], job.num_clips * job.num_crops
        stored = replace(stored, logits=stored.logits.flatten(1, 2)[:, None])
    return Choices(stored, wishes, look=job.router["assigner_cost"], views=views)


def protocol(job: TestJob, scores: Scores, report: dict) -> dict:
    """How the numbers came about, and the accuracies if unreadable videos counted as wrong."""
    num_videos, num_unreadable = len(job.evaluation.dataset.samples), len(scores.unreadable)
    num_scored = num_videos - num_unreadable
    named = {"longest": report["per_length"][0]}
    if "adaptive" in report:
        named["adaptive"] = report["adaptive"]
    measures = ("top1", *(NAMES if job.heads else ()))
    return {
        "views": f"{job.num_clips}x{job.num_crops}",
        "num_videos": num_videos,
        "num_scored": num_scored,
        "num_unreadable": num_unreadable,
        "unreadable": [scores.unreadable[i] for i in sorted(scores.unreadable)][:20],
        **{
            f"{measure}_{name}_of_all_videos": row[measure] * num_scored / num_videos
            for measure in measures
            for name, row in named.items()
        },
        **job.protocol,
    }


def timing(job: TestJob, *, repeats: int = 3) -> dict:
    """Clips per second on clips of the test list, see `stages.timing`."""
    rules: dict[str, Rule] = {}
    if job.assigner is not None:
        rules = rules_at(job.router, job.router["budget"])
        rules = {"adaptive": rule_of(job.router)} | {
            f"{kind} router": rule for kind, rule in rules.items() if kind != rule_kind(job.router)
        }
    routers = {name: router_of(job, rule) for name, rule in rules.items()}
    clips = first_clips(job.evaluation, num_crops=job.num_crops, limit=TIMED_CLIPS)
    if isinstance(job.model, Cascade):
        return time_exits(job.model, clips, job.exits, batch_size=job.batch_size, repeats=repeats)
    return time_lengths(
        job.model, clips, assigner=job.assigner, routers=routers, batch_size=job.batch_size, repeats=repeats
    )


def router_of(job: TestJob, rule: Rule | None = None) -> Router:
    """The tested networks under a rule; None: the one that was asked for."""
    return Router(
        job.model,
        job.assigner,
        costs=job.costs,
        rule=rule or rule_of(job.router),
        look=job.router["assigner_cost"],
        heads=job.heads,
    )


def add_throughput(report: dict, seen: dict) -> None:
    """Put clips/s beside the accuracies, and how much of the saved multiply-adds became saved time."""
    rate = seen["clips_per_s"]
    for row in report["per_length"]:
        row["clips_per_s"] = rate[f"exit {row['exit']}" if "exit" in row else row["length"]]
        row["ms"] = 1000 / row["clips_per_s"]
    if "early_exit" in report:
        report["early_exit"]["clips_per_s"] = rate["early exit"]
    if "adaptive" in report:
        report["adaptive"]["clips_per_s"] = rate["adaptive"]
    report["throughput"] = {**seen, "clips_per_s": {str(name): value for name, value in rate.items()}}
