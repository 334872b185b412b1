"""Wall time of a call: warm, synchronised, median. Several calls take turns, so that drift hits all alike."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

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
    p90 = sorted(seconds)[math.ceil(0.9 * len(seconds)) - 1]  # nearest rank
    return Timing(items_per_s=items / median, ms_median=median * 1e3, ms_p90=p90 * 1e3)
