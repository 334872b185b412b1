# ruff: noqa: RUF009  (`items` is a dataclasses.field)
"""Settings of a run on several processes: facts of the machine, which do not change what is learnt."""

from __future__ import annotations

import math
from dataclasses import dataclass

from revit_video.settings.checks import above_zero, check, items, one_of


@dataclass(frozen=True)
class DistributedConfig:
    strategy: str = "ddp"  # ddp: every process has all weights | fsdp: each has a part of them
    lengths: str = "sequential"  # sequential: every process runs all lengths | parallel: groups share them
    length_costs: list[float] = items()  # parallel: relative time of each length, longest first; empty: GMACs
    timeout_s: float = 600.0  # that processes wait for each other before they name the one that is missing

    def __post_init__(self) -> None:
        one_of(self, "strategy", ("ddp", "fsdp"))
        one_of(self, "lengths", ("sequential", "parallel"))
        above_zero(self, "timeout_s")
        costs = all(0 < cost < math.inf for cost in self.length_costs)
        check(self, "length_costs", costs, "numbers above 0, one for each of model.token_lengths")
        both = self.strategy == "ddp" or self.lengths == "sequential"
        check(self, "strategy", both, "ddp where distributed.lengths=parallel")
