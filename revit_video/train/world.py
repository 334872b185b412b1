"""The processes of a run: which one this is, what it does of a step, and the numbers they exchange."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Share:
    """What one process does of every step: these levels, for part `part` of `parts` of the step's batch.

    Sequential training: every process has all levels and a part of its own. Length-parallel training (ReViT,
    arXiv:2307.02092, section 3.3): processes form groups, each with some of the levels and the whole batch.
    """

    levels: tuple[int, ...]
    part: int = 0
    parts: int = 1


@dataclass(frozen=True)
class World:
    """One process alone: every exchange gives back what came in."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return self.rank == 0

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """Each number summed over all processes."""
        return list(numbers)

    def gather(self, thing: Any) -> list[Any]:
        """What every process gave, in the order of ranks, on every process."""
        return [thing]
