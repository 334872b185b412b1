"""Random weights that choose as they are told: what a router costs can be timed without any training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from revit_video.types import InputError

MIDDLE = 0.2  # share of the clips at the lengths between the longest and the shortest


class Forced(nn.Module):
    """An assigner that works as always, and then says what is written into a clip's first pixel."""

    def __init__(self, assigner: nn.Module) -> None:
        super().__init__()
        self.assigner = assigner

    def forward(self, clips: Tensor) -> Tensor:
        logits = self.assigner(clips)
        wanted = clips[:, 0, 0, 0, 0].round().long()
        return 0 * logits + 100.0 * nn.functional.one_hot(wanted, logits.shape[-1])


def shares_for(target: float, costs: Sequence[float], look: float) -> list[float]:
    """Shares of the levels with this mean cost (of the longest's), look included, a fifth in the middle.

    Raises:
        InputError: no such shares; it names those that there are.
    """
    between = len(costs) - 2
    middle = [MIDDLE / between] * between if between else []
    ends = 1 - sum(middle)
    fixed = look + sum(share * cost for share, cost in zip(middle, costs[1:-1], strict=True))
    least, most = fixed + ends * costs[-1], fixed + ends * costs[0]
    if not least <= target * costs[0] * (1 + 1e-9) <= most * (1 + 1e-9):
        raise InputError(
            f"a mean cost of {target:g} of the longest length's is out of reach with {sum(middle):g} of the "
            "clips at the lengths in the middle; "
            f"give one from {least / costs[0]:.3f} to {most / costs[0]:.3f}"
        )
    longest = (target * costs[0] - fixed - ends * costs[-1]) / (costs[0] - costs[-1])
    longest = min(max(longest, 0.0), ends)
    return [longest, *middle, ends - longest]


def marked_clips(levels: Tensor, *, num_frames: int, crop: tuple[int, int]) -> Tensor:
    """Seeded noise, the level of each clip (M,) in its first pixel: (M, 3, T, H, W)."""
    generator = torch.Generator().manual_seed(1)
    clips = torch.randn(len(levels), 3, num_frames, *crop, generator=generator)
    clips[:, 0, 0, 0, 0] = levels.float()
    return clips


def dealt(shares: Sequence[float], count: int) -> Tensor:
    """Levels (M,) at these shares, in a random order."""
    ends = (torch.tensor(shares).cumsum(0) * count).round()
    levels = torch.bucketize(torch.arange(count).float(), ends, right=True).clamp(max=len(shares) - 1)
    return levels[torch.randperm(count, generator=torch.Generator().manual_seed(0))]
