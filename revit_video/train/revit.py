"""Stage 1: one optimizer step teaches every token length (Algorithm 1 of arXiv:2307.02092)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
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
    targets: Tensor | None = None,
    smoothing: float = 0.0,
    micro_batch: int = 0,
    weight: float = 1.0,
    autocast: Callable[[], AbstractContextManager] = nullcontext,
    backward: Callable[[Tensor], None] = Tensor.backward,
) -> dict[str, Tensor]:
    """Backward through the same clips (B, C, T, H, W) at several levels; gradients add up, the caller steps
    once. Returns sums over the clips, to be divided by `clips`.

    `levels` falls in length: the first one is the teacher of the others, from this very pass, detached. With
    one level alone there is no teacher and the loss is plain cross-entropy on every head the level has.

    targets: distributions (B, K) in place of the labels, which then only count what is right.
    micro_batch: at most so many clips run forward and backward at a time; 0: all. The gradients are the same.
    weight: of the mean loss over these clips: their share of the step's clips, where other processes have
        others.
    """
    targets = labels if targets is None else targets
    sums: dict[str, Tensor] = {"clips": torch.tensor(float(len(clips)), device=clips.device)}
    size = micro_batch or max(1, len(clips))
    for some, truth, wanted in zip(clips.split(size), labels.split(size), targets.split(size), strict=True):
        share = weight * len(some) / len(clips)
        teacher: Outputs | None = None
        for level in levels:
            with autocast():
                out = model(some, level, full_output=True, with_looks=distillation.attention_weight > 0)
            refuse_missing_features(out, distillation)
            loss = level_loss(out, wanted, teacher=teacher, distillation=distillation, smoothing=smoothing)
            backward(loss * share)
            seen = level_sums(out, loss, truth, teacher)
            for name, value in seen.items():
                key = f"{name}/level{level}"
                sums[key] = sums.get(key, 0.0) + value
            sums["loss"] = sums.get("loss", 0.0) + seen["loss"] / len(levels)
            if teacher is None:
                teacher = as_teacher(out, distillation)
    return sums


def level_sums(out: Outputs, loss: Tensor, labels: Tensor, teacher: Outputs | None) -> dict[str, Tensor]:
    """What is logged of one length, summed over its clips."""
    with torch.no_grad():
        sums = {
            "loss": loss.detach() * len(labels),
            "clip@1": 100.0 * correct_rows(out.logits, labels).float().sum(),
        }
        if teacher is not None:
            same = correct_rows(out.prediction(), teacher.logits.argmax(dim=-1))
            sums["agreement"] = 100.0 * same.float().sum()
    return sums


def as_teacher(out: Outputs, distillation: Distillation) -> Outputs:
    """What the shorter lengths learn from, cut off from the graph."""
    features = out.features.detach() if distillation.feature_weight else None
    looks = out.looks.detach() if distillation.attention_weight else None
    return Outputs(out.logits.detach().float(), None, features, looks)


def refuse_missing_features(out: Outputs, distillation: Distillation) -> None:
    if distillation.feature_weight and out.features is None:
        raise InputError(
            "feature transfer reads the patches of the last block, which this model leaves out; "
            "set model.options.class_token_only=false or revit.feature_transfer=0"
        )


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
