"""Stage 1: one optimizer step teaches every token length (Algorithm 1 of arXiv:2307.02092)."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn

from revit_video.backbones.outputs import Outputs
from revit_video.train.losses import (
    Distillation,
    attention_loss,
    correct_rows,
    distillation_loss,
    feature_loss,
    soft_cross_entropy,
)
from revit_video.types import InputError


def revit_step(
    model: nn.Module,
    clips: Tensor,
    labels: Tensor,
    *,
    levels: Sequence[int],
    distillation: Distillation,
    smoothing: float = 0.0,
    autocast: Callable[[], AbstractContextManager] = nullcontext,
) -> dict[str, float]:
    """Backward through the same clips (B, C, T, H, W) at several levels; gradients add up, the caller steps
    once.

    `levels` falls in length: the first one is the teacher of the others, from this very pass, detached. With
    one level alone there is no teacher and the loss is plain cross-entropy on every head the level has.
    """
    report: dict[str, float] = {}
    teacher: Outputs | None = None
    for level in levels:
        with autocast():
            out = model(clips, level, full_output=True, with_looks=distillation.attention_weight > 0)
        if distillation.feature_weight and out.features is None:
            raise InputError(
                "feature transfer reads the patches of the last block, which this model leaves out; "
                "set model.options.class_token_only=false or revit.feature_transfer=0"
            )
        loss = level_loss(out, labels, teacher=teacher, distillation=distillation, smoothing=smoothing)
        loss.backward()
        report[f"loss/level{level}"] = loss.item()
        report[f"clip@1/level{level}"] = 100.0 * correct_rows(out.logits, labels).float().mean().item()
        if teacher is None:
            features = out.features.detach() if distillation.feature_weight else None
            looks = out.looks.detach() if distillation.attention_weight else None
            teacher = Outputs(out.logits.detach().float(), None, features, looks)
    report["loss"] = sum(report[f"loss/level{level}"] for level in levels) / len(levels)
    return report


def level_loss(
    out: Outputs, labels: Tensor, *, teacher: Outputs | None, distillation: Distillation, smoothing: float
) -> Tensor:
    """Loss of one length. With a distillation token, labels teach the class head and the teacher teaches the
    other.
    """
    student = out.logits if out.distill_logits is None else out.distill_logits
    loss = soft_cross_entropy(out.logits, labels, smoothing=smoothing)
    if teacher is None:
        if out.distill_logits is not None:  # trained alone (growing): both heads learn the labels
            loss = (loss + soft_cross_entropy(out.distill_logits, labels, smoothing=smoothing)) / 2
        return loss
    weight = distillation.weight
    loss = (1 - weight) * loss + weight * distillation_loss(student.float(), teacher.logits, distillation)
    if distillation.feature_weight:
        loss = loss + distillation.feature_weight * feature_loss(out.features, teacher.features)
    if distillation.attention_weight:
        loss = loss + distillation.attention_weight * attention_loss(out.looks, teacher.looks)
    return loss
