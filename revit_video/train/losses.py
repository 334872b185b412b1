"""The losses of token-length self-distillation (TLSD; ReViT, arXiv:2307.02092, section 3.3)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from revit_video.types import InputError


@dataclass(frozen=True)
class Distillation:
    """How shorter lengths learn from the longest: (1 - weight) * CE + weight * temperature^2 * KL.

    weight: the paper's lambda. temperature: its tau. hard: the teacher's class in place of its distribution.
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


def distillation_loss(student: Tensor, teacher: Tensor, how: Distillation) -> Tensor:
    """Loss of student logits (B, K) against detached teacher logits (B, K); mean over the batch, with the
    tau^2 inside.
    """
    if how.hard:
        return F.cross_entropy(student, teacher.argmax(dim=-1))
    ours = F.log_softmax(student / how.temperature, dim=-1)
    theirs = F.log_softmax(teacher / how.temperature, dim=-1)
    source, target = (ours, theirs) if how.kl_order == "teacher_student" else (theirs, ours)
    return how.temperature**2 * F.kl_div(source, target, reduction="batchmean", log_target=True)


def feature_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error of features (B, T, h, w, D); the teacher's are pooled to the student's grid."""
    pooled = F.adaptive_avg_pool2d(teacher.detach().flatten(0, 1).movedim(-1, 1).float(), student.shape[2:4])
    return F.mse_loss(student.flatten(0, 1).movedim(-1, 1).float(), pooled)


def attention_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) of where the class token looks (B, A, T, h, w); mean over clips and heads.

    The teacher's map is average-pooled to the student's grid; then each head's map adds up to one over the
    clip.
    """
    pooled = F.adaptive_avg_pool2d(teacher.detach().flatten(0, 1), student.shape[-2:])
    theirs, ours = (F.normalize(maps.float().flatten(1), p=1) for maps in (pooled, student.flatten(0, 1)))
    return F.kl_div(ours.clamp_min(1e-12).log(), theirs, reduction="batchmean")


def soft_cross_entropy(logits: Tensor, targets: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy against class numbers (B,) or distributions (B, K), in float32."""
    return F.cross_entropy(logits.float(), targets, label_smoothing=smoothing)


def correct_rows(logits: Tensor, labels: Tensor) -> Tensor:
    """Which rows of (B, K) have their largest logit at the label: (B,) bool."""
    with torch.no_grad():
        return logits.argmax(dim=-1) == labels
