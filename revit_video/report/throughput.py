"""Wall time of a call, or of items that pass through: warm, synchronised, median. Several take turns, so that
drift hits all alike.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from revit_video.types import InputError


@dataclass(frozen=True)
class Timing:
    """What a call took: the median, as a mean hides a stalled run, and p90, to show how restless it was."""

    items_per_s: float  # items of one call / median
    ms_median: float  # of one call
    ms_p90: float


def time_model(fn: Callable[[], object], *, items: int, warmup: int = 3, repeats: int = 10) -> Timing:
    """Time `fn()`, which handles `items` clips (or frames, or videos) per call.

    `fn` decides about autocast and gradients:

        with torch.inference_mode():
            timing = time_model(lambda: model(clips, level=1), items=len(clips))
    """
    return interleave({"fn": fn}, items=items, warmup=warmup, repeats=repeats)["fn"]


def interleave(
    fns: dict[str, Callable[[], object]], *, items: int, warmup: int = 3, repeats: int = 10
) -> dict[str, Timing]:
    """Time several functions in turns (a b c, a b c, ...) in this process; the way to measure a ratio.

    Args:
        items: clips per call, the same for every function.
        warmup: rounds that run and are forgotten.
        repeats: rounds that count.
    """
    if not fns or items < 1 or warmup < 0 or repeats < 1:
        raise InputError(
            f"cannot time {len(fns)} functions with items={items}, warmup={warmup}, repeats={repeats}; "
            "expected at least one function, one item and one repeat"
        )
    seconds: dict[str, list[float]] = {name: [] for name in fns}
    for turn in range(warmup + repeats):
        for name, fn in fns.items():
            took = _seconds(fn)
            if turn >= warmup:
                seconds[name].append(took)
    return {name: _timing(took, items=items) for name, took in seconds.items()}


@dataclass(frozen=True)
class Flow:
    """How items got through: the rate, and how long one took from being asked for until it was done."""

    items_per_s: float  # items of a round / median of the rounds
    ms_p50: float  # over the items of all rounds
    ms_p95: float


Way = Callable[[Iterator[Any]], Iterator[int]]  # takes items, and says how many more are done, in their order


def flows(
    ways: Mapping[Any, Way], items: Callable[[], Iterable], *, warmup: int = 1, repeats: int = 3
) -> dict[Any, Flow]:
    """Time several ways to handle the same items, in turns: a round of a way sees all of them.

    Args:
        items: gives them anew for each round. What that takes (decoding) is part of the time.
        warmup, repeats: rounds of each way that are forgotten, and that count.
    """
    if not ways or warmup < 0 or repeats < 1:
        raise InputError(
            f"cannot time {len(ways)} ways with warmup={warmup}, repeats={repeats}; "
            "expected at least one way and one repeat"
        )
    rounds: dict[Any, list[tuple[float, list[float]]]] = {name: [] for name in ways}
    for turn in range(warmup + repeats):
        for name, way in ways.items():
            seen = _round(way, items)
            if turn >= warmup:
                rounds[name].append(seen)
    return {name: _flow(seen) for name, seen in rounds.items()}


def _round(way: Way, items: Callable[[], Iterable]) -> tuple[float, list[float]]:
    """Seconds of all items together, and of each."""
    asked, done = [], []

    def handed() -> Iterator:
        source = iter(items())
        while True:
            began = time.perf_counter()
            try:
                item = next(source)
            except StopIteration:
                return
            asked.append(began)
            yield item

    _synchronize()
    start = time.perf_counter()
    for count in way(handed()):
        _synchronize()
        done += [time.perf_counter()] * count
    assert done and len(done) == len(asked), f"{len(done)} of {len(asked)} items came out"
    return done[-1] - start, [end - began for began, end in zip(asked, done, strict=True)]


def _flow(rounds: list[tuple[float, list[float]]]) -> Flow:
    each = sorted(1e3 * took for _, waits in rounds for took in waits)
    whole = statistics.median(seconds for seconds, _ in rounds)
    return Flow(len(rounds[0][1]) / whole, nearest_rank(each, 0.5), nearest_rank(each, 0.95))


def nearest_rank(rising: list[float], share: float) -> float:
    return rising[math.ceil(share * len(rising)) - 1]


def _seconds(fn: Callable[[], object]) -> float:
    _synchronize()
    start = time.perf_counter()
    fn()
    _synchronize()
    return time.perf_counter() - start


def _synchronize() -> None:
    """Wait for the GPU, if this process uses one: its calls return before the work is done."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _timing(seconds: list[float], *, items: int) -> Timing:
    median = statistics.median(seconds)
    p90 = nearest_rank(sorted(seconds), 0.9)
    return Timing(items_per_s=items / median, ms_median=median * 1e3, ms_p90=p90 * 1e3)
