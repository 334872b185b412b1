"""Stage 2: the assigner learns, from one frame, the shortest length at which the trained ReViT was right."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from revit_video.train.losses import correct_rows
from revit_video.types import InputError


def assigner_step(
    assigner: nn.Module,
    clips: Tensor,
    lengths: Tensor,
    *,
    class_weight: Tensor | None = None,
    autocast: Callable[[], AbstractContextManager] = nullcontext,
) -> dict[str, Tensor | float]:
    """Backward of the cross-entropy between the assigner's logits for clips (B, C, T, H, W) and their length
    labels: levels (B,), or probabilities of levels (B, L). Returns sums over the clips, as `fit` wants them.
    """
    with autocast():
        logits = assigner(clips)
    loss = F.cross_entropy(logits.float(), lengths, weight=class_weight)
    loss.backward()
    levels = lengths if lengths.ndim == 1 else lengths.argmax(dim=-1)
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
