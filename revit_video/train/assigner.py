"""Stage 2: the assigner learns, from one frame, the shortest length at which the trained ReViT was right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from revit_video.train.losses import correct_rows
from revit_video.types import InputError

LOSSES = ("cross_entropy", "focal", "cost", "regression")


@dataclass(frozen=True)
class AssignerLoss:
    """What the assigner's logits (B, L) are to say.

    `cross_entropy`, `focal`: how probable each level is to be the label. `cost`: the levels to choose so that
    the expected error and `cost_weight` times the expected cost are least. `regression`: minus the chance
    that the backbone is wrong at each level, so that logits minus a bias times the cost is what a choice is
    worth, for every level and every bias.

    costs: of each level, relative to the longest.
    """

    name: str = "cross_entropy"
    gamma: float = 2.0
    cost_weight: float = 0.1
    costs: tuple[float, ...] = ()

    @property
    def from_errors(self) -> bool:
        """Whether it learns from how wrong the backbone is at each level, not from a label."""
        return self.name in ("cost", "regression")

    def __call__(self, logits: Tensor, targets: Tensor, *, weight: Tensor | None = None) -> Tensor:
        """Mean over the clips. targets: of `from_errors` losses the chance (B, L) that the backbone is wrong
        at each level; of the others levels (B,) or probabilities of levels (B, L). weight: of each level.
        """
        if self.name == "cross_entropy":
            return F.cross_entropy(logits, targets, weight=weight)
        if self.name == "focal":
            return focal_loss(logits, targets, gamma=self.gamma, weight=weight)
        if self.name == "cost":
            return expected_risk(logits, targets, self.costs, cost_weight=self.cost_weight)
        if self.name == "regression":
            return F.mse_loss(-logits, targets)
        raise InputError(f"assigner.loss is {self.name!r}, but must be one of: {', '.join(LOSSES)}")


def focal_loss(logits: Tensor, targets: Tensor, *, gamma: float, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy in which each term counts (1 - p) ** gamma: what is learnt already counts less (Lin et
    al., arXiv:1708.02002). Averages as torch's weighted cross-entropy does.
    """
    if targets.ndim == 1:
        shares = F.one_hot(targets, logits.shape[-1]).to(logits.dtype)
        total = len(targets) if weight is None else weight[targets].sum()
    else:
        shares, total = targets, len(targets)
    if weight is not None:
        shares = shares * weight
    logs = logits.log_softmax(dim=-1)
    return -(shares * (1 - logs.exp()) ** gamma * logs).sum() / total


def expected_risk(logits: Tensor, errors: Tensor, costs: Sequence[float], *, cost_weight: float) -> Tensor:
    """Mean of error + cost_weight * cost when levels are drawn by the softmax of logits (B, L). errors:
    chance (B, L) of being wrong at each level.
    """
    risk = errors + cost_weight * logits.new_tensor(costs)
    return (logits.softmax(dim=-1) * risk).sum(dim=-1).mean()


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """The temperature T for which softmax(logits / T) fits held-out labels best (cross-entropy; Guo et al.,
    arXiv:1706.04599). logits: (N, L). targets: levels (N,) or probabilities (N, L).

    In 1 / T the loss is convex; its derivative is where the mean wished logit meets the mean expected one.
    """
    logits = logits.double()
    shares = targets.double() if targets.ndim > 1 else F.one_hot(targets, logits.shape[-1]).double()
    wanted = (shares * logits).sum(dim=-1).mean()

    def slope(inverse: float) -> float:
        return ((logits * inverse).softmax(dim=-1) * logits).sum(dim=-1).mean().item() - wanted.item()

    low, high = 0.01, 100.0
    for _ in range(80):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return 1 / high


def assigner_step(
    assigner: nn.Module,
    clips: Tensor,
    lengths: Tensor,
    *,
    class_weight: Tensor | None = None,
    loss_fn: AssignerLoss | None = None,
    autocast: Callable[[], AbstractContextManager] = nullcontext,
    backward: Callable[[Tensor], None] = Tensor.backward,
) -> dict[str, Tensor | float]:
    """Backward of the loss (None: cross-entropy) between the assigner's logits for clips (B, C, T, H, W) and
    their targets, see `AssignerLoss`: levels (B,), or probabilities (B, L). Returns sums over the clips, as
    `fit` wants them; `length@1` is how often the largest logit is the label, of losses from errors the least
    wrong level.
    """
    loss_fn = loss_fn or AssignerLoss()
    with autocast():
        logits = assigner(clips)
    loss = loss_fn(logits.float(), lengths, weight=class_weight)
    backward(loss)
    wished = -lengths if loss_fn.from_errors else lengths
    levels = lengths if lengths.ndim == 1 else wished.argmax(dim=-1)
    right = correct_rows(logits, levels).float().sum()
    return {"clips": len(clips), "loss": loss.detach() * len(clips), "length@1": 100.0 * right}


def class_weights(lengths: Tensor, *, num_levels: int, kind: str) -> Tensor | None:
    """Weights (L,) of mean 1 over the samples that answer for the skew of length labels.

    `sqrt` divides by the root of a level's share, `balanced` by the share; `none` is None. An absent level
    weighs 0.
    """
    if kind == "none":
        return None
    powers = {"sqrt": 0.5, "balanced": 1.0}
    if kind not in powers:
        raise InputError(f"assigner.class_weight is {kind!r}, but must be one of: none, {', '.join(powers)}")
    counts = torch.bincount(lengths, minlength=num_levels).float()
    weights = torch.where(counts > 0, counts.clamp(min=1) ** -powers[kind], torch.zeros_like(counts))
    return weights * (counts.sum() / (weights * counts).sum())
