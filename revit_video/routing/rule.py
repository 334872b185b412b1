"""Where a clip starts and where it stops: one rule with two knobs, of which all routers are settings.

| router | starts | goes on to the next longer length |
|---|---|---|
| `assigner` (arXiv:2307.02092, sec. 3.4) | where the assigner says | never |
| `cascade` (DVT's rule, arXiv:2105.15075) | at the shortest length | while it is unsure |
| `hybrid` | where the assigner says | while it is unsure |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from revit_video.routing.budget import biased_levels, cascade_costs

KINDS = ("assigner", "cascade", "hybrid")
NEVER, ALWAYS = 0.0, 1.0001  # thresholds: no probability is below the first, every one below the second


@dataclass(frozen=True)
class Rule:
    """bias: of the assigner's choice where to start, see `biased_levels`; None: every clip starts at the
        shortest length, and the assigner is not asked.
    thresholds: one for each level; a clip whose confidence at a level is below its threshold goes on to the
        next longer one. That of level 0 counts for nothing: there is none longer.
    """

    bias: float | None
    thresholds: tuple[float, ...]

    @property
    def kind(self) -> str:
        if self.bias is None:
            return "cascade"
        return "hybrid" if any(threshold > NEVER for threshold in self.thresholds[1:]) else "assigner"

    @property
    def looks(self) -> bool:
        """Whether the assigner has to look at every clip first."""
        return self.bias is not None

    def starts(self, wishes: Tensor, costs: Sequence[float]) -> Tensor:
        """First level (N,) of each clip, from the assigner's logits (N, L)."""
        if self.bias is None:
            return torch.full((len(wishes),), len(costs) - 1, device=wishes.device)
        return biased_levels(wishes, costs, self.bias)

    def sure(self, confidence: Tensor, level: int) -> Tensor:
        """Which clips (N,) stop at a level where they are as confident as that (N,)."""
        return (
            torch.ones_like(confidence, dtype=torch.bool)
            if level == 0
            else confidence >= self.thresholds[level]
        )

    def stops(self, starts: Tensor, confidence: Tensor) -> Tensor:
        """Level (N,) at which each clip stops, from the confidences (N, L) that it would have everywhere."""
        thresholds = torch.tensor([self.thresholds], dtype=confidence.dtype, device=confidence.device)
        return stops_of(starts[None], confidence, thresholds)[0]

    def cost(self, starts: Tensor, stops: Tensor, costs: Sequence[float], *, look: float) -> Tensor:
        """What every clip costs (N,): the passes from first to last level, and the assigner's look."""
        return pass_costs(starts, stops, costs) + (look if self.looks else 0.0)


def stops_of(starts: Tensor, confidence: Tensor, thresholds: Tensor) -> Tensor:
    """Levels (R, N) at which R rules of thresholds (R, L) stop N clips that start at levels (R, N) and would
    have confidences (N, L).
    """
    num_levels = confidence.shape[1]
    sure = confidence >= thresholds[:, None]  # (R, N, L)
    sure[:, :, 0] = True  # nothing longer is left
    sure &= torch.arange(num_levels, device=starts.device) <= starts[:, :, None]
    return num_levels - 1 - sure.flip(2).to(torch.uint8).argmax(dim=2)


def pass_costs(starts: Tensor, stops: Tensor, costs: Sequence[float]) -> Tensor:
    """Sum of the costs of the levels from `starts` (N,) up to the longer `stops` (N,)."""
    down_to = torch.tensor([*cascade_costs(costs), 0.0], dtype=torch.float64)
    return down_to[stops.cpu()] - down_to[starts.cpu() + 1]


def assigner_rule(bias: float, num_levels: int) -> Rule:
    return Rule(bias, (NEVER,) * num_levels)


def cascade_rule(thresholds: float | Sequence[float], num_levels: int) -> Rule:
    """One threshold for all levels, or one for each."""
    one = isinstance(thresholds, float)
    return Rule(None, (thresholds,) * num_levels if one else tuple(thresholds))
