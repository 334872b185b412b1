"""A comparison from its command line: train what is missing, test, time, write the table."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict

import yaml

from revit_video import build
from revit_video.compare.methods import comparison_of
from revit_video.compare.points import Point, points_of, test_job_of
from revit_video.compare.rows import Comparison, Row
from revit_video.compare.runs import Study, run_row, training_cost, training_seconds
from revit_video.compare.table import differences, mean_curves, table_row, write_result
from revit_video.compare.timing import time_points
from revit_video.config import load_config
from revit_video.report.provenance import provenance
from revit_video.report.tables import console_table
from revit_video.stages.job import RunFolder
from revit_video.train.log import RunLog
from revit_video.types import InputError, Stopped

DEFAULT_SEEDS = (0, 1, 2)
PLAN = {
    "row": ("row", ""),
    "state": ("seeds", ""),
    "steps": ("steps", ",d"),
    "params": ("parameters", ",d"),
    "gmacs": ("training GMACs of a seed", ",.0f"),
    "overrides": ("what differs", ""),
}
OWN = ("methods", "seeds", "ablation", "rows", "against")  # keys of the command line that are no settings


def split_words(words: Sequence[str]) -> tuple[dict[str, object], list[str]]:
    """What the comparison itself is told, and the settings for all rows."""
    own, settings = {}, []
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key in OWN:
            own[key] = yaml.safe_load(value)
        elif key in ("seed", "resume", "stage"):
            raise InputError(f"{key} is set by the comparison for each run; leave {word} out (seeds=[0,1,2])")
        else:
            settings.append(word)
    return own, settings


def asked_for(own: Mapping[str, object], *, images: bool) -> Comparison:
    """The rows of `methods=` or `ablation=`; of an ablation those of `rows=` alone."""
    if ("methods" in own) == ("ablation" in own):
        raise InputError("give either methods=[longest,revit,...] or ablation=NAME")
    if "methods" in own:
        if "rows" in own:
            raise InputError("rows=[...] are some rows of an ablation; with methods=[...] name them there")
        return comparison_of(names_of(own, "methods", "[longest,revit]"), images=images)
    from revit_video.compare.ablations import ABLATIONS

    if own["ablation"] not in ABLATIONS:
        raise InputError(f"no ablation named {own['ablation']!r}; there are: {', '.join(ABLATIONS)}")
    whole = ABLATIONS[own["ablation"]]
    return whole.only(names_of(own, "rows", "[soft,hard]")) if "rows" in own else whole


def names_of(own: Mapping[str, object], key: str, example: str) -> list[str]:
    names = own[key]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"{key} is {names!r}, but must be a list of names such as {example}")
    return names


def seeds_of(own: Mapping[str, object]) -> tuple[int, ...]:
    seeds = own.get("seeds", list(DEFAULT_SEEDS))
    whole = isinstance(seeds, list) and seeds and all(isinstance(seed, int) and seed >= 0 for seed in seeds)
    if not whole or len(set(seeds)) < len(seeds):
        raise InputError(f"seeds is {seeds!r}, but must be a list of different whole numbers such as [0,1,2]")
    return tuple(seeds)


def against_of(own: Mapping[str, object], comparison: Comparison) -> str:
    """What accuracies are compared with: a row or one of its points (`revit, cascade`); the first row if
    nothing is said.
    """
    names = [row.name for row in comparison.rows]
    against = own.get("against", names[0])
    if not isinstance(against, str) or against.partition(", ")[0] not in names:
        raise InputError(
            f"against is {against!r}, but must be a row, or one of its points such as 'revit, cascade'; the "
            f"rows are: {', '.join(names)}"
        )
    return against


def compare(cfg: str, words: Sequence[str], *, dry_run: bool = False) -> int:
    """Exit code: 0, or 1 where a row could not be finished; it is named."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise InputError(
            "a comparison runs in one process, where it also measures; train single rows with torchrun and "
            "tools/train_net.py into output_dir/ROW/seedN, and it takes them as they are"
        )
    own, given = split_words(words)
    config = load_config(cfg, given)
    title = build.comparison_title(config)
    comparison = asked_for(own, images=title["images"])
    folder = build.run_plan(config).output_dir
    against = against_of(own, comparison)
    study = Study.of(comparison, cfg, given, seeds_of(own), folder)
    if dry_run:
        return show_plan(study)
    failed = train_all(study)
    result = collect(study, comparison, title, failed, against=against)
    write_result(result, folder)
    print(f"\ncomparison: {folder / 'comparison.md'}")
    for name, why in failed.items():
        print(f"FAILED: {name}: {why}", file=sys.stderr)
    return 1 if failed else 0


