# ruff: noqa: RUF009  (`items` is a dataclasses.field)
"""Settings of stage 1: the optimizer and the self-distillation."""

from __future__ import annotations

import math
from dataclasses import dataclass

from revit_video.settings.checks import above_zero, check, items, one_of, within


@dataclass(frozen=True)
class SolverConfig:
    optimizer: str = "sgd"  # sgd | adamw | muon
    base_lr: float = 0.005  # peak learning rate, for the batch size as given
    muon_lr: float = 0.02  # peak learning rate of the matrices under muon; the rest takes base_lr
    momentum: float = 0.9
    weight_decay: float = 1e-4
    max_steps: int = 0  # optimizer steps; 0: max_epoch decides
    max_epoch: int = 15  # passes over the training list
    warmup_share: float = 0.05  # of all steps
    schedule: str = "cosine"  # cosine | constant | relative_steps
    steps: list[int] = items(0, 11, 14)  # relative_steps: the epochs at which a rate begins
    lrs: list[float] = items(1.0, 0.1, 0.01)  # relative_steps: the rates, as shares of base_lr
    batch_size: int = 8  # clips of one optimizer step
    clip_grad: float = 1.0  # largest norm of the gradient; 0: off
    ema: float = 0.0  # decay of the averaged weights per step; 0: off
    label_smoothing: float = 0.0
    log_period: int = 10  # steps
    checkpoint_period: int = 500  # steps

    def __post_init__(self) -> None:
        one_of(self, "optimizer", ("sgd", "adamw", "muon"))
        one_of(self, "schedule", ("cosine", "constant", "relative_steps"))
        above_zero(self, "base_lr", "muon_lr")
        within(self, 0, math.inf, "weight_decay", "max_steps", "clip_grad")
        within(self, 1, math.inf, "max_epoch", "batch_size")
        within(self, 1, math.inf, "log_period", "checkpoint_period")
        within(self, 0, 0.99, "warmup_share", "label_smoothing")
        within(self, 0, 0.999999, "momentum", "ema")
        rising = self.steps[:1] == [0] and self.steps == sorted(set(self.steps))
        check(self, "steps", rising, "rising epochs that start with 0")
        fits = len(self.lrs) == len(self.steps) and all(0 < x < math.inf for x in self.lrs)
        check(self, "lrs", fits, f"a number above 0 for each of solver.steps={self.steps}")


@dataclass(frozen=True)
class ReViTConfig:
    distill_weight: float = 0.5  # lambda: share of the distillation in a shorter length's loss
    temperature: float = 1.0  # tau, of the teacher's and the student's softmax
    hard: bool = False  # learn from the teacher's class, not from its probabilities
    kl_order: str = "teacher_student"  # KL(teacher || student) | student_teacher: as printed in the paper
    grow_share: float = 0.0  # share of the steps spent on the shortest length alone before all lengths run
    feature_transfer: float = 0.0  # weight of the loss between feature maps; 0: off
    attention_transfer: float = 0.0  # weight of the loss between attention maps; 0: off

    def __post_init__(self) -> None:
        one_of(self, "kl_order", ("teacher_student", "student_teacher"))
        above_zero(self, "temperature")
        within(self, 0, 1, "distill_weight")
        within(self, 0, 0.99, "grow_share")
        within(self, 0, math.inf, "feature_transfer", "attention_transfer")
