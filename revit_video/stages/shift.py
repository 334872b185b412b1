"""A recognizer on videos of another kind than it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console

from revit_video.evaluate.heads import best_labels
from revit_video.stages.job import all_levels
from revit_video.stages.test import TestJob, evaluate_scores, run_test, stored_of
from revit_video.train.log import RunLog

COLUMNS = {
    "videos": ("videos", ""),
    "count": ("number", "d"),
    "measure": ("right by", ""),
    "way": ("tokens per frame", ""),
    "top1": ("video@1 %", ".1f"),
    "gmacs": ("GMACs / view", ".4g"),
    "saved": ("saved %", ".1f"),
    "share": ("share of the clips", ""),
}
LABEL, LONGEST = "label", "the longest length"


def shift_report(job: TestJob, log: RunLog, *, labelled: bool) -> dict:
    """The report of a test. Where the videos have no labels of the model's, the classes that the longest
    length sees in them are taken for their labels: accuracies are then agreement with that length.
    """
    job = replace(job, throughput=False)
    if labelled:
        return run_test(job, log).report
    scores = job.evaluation.score(all_levels(job.model, job.assigner), log, title="test")
    stored = stored_of(job, scores)
    seen = best_labels(stored.video_scores(stored.fixed(0)), job.heads)
    quiet = RunLog(None, console=Console(quiet=True))  # its warnings are about labels
    return evaluate_scores(job, replace(scores, labels=seen), quiet).report


def shift_rows(name: str, report: dict, *, labelled: bool) -> list[dict]:
    """Rows of the table for one set of videos: every length, the router, what it is compared with."""
    longest = report["per_length"][0]["gmacs"]
    ways = {f"{row['length']}x{row['length']}": row for row in report["per_length"]}
    adaptive = report["adaptive"]
    ways |= {f"adaptive ({adaptive['router']})": adaptive}
    ways |= {way: report["baselines"][way] for way in ("random", "oracle")}
    return [
        {
            "videos": name,
            "count": report["protocol"]["num_scored"],
            "measure": LABEL if labelled else LONGEST,
            "way": way,
            "top1": row["top1"],
            "gmacs": row["gmacs"],
            "saved": 100 * (1 - row["gmacs"] / longest),
            "share": shares_in_words(row.get("share", {})),
        }
        for way, row in ways.items()
    ]


def shares_in_words(share: dict[str, float]) -> str:
    return ", ".join(f"{length}: {100 * part:.0f}%" for length, part in share.items())


def spread(items: Sequence, count: int) -> list:
    """At most `count` of the items (0: all), evenly spaced, the first among them."""
    if not count or count >= len(items):
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]
