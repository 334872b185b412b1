"""What each way of choosing a length is worth, from one pass that stored every level's logits of every view.

Cost is the mean GMACs per view. Ways that look at a frame first pay for the assigner, once per clip.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from revit_video.evaluate.heads import Heads, best_labels, confidence
from revit_video.evaluate.metrics import (
    all_hits,
    average_views,
    bootstrap_interval,
    paired_difference,
    percent,
)


@dataclass(frozen=True)
class Stored:
    """One test set, seen at every level.

    logits: (N, C, X, L, K): N videos, C clips, X crops of a clip, L levels. labels: (N,). costs: GMACs of
        each level. heads: of several lists of classes, see evaluate.heads; all of a label must be right.
    """

    logits: Tensor
    labels: Tensor
    costs: tuple[float, ...]
    heads: Heads = ()

    @cached_property
    def clip_scores(self) -> Tensor:
        """Class probabilities of each clip at each level, the mean over its crops: (N, C, L, K)."""
        return average_views(self.logits.transpose(2, 3), self.heads)

    def video_scores(self, levels: Tensor) -> Tensor:
        """Class probabilities (N, K) when each clip (N, C) runs at its own level: the mean over the clips."""
        rows = levels[:, :, None, None].expand(-1, -1, 1, self.logits.shape[-1])
        return self.clip_scores.gather(2, rows).squeeze(2).mean(dim=1)

    def hit(self, levels: Tensor) -> Tensor:
        """Which videos (N,) are right when their clips run at `levels` (N, C)."""
        return self.hits(levels)["label"]

    def hits(self, levels: Tensor) -> dict[str, Tensor]:
        """The same as "label", and with two lists of classes each part of the label by itself."""
        return all_hits(self.video_scores(levels), self.labels, heads=self.heads)

    def cost(self, levels: Tensor, costs: Sequence[float] | None = None) -> float:
        return torch.tensor(costs or self.costs, dtype=torch.float64)[levels].mean().item()

    def fixed(self, level: int) -> Tensor:
        """The same level for every clip: (N, C)."""
        return torch.full(self.logits.shape[:2], level)

    @property
    def num_levels(self) -> int:
        return len(self.costs)

    @cached_property
    def confidence(self) -> Tensor:
        """Probability of the most probable label of each clip at each level: (N, C, L)."""
        return confidence(self.clip_scores, self.heads)


def summary(stored: Stored, levels: Tensor, *, gmacs: float) -> dict[str, float]:
    """Accuracy with its 95% interval, that of each part of the label, and the cost it was got at."""
    found = stored.hits(levels)
    hit = found.pop("label")
    low, high = bootstrap_interval(hit)
    parts = {name: percent(part) for name, part in found.items()}
    return {"top1": percent(hit), "top1_low": low, "top1_high": high, **parts, "gmacs": gmacs}


def shares(levels: Tensor, num_levels: int) -> list[float]:
    """Fraction of clips at each level."""
    return (torch.bincount(levels.flatten(), minlength=num_levels).double() / levels.numel()).tolist()


def random_deals(levels: Tensor, *, draws: int = 200, seed: int = 0) -> Iterator[Tensor]:
    """The shares of `levels` (N, C) dealt to random clips, `draws` times."""
    generator = torch.Generator().manual_seed(seed)
    flat = levels.flatten()
    for _ in range(draws):
        yield flat[torch.randperm(len(flat), generator=generator)].view_as(levels)


def random_hits(stored: Stored, levels: Tensor, **options) -> Tensor:
    """How often each video is right when the shares of `levels` (N, C) are dealt to random clips: (draws, N)
    bool.
    """
    return torch.stack([stored.hit(deal) for deal in random_deals(levels, **options)])


def random_baseline(stored: Stored, levels: Tensor, **options) -> dict[str, float]:
    """The same shares dealt to random clips: mean accuracy over the draws, its spread. No assigner to pay."""
    draws = [stored.hits(deal) for deal in random_deals(levels, **options)]
    means = {name: 100.0 * torch.stack([d[name] for d in draws]).double().mean(dim=1) for name in draws[0]}
    whole = means.pop("label")
    parts = {name: mean.mean().item() for name, mean in means.items()}
    return {
        "top1": whole.mean().item(),
        "top1_std": whole.std().item(),
        **parts,
        "gmacs": stored.cost(levels),
    }


def oracle_baseline(stored: Stored) -> dict[str, float]:
    """Every video at the shortest length that gets it right, at the shortest of all where none does."""
    right = torch.stack(
        [stored.hit(stored.fixed(level)) for level in range(stored.num_levels)], dim=1
    )  # (N, L)
    last = stored.num_levels - 1
    levels = torch.where(right.any(dim=1), last - right.flip(1).to(torch.uint8).argmax(dim=1), last)
    return summary(stored, levels[:, None].expand(stored.logits.shape[:2]), gmacs=stored.cost(levels))


def oracle_curve(stored: Stored, budgets: Sequence[float]) -> list[dict[str, float]]:
    """The most that any choice of a length for each video can reach at each budget (GMACs per view).

    Every video starts at the shortest length. One that is wrong there and right at a longer one gains a hit
    for the difference in cost; as all gain the same, the cheapest go first.
    """
    costs = torch.tensor(stored.costs, dtype=torch.float64)
    right = torch.stack([stored.hit(stored.fixed(level)) for level in range(stored.num_levels)], dim=1)
    more = torch.where(right, costs - costs[-1], torch.inf).amin(dim=1).sort().values  # (N,)
    spent = costs[-1] + more.cumsum(0) / len(more)
    rows = []
    for budget in budgets:
        if budget >= stored.costs[-1]:
            count = int((spent <= budget * (1 + 1e-12)).sum())
            gmacs = spent[count - 1].item() if count else stored.costs[-1]
            rows.append({"gmacs": gmacs, "top1": 100.0 * count / len(more)})
    return rows


def clip_labels(stored: Stored) -> Tensor:
    """Whether each clip by itself is right at each level: (N, C, L)."""
    return best_labels(stored.clip_scores, stored.heads) == stored.labels[:, None, None]


def predictor_table(
    wishes: Tensor, truth: Tensor, lengths: Sequence[int], *, majority: int | None = None
) -> dict:
    """How often the largest of wishes (M, L) is the length label (M,), in percent; the same for predictors
    that give every clip one length (`constant`, by length) and the level `majority`; `balanced` is the mean
    over the labels that occur.
    """
    right = wishes.argmax(dim=-1) == truth
    constant = {str(length): percent(truth == level) for level, length in enumerate(lengths)}
    seen = {
        "accuracy": percent(right),
        "balanced": sum(percent(right[truth == level]) for level in truth.unique()) / len(truth.unique()),
        "constant": constant,
    }
    return seen if majority is None else seen | {"majority": constant[str(lengths[majority])]}


def tag_table(
    stored: Stored, levels: Tensor, tags: Sequence[str], *, gmacs: Tensor | None = None
) -> dict[str, dict]:
    """Per tag: number of videos, accuracy at `levels` (of each part of the label, too) and at each fixed
    level, the shares of the levels; by how much `levels` is above the longest length, and, where `gmacs`
    (N, C) says what each clip cost, their mean.
    """
    table = {}
    for tag in sorted(set(tags)):
        rows = torch.tensor([i for i, other in enumerate(tags) if other == tag])
        part = replace(stored, logits=stored.logits[rows], labels=stored.labels[rows])
        found = part.hits(levels[rows])
        over = paired_difference(found["label"], part.hit(part.fixed(0)))
        table[tag] = {
            "num_videos": len(rows),
            "top1": percent(found.pop("label")),
            **{name: percent(hit) for name, hit in found.items()},
            "top1_fixed": [percent(part.hit(part.fixed(level))) for level in range(part.num_levels)],
            "share": shares(levels[rows], part.num_levels),
            "over_longest": over,
            **({} if gmacs is None else {"gmacs": gmacs[rows].mean().item()}),
        }
    return table
