"""Tested runs that each left out another part of the videos: means over the parts, with their interval."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from revit_video.types import InputError

COLUMNS = {
    "way": ("tokens per frame", ""),
    "mean": ("video@1 %, mean over folds", ".1f"),
    "interval": ("95% interval", ""),
    "each": ("each fold", ""),
    "gmacs": ("GMACs / view", ".4g"),
}
DRAWS = 10_000


def fold_rows(reports: Sequence[Mapping]) -> list[dict]:
    """A row for each length, for the router and its baselines, and for the router minus each of them.

    A fold counts as many times as it has videos. Intervals are a bootstrap over folds: what happens to one
    video of a fold happens to its neighbours too, so that videos are no independent draws.
    """
    if len(reports) < 2:
        raise InputError(f"{len(reports)} run is no set of folds; give the output_dir of two or more")
    tables = [ways_of(report) for report in reports]
    known = {tuple(table) for table in tables}
    if len(known) > 1:
        raise InputError(
            "these runs have other lengths or routers; only folds of one setting can be averaged"
        )
    counts = [report["protocol"]["num_scored"] for report in reports]
    rows = []
    for way in tables[0]:
        values = [table[way]["top1"] for table in tables]
        low, high = over_folds(values, counts)
        sign = "+" if " minus " in way else ""
        rows.append(
            {
                "way": way,
                "mean": np.average(values, weights=counts).item(),
                "interval": f"{low:{sign}.1f} to {high:{sign}.1f}",
                "each": ", ".join(f"{value:{sign}.1f}" for value in values),
                "gmacs": statistics.mean(costs) if all(costs := [t[way]["gmacs"] for t in tables]) else None,
            }
        )
    return rows


def ways_of(report: Mapping) -> dict[str, dict]:
    ways = {f"{row['length']}x{row['length']}": row for row in report["per_length"]}
    if "adaptive" in report:
        ways |= {"adaptive": report["adaptive"]} | report["baselines"]
        paired = report["paired"].items()
        ways |= {f"adaptive minus {n}": {"top1": row["difference"], "gmacs": None} for n, row in paired}
    return ways


def over_folds(values: Sequence[float], counts: Sequence[int], *, seed: int = 0) -> tuple[float, float]:
    """95% interval of the mean over folds, drawn with replacement."""
    drawn = np.random.default_rng(seed).integers(len(values), size=(DRAWS, len(values)))
    weights = np.asarray(counts, float)[drawn]
    means = (np.asarray(values, float)[drawn] * weights).sum(1) / weights.sum(1)
    low, high = np.quantile(means, (0.025, 0.975)).tolist()
    return low, high


def too_few(folds: int) -> str:
    """Whether so many folds can decide anything, in words."""
    surprising = 2 * 0.5**folds  # all folds on one side by luck
    if surprising <= 0.05:
        return ""
    least = math.ceil(math.log2(2 / 0.05))
    return (
        f"WARNING: {folds} folds cannot decide: even if all of them agree on which is better, that happens "
        f"by luck in {100 * surprising:.0f}% of the cases; {least} folds or more are needed"
    )
