"""What each way of choosing a length is worth, from one pass that stored every level's logits of every view.

Cost is the mean GMACs per view. Ways that look at a frame first pay for the assigner, once per clip.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from revit_video.evaluate.metrics import average_views, bootstrap_interval, hits, percent


@dataclass(frozen=True)
class Stored:
    """One test set, seen at every level.

    logits: (N, C, X, L, K): N videos, C clips, X crops of a clip, L levels. labels: (N,). costs: GMACs of
        each level.
    """

    logits: Tensor
    labels: Tensor
    costs: tuple[float, ...]

    @cached_property
    def clip_scores(self) -> Tensor:
        """Class probabilities of each clip at each level, the mean over its crops: (N, C, L, K)."""
        return average_views(self.logits.transpose(2, 3))

    def video_scores(self, levels: Tensor) -> Tensor:
        """Class probabilities (N, K) when each clip (N, C) runs at its own level: the mean over the clips."""
        rows = levels[:, :, None, None].expand(-1, -1, 1, self.logits.shape[-1])
        return self.clip_scores.gather(2, rows).squeeze(2).mean(dim=1)

    def hit(self, levels: Tensor) -> Tensor:
        """Which videos (N,) are right when their clips run at `levels` (N, C)."""
        return hits(self.video_scores(levels), self.labels)

    def cost(self, levels: Tensor, costs: Sequence[float] | None = None) -> float:
        return torch.tensor(costs or self.costs, dtype=torch.float64)[levels].mean().item()

    def fixed(self, level: int) -> Tensor:
        """The same level for every clip: (N, C)."""
        return torch.full(self.logits.shape[:2], level)

    @property
    def num_levels(self) -> int:
        return len(self.costs)

    def confidence(self) -> Tensor:
        """Largest probability of each clip at each level: (N, C, L)."""
        return self.clip_scores.amax(dim=-1)


def summary(stored: Stored, levels: Tensor, *, gmacs: float) -> dict[str, float]:
    """Accuracy with its 95% interval, and the cost it was got at."""
    hit = stored.hit(levels)
    low, high = bootstrap_interval(hit)
    return {"top1": percent(hit), "top1_low": low, "top1_high": high, "gmacs": gmacs}


def shares(levels: Tensor, num_levels: int) -> list[float]:
    """Fraction of clips at each level."""
    return (torch.bincount(levels.flatten(), minlength=num_levels).double() / levels.numel()).tolist()


def random_hits(stored: Stored, levels: Tensor, *, draws: int = 200, seed: int = 0) -> Tensor:
    """How often each video is right when the shares of `levels` (N, C) are dealt to random clips: (draws, N)
    bool.
    """
    generator = torch.Generator().manual_seed(seed)
    flat = levels.flatten()
    deals = (flat[torch.randperm(len(flat), generator=generator)].view_as(levels) for _ in range(draws))
    return torch.stack([stored.hit(deal) for deal in deals])


def random_baseline(stored: Stored, levels: Tensor, **options) -> dict[str, float]:
    """The same shares dealt to random clips: mean accuracy over the draws, its spread. No assigner to pay."""
    means = 100.0 * random_hits(stored, levels, **options).double().mean(dim=1)
    return {"top1": means.mean().item(), "top1_std": means.std().item(), "gmacs": stored.cost(levels)}


def oracle_baseline(stored: Stored) -> dict[str, float]:
    """Every video at the shortest length that gets it right, at the shortest of all where none does."""
    right = torch.stack(
        [stored.hit(stored.fixed(level)) for level in range(stored.num_levels)], dim=1
    )  # (N, L)
    last = stored.num_levels - 1
    levels = torch.where(right.any(dim=1), last - right.flip(1).to(torch.uint8).argmax(dim=1), last)
    return summary(stored, levels[:, None].expand(stored.logits.shape[:2]), gmacs=stored.cost(levels))


def tag_table(
    stored: Stored, levels: Tensor, tags: Sequence[str]
) -> dict[str, dict[str, float | list[float]]]:
    """Per tag: number of videos, accuracy at `levels`, at each fixed level, and the shares of the levels."""
    table = {}
    for tag in sorted(set(tags)):
        rows = torch.tensor([i for i, other in enumerate(tags) if other == tag])
        part = Stored(stored.logits[rows], stored.labels[rows], stored.costs)
        table[tag] = {
            "num_videos": len(rows),
            "top1": percent(part.hit(levels[rows])),
            "top1_fixed": [percent(part.hit(part.fixed(level))) for level in range(part.num_levels)],
            "share": shares(levels[rows], part.num_levels),
        }
    return table
