"""The points of a run: what it is worth on the test list in each way it can be run, video by video."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from revit_video import build
from revit_video.compare.rows import ADAPTIVE, EXITS, Row
from revit_video.config import Config
from revit_video.evaluate.adaptive import Stored, random_hits
from revit_video.evaluate.run import Scores
from revit_video.report.run_report import write_report
from revit_video.routing.stored import rule_of, rules_at
from revit_video.stages.exits import every_view, left_at
from revit_video.stages.job import RunFolder, all_levels
from revit_video.stages.test import TestJob, choices_of, evaluate_scores, stored_of
from revit_video.train.checkpoint import file_digest
from revit_video.train.log import RunLog

RANDOM = "random choice"  # the assigner's shares of lengths dealt to clips by lot: nothing to time


@dataclass(frozen=True)
class Point:
    """One way to run a row. name: of the point in its row, "" for a row of one point. gmacs: mean of a view.
    hits: of each video of the list by its place, how right it is (a share for a mean over draws).
    """

    name: str
    gmacs: float
    hits: Mapping[int, float]


def test_job_of(config: Config, row: Row, folder: RunFolder) -> TestJob:
    """The test of a row's run. Timing comes later, for all rows together."""
    checkpoint = folder.recognizer if row.reads == ADAPTIVE else folder.revit
    return replace(build.test_job(config, checkpoint, build.build_device(config)), throughput=False)


def points_of(config: Config, row: Row, folder: RunFolder, log: RunLog) -> tuple[list[Point], dict]:
    """The points of a finished run and its curves, from `points.json` where the same test was done before;
    else after one pass over the test list, which leaves report.json too.
    """
    checkpoint = folder.recognizer if row.reads == ADAPTIVE else folder.revit
    key = {"checkpoint": file_digest(checkpoint), **build.tested_with(config)}
    file = folder.path / "points.json"
    if file.exists() and (kept := json.loads(file.read_text()))["key"] == key:
        return [read_point(one) for one in kept["points"]], kept["curve"]
    job = test_job_of(config, row, folder)
    scores = job.evaluation.score(all_levels(job.model, job.assigner), log, title=f"test of {row.name}")
    report = evaluate_scores(job, scores, log).report
    write_report(report, folder.path)
    points, curve = list(measured_points(job, row, scores)), report.get("curve", {})
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps({"key": key, "points": [vars(one) for one in points], "curve": curve}))
    partial.replace(file)
    return points, curve


def read_point(kept: Mapping) -> Point:
    return Point(kept["name"], kept["gmacs"], {int(index): hit for index, hit in kept["hits"].items()})


def measured_points(job: TestJob, row: Row, scores: Scores) -> Iterator[Point]:
    stored, places = stored_of(job, scores), scores.indices.tolist()

    def point(name: str, gmacs: float, hit: Tensor) -> Point:
        return Point(name, gmacs, dict(zip(places, hit.double().tolist(), strict=True)))

    for level, name in enumerate(level_names(job, row)):
        yield point(name, stored.costs[level], stored.hit(stored.fixed(level)))
    if row.reads == EXITS:
        each = every_view(stored)
        levels = left_at(each, job.exits[0].values)
        yield point("early exit", each.cost(levels), each.hit(levels))
    elif row.reads == ADAPTIVE:
        choices = choices_of(job, stored, scores)
        for kind, rule in rules_at(job.router, job.router["budget"]).items():
            levels, gmacs = choices.run(rule)
            yield point(kind, gmacs, choices.stored.hit(levels))
        yield random_point(choices.stored, choices.run(rule_of(job.router))[0], point)


def random_point(stored: Stored, levels: Tensor, point) -> Point:
    return point(RANDOM, stored.cost(levels), random_hits(stored, levels).double().mean(dim=0))


def level_names(job: TestJob, row: Row) -> list[str]:
    """Of the points of the levels, longest first."""
    lengths: Sequence[int] = job.model.token_lengths
    if row.reads == EXITS:
        return [f"exit {len(lengths) - i} ({n}x{n})" for i, n in enumerate(lengths)]
    return [f"{n}x{n}" for n in lengths] if len(lengths) > 1 else [""]


def title_of(row: str, point: str) -> str:
    return f"{row}, {point}" if point else row