def show_plan(study: Study) -> int:
    """What would be trained, and at what cost; 1 where a row could not be."""
    rows, failed = [], {}
    for row in study.rows:
        with noting(row.name, failed):
            rows.append(plan_row(study, row))
    console_table(rows, PLAN)
    for name, why in failed.items():
        print(f"PROBLEM: {name}: {why}", file=sys.stderr)
    print("nothing was trained or written; without --dry-run what is missing would be trained")
    return 1 if failed else 0


def plan_row(study: Study, row: Row) -> dict:
    """What of a row is there, and what a seed of it takes."""
    done = [seed for seed in study.seeds if RunFolder(study.path(row, seed)).revit.exists()]
    left = [seed for seed in study.seeds if seed not in done]
    state = [f"trained: {', '.join(map(str, done))}"] * bool(done) + [
        f"{'to train' if row.train else 'to take over'}: {', '.join(map(str, left))}"
    ] * bool(left)
    plan = training_cost(study, row, study.seeds[0])
    overrides = " ".join(row.overrides) or "-"
    start = f" from {row.starts_from}" if row.starts_from else ""
    return {**plan, "row": row.name, "state": "; ".join(state), "overrides": overrides + start}


def train_all(study: Study) -> dict[str, str]:
    """Every row with every seed; what went wrong, by `row, seed N`. The others go on."""
    failed = {}
    for row in study.rows:
        for seed in study.seeds:
            print(f"\n== {row.name}, seed {seed}", flush=True)
            with noting(f"{row.name}, seed {seed}", failed):
                run_row(study, row, seed)
    return failed


def reason(error: Exception) -> str:
    """In one line; what is no mistake of the user shows its traceback."""
    if not isinstance(error, (InputError, OSError)):
        traceback.print_exception(error)
    return " ".join(f"{'' if isinstance(error, InputError) else type(error).__name__ + ': '}{error}".split())


def collect(
    study: Study,
    comparison: Comparison,
    title: Mapping,
    failed: dict[str, str],
    *,
    against: str,
) -> dict:
    """Test all that is trained, and time the first seed of every row. What fails is added to `failed`.

    against: what accuracies are compared with, see `differences`.
    """
    log, rows, curves, jobs, everything = RunLog(None), [], {}, {}, {}
    for row in study.rows:
        found: dict[int, tuple[list[Point], dict]] = {}
        for seed in study.seeds:
            name = f"{row.name}, seed {seed}"
            if name not in failed:
                with noting(name, failed):
                    config, run = study.config(row, seed), RunFolder(study.path(row, seed))
                    found[seed] = points_of(config, row, run, log)
        if found:
            with noting(row.name, failed):
                first = next(iter(found))
                job = test_job_of(study.config(row, first), row, RunFolder(study.path(row, first)))
                points = by_point({seed: points for seed, (points, _) in found.items()})
                rows += rows_of(study, row, points)
                everything |= {(row.name, name): list(seeds.values()) for name, seeds in points.items()}
                curves[row.name] = mean_curves([curve for _, curve in found.values()])
                jobs[row] = job
    over: dict[str, dict] = {}
    if everything:
        with noting("differences", failed):
            over = differences(everything, against)
    timed: dict[str, dict] = {}
    with noting("timing", failed):
        timed = time_points(jobs, batch_size=title["batch_size"]) if jobs else {}
    return {
        "title": dict(title),
        "seeds": list(study.seeds),
        "against": against,
        "rows": [{**row, "over": over.get(row["title"]), **timed.get(row["title"], {})} for row in rows],
        "curves": curves,
        "published": [asdict(one) for one in comparison.published],
        "failed": failed,
        "protocol": surroundings(jobs),
    }


@contextmanager
def noting(name: str, failed: dict[str, str]) -> Iterator[None]:
    """What goes wrong inside is noted under a name, and the comparison goes on; a signal ends it."""
    try:
        yield
    except Stopped:
        raise
    except Exception as error:
        failed[name] = reason(error)


def by_point(found: Mapping[int, list[Point]]) -> dict[str, dict[int, Point]]:
    """The seeds of each of a row's points, by name."""
    return {
        name: {seed: point for seed, points in found.items() for point in points if point.name == name}
        for name in [point.name for point in next(iter(found.values()))]
    }


def rows_of(study: Study, row: Row, found: Mapping[str, Mapping[int, Point]]) -> list[dict]:
    """The table's rows of a row: its points."""
    seeds = list(next(iter(found.values())))
    cost = training_cost(study, row, seeds[0])
    seconds = [training_seconds(study, row, seed, clips=cost["clips"]) for seed in seeds]
    shared = {
        "params": cost["params"],
        "training_gmacs": cost["gmacs"],
        "training_s": sum(seconds) / len(seconds),
    }
    return [{**table_row(row.name, name, by_seed), **shared} for name, by_seed in found.items()]


def surroundings(jobs: Mapping) -> dict:
    """Of the measurements."""
    if not jobs:
        return {}
    job = next(iter(jobs.values()))
    return provenance(device=job.evaluation.run.device, dtype=job.evaluation.run.dtype, seed=None)
