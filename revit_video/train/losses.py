"""The losses of token-length self-distillation (TLSD; ReViT, arXiv:2307.02092, section 3.3).

They are computed in float32, or in the dtype of what comes where that is wider. The teacher learns nothing.
Every loss is a mean over clips of a number per clip, and `per_clip=True` gives these numbers: a batch cut
into pieces that are weighted by their clips has the loss and the gradients of the whole. With several class
lists (`heads`, see evaluate.heads) the loss of a clip is the mean of its lists' losses, as in the official
Motionformer: 0.5 * (verb + noun).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from revit_video.evaluate.heads import NAMES, Heads, best_labels, split_labels, split_scores
from revit_video.types import InputError


@dataclass(frozen=True)
class Distillation:
    """How shorter lengths learn from the longest: (1 - weight) * CE + weight * temperature^2 * KL.

    A loss whose weight is 0 is not computed.

    weight: the paper's lambda. temperature: its tau; a hard teacher has none. hard: the teacher's class in
        place of its distribution.
    kl_order: `teacher_student` is KL(teacher || student), the usual one; `student_teacher` is the order
        the paper prints.
    feature_weight: of the mean squared error between the teacher's last features, pooled to the student's
        grid, and the student's.
    attention_weight: of the KL divergence between where the teacher's and the student's class token look in
        the last block.
    """

    weight: float = 0.5
    temperature: float = 1.0
    hard: bool = False
    kl_order: str = "teacher_student"
    feature_weight: float = 0.0
    attention_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.kl_order not in ("teacher_student", "student_teacher"):
            raise InputError(f"kl_order is {self.kl_order!r}, but must be teacher_student or student_teacher")


def class_loss(
    logits: Tensor, targets: Tensor, *, smoothing: float = 0.0, heads: Heads = (), per_clip: bool = False
) -> Tensor:
    """Cross-entropy of logits (B, K): the mean over the clips, or (B,) of each.

    targets: labels (B,), or distributions (B, K) that add up to one over each list.
    smoothing: share of each list's target that is spread evenly over its classes.
    """
    reduction = "none" if per_clip else "mean"
    logits = _wide(logits)
    soft = targets.ndim == 2
    parts = split_scores(targets.to(logits.dtype), heads) if soft else split_labels(targets, heads)
    return _mean(
        F.cross_entropy(ours, theirs, label_smoothing=smoothing, reduction=reduction)
        for ours, theirs in zip(split_scores(logits, heads), parts, strict=True)
    )


def distillation_loss(
    student: Tensor, teacher: Tensor, how: Distillation, *, heads: Heads = (), per_clip: bool = False
) -> Tensor:
    """Loss of student logits (B, K) against teacher logits (B, K), with the tau^2 inside; the mean over the
    clips, or (B,) of each.
    """
    student, teacher = _wide(student), _wide(teacher.detach())
    if how.hard:
        return class_loss(student, best_labels(teacher, heads), heads=heads, per_clip=per_clip)
    return _mean(
        _divergence(ours, theirs, how, per_clip=per_clip)
        for ours, theirs in zip(split_scores(student, heads), split_scores(teacher, heads), strict=True)
    )


def _divergence(student: Tensor, teacher: Tensor, how: Distillation, *, per_clip: bool) -> Tensor:
    """The soft distillation loss of one class list."""
    ours = F.log_softmax(student / how.temperature, dim=-1)
    theirs = F.log_softmax(teacher / how.temperature, dim=-1)
    source, target = (ours, theirs) if how.kl_order == "teacher_student" else (theirs, ours)
    return how.temperature**2 * _kl(source, target, per_clip=per_clip, log_target=True)


def feature_loss(student: Tensor, teacher: Tensor, *, per_clip: bool = False) -> Tensor:
    """Mean squared error of features (B, T, h, w, D); the teacher's are pooled to the student's grid. The
    mean over the clips, or (B,) of each.
    """
    ours, theirs = (_wide(maps).flatten(0, 1).movedim(-1, 1) for maps in (student, teacher.detach()))
    pooled = F.adaptive_avg_pool2d(theirs, ours.shape[-2:])
    if not per_clip:
        return F.mse_loss(ours, pooled)
    return F.mse_loss(ours, pooled, reduction="none").unflatten(0, (len(student), -1)).flatten(1).mean(dim=1)


def attention_loss(student: Tensor, teacher: Tensor, *, per_clip: bool = False) -> Tensor:
    """KL(teacher || student) of where the class token looks (B, A, T, h, w), a mean over the heads of
    attention; the mean over the clips, or (B,) of each.

    The teacher's map is average-pooled to the student's grid; then each head's map adds up to one over the
    clip.
    """
    pooled = F.adaptive_avg_pool2d(_wide(teacher.detach()).flatten(0, 1), student.shape[-2:])
    theirs, ours = (F.normalize(_wide(maps).flatten(1), p=1) for maps in (pooled, student.flatten(0, 1)))
    loss = _kl(ours.clamp_min(1e-12).log(), theirs, per_clip=per_clip)
    return loss.unflatten(0, (len(student), -1)).mean(dim=1) if per_clip else loss


def _wide(x: Tensor) -> Tensor:
    """In float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _kl(source: Tensor, target: Tensor, *, per_clip: bool, log_target: bool = False) -> Tensor:
    """`F.kl_div` over the last axis of (R, K): the mean over the rows, or (R,) of each."""
    if not per_clip:
        return F.kl_div(source, target, reduction="batchmean", log_target=log_target)
    return F.kl_div(source, target, reduction="none", log_target=log_target).sum(dim=-1)


def _mean(losses: Iterable[Tensor]) -> Tensor:
    """Of the lists' losses; that of one list alone as it is."""
    parts = list(losses)
    return parts[0] if len(parts) == 1 else torch.stack(parts).mean(dim=0)


def one_hot_targets(labels: Tensor, num_classes: int, heads: Heads = ()) -> Tensor:
    """Labels (B,) as distributions (B, K) for `class_loss`: one where the label is, in each list."""
    parts = zip(split_labels(labels, heads), heads or (num_classes,), strict=True)
    return torch.cat([F.one_hot(part, size) for part, size in parts], dim=-1).float()


def correct_rows(logits: Tensor, labels: Tensor, *, heads: Heads = ()) -> Tensor:
    """Which rows of (B, K) have their largest logit, in each list, at the label: (B,) bool."""
    with torch.no_grad():
        return best_labels(logits, heads) == labels


def right_rows(logits: Tensor, labels: Tensor, *, heads: Heads = ()) -> dict[str, Tensor]:
    """`correct_rows` by the name it is shown under: "clip@1", or "action@1" with "verb@1" and "noun@1"."""
    if not heads:
        return {"clip@1": correct_rows(logits, labels)}
    parts = zip(NAMES, split_scores(logits, heads), split_labels(labels, heads), strict=True)
    found = {f"{name}@1": correct_rows(part, truth) for name, part, truth in parts}
    return {"action@1": correct_rows(logits, labels, heads=heads), **found}
