"""After how many clips the training of several lengths has paid for itself, by multiply-adds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PASSES = 3  # of a training step, in forward passes: one forward, twice its work backward
COLUMNS = {
    "mode": ("training", ""),
    "processes": ("processes", "d"),
    "train_pmacs": ("1e15 multiply-adds", ",.4g"),
    "relative_time": ("time, of one length's", ".2f"),
    "memory_gib": ("GiB in a process", ".3g"),
    "weights": ("networks to keep", "d"),
    "extra_pmacs": ("extra, 1e15", ",.4g"),
    "clips": ("clips until it pays", ",.0f"),
    "clips_in_time": ("clips until it pays in time", ",.0f"),
}


@dataclass(frozen=True)
class Training:
    """A run's stage 1 and what comes after it, in numbers.

    gmacs: of a clip at each length, longest first. clips: of a step. grow_steps: of the steps, at the
        shortest length alone. groups: levels and processes of each group of a length-parallel training.
    later_gmacs: multiply-adds of length labels and assigner.
    """

    gmacs: Sequence[float]
    clips: int
    steps: int
    grow_steps: int
    groups: Sequence[tuple[Sequence[int], int]]
    later_gmacs: float

    @property
    def grown(self) -> int:
        return self.steps - self.grow_steps

    def of_length(self, level: int) -> float:
        """GMACs of a network of one length, trained by itself for as many steps."""
        return PASSES * self.clips * self.steps * self.gmacs[level]

    def together(self) -> float:
        """GMACs of stage 1, in one process or over several."""
        each_step = self.grown * sum(self.gmacs) + self.grow_steps * self.gmacs[-1]
        return PASSES * self.clips * each_step

    def slowest(self) -> float:
        """GMACs of the slowest process of the length-parallel training: the others wait for it."""
        processes = sum(count for _, count in self.groups)
        most = max(sum(self.gmacs[i] for i in levels) / count for levels, count in self.groups)
        return PASSES * self.clips * (self.grown * most + self.grow_steps * self.gmacs[-1] / processes)


def payback_rows(
    run: Training,
    *,
    adaptive: float,
    memory: dict[str, float],
    seconds_per_gmac: float | None = None,
    saved_seconds: float | None = None,
) -> list[dict]:
    """A row per way to train; `extra` is what it costs more than one network of the longest length.

    adaptive: GMACs of a view, on average. memory: GiB of a process, by the names of the rows.
    seconds_per_gmac: of training. saved_seconds: per clip, against the longest length. None where one of the
        two was not measured; a saving that is not above 0 never pays, and has no number.
    """
    one, levels = run.of_length(0), len(run.gmacs)
    processes = sum(count for _, count in run.groups)
    separate = sum(run.of_length(level) for level in range(levels))
    ways = {  # GMACs of all processes, of the slowest one, processes, networks
        "longest length alone": (one, one, 1, 1),
        "sequential": (run.together(), run.together(), 1, 1),
        "length-parallel": (run.together(), run.slowest(), processes, 1),
        "separate networks": (separate, separate, 1, levels),
    }
    rows = []
    for mode, (total, slowest, count, weights) in ways.items():
        alone = mode == "longest length alone"
        extra = 0.0 if alone else total - one + run.later_gmacs
        rows.append(
            {
                "mode": mode,
                "processes": count,
                "train_pmacs": total / 1e6,
                "relative_time": slowest / one,
                "memory_gib": memory[mode],
                "weights": weights,
                "extra_pmacs": None if alone else extra / 1e6,
                "clips": None if alone else clips_until(extra, run.gmacs[0] - adaptive),
                "clips_in_time": None
                if alone or seconds_per_gmac is None or saved_seconds is None
                else clips_until(extra * seconds_per_gmac, saved_seconds),
            }
        )
    return rows


def clips_until(extra: float, saved: float) -> float | None:
    """How many clips save as much as was spent; 0 where nothing more was spent, None where none ever do."""
    if extra <= 0:
        return 0.0
    return extra / saved if saved > 0 else None
