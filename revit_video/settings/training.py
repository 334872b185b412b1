# ruff: noqa: RUF009  (`items` is a dataclasses.field)
"""Settings of stage 1: the optimizer and the self-distillation."""

from __future__ import annotations

import math
from dataclasses import dataclass

from revit_video.settings.checks import above_zero, check, items, one_of, within


@dataclass(frozen=True)
class SolverConfig:
    optimizer: str = "sgd"  # sgd | adamw | muon
    base_lr: float = 0.005  # peak learning rate, for batch_size as given or for lr_per_clips
    muon_lr: float = 0.02  # peak learning rate of the matrices under muon; the rest takes base_lr
    lr_per_clips: int = 0  # clips that both rates are for: they grow with batch_size; 0: batch_size itself
    layer_decay: float = 1.0  # rate of a block over that of the next one; 1: all learn alike
    momentum: float = 0.9
    weight_decay: float = 1e-4
    max_steps: int = 0  # optimizer steps; 0: max_epoch decides
    max_epoch: int = 15  # passes over the training list
    warmup_share: float = 0.05  # of all steps, with the cosine
    warmup_epochs: float = 0.0  # in place of warmup_share, where above 0
    warmup_lr: float = 0.0  # learning rate that the warm-up starts from
    end_lr: float = 0.0  # learning rate that the cosine ends with
    schedule: str = "cosine"  # cosine | constant | relative_steps
    steps: list[int] = items(0, 11, 14)  # relative_steps: the epochs at which a rate begins
    lrs: list[float] = items(1.0, 0.1, 0.01)  # relative_steps: the rates, as shares of base_lr
    batch_size: int = 8  # clips of one optimizer step, over all processes
    micro_batch_size: int = 0  # clips of a forward pass, in each process; 0: all it has
    activation_checkpointing: bool = False  # run each block again in the backward pass: less memory
    compile: bool = False  # torch.compile, for each length apart
    clip_grad: float = 1.0  # largest norm of the gradient; 0: off
    max_skipped_steps: int = 10  # steps whose loss or gradient is not finite, before the run stops
    ema: float = 0.0  # decay of the averaged weights per step; 0: off
    label_smoothing: float = 0.0
    eval_period: int = 0  # epochs between two looks at data.val_split; 0: none
    log_period: int = 10  # steps
    checkpoint_period: int = 500  # steps
    keep_checkpoints: int = 2  # how many of them, the newest

    def __post_init__(self) -> None:
        one_of(self, "optimizer", ("sgd", "adamw", "muon"))
        one_of(self, "schedule", ("cosine", "constant", "relative_steps"))
        above_zero(self, "base_lr", "muon_lr")
        within(self, 0, math.inf, "weight_decay", "max_steps", "clip_grad", "max_skipped_steps")
        within(self, 0, math.inf, "lr_per_clips", "micro_batch_size", "eval_period", "warmup_epochs")
        check(self, "layer_decay", 0 < self.layer_decay <= 1, "above 0 and at most 1")
        for name in ("warmup_lr", "end_lr"):
            check(self, name, 0 <= getattr(self, name) <= self.base_lr, f"from 0 to base_lr={self.base_lr:g}")
            used = self.schedule == "cosine" or getattr(self, name) == 0
            check(self, name, used, f"0, as solver.schedule={self.schedule} does not look at it")
        used = self.schedule == "cosine" or self.warmup_epochs == 0
        check(self, "warmup_epochs", used, f"0, as solver.schedule={self.schedule} does not look at it")
        within(self, 1, math.inf, "max_epoch", "batch_size")
        within(self, 1, math.inf, "log_period", "checkpoint_period", "keep_checkpoints")
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
    patch_weight: float = 0.5  # of the loss of a head on every patch (LV-ViT), where the model has one
    true_class: bool = False  # data.label_maps: take the true class into what they say of a whole clip

    def __post_init__(self) -> None:
        one_of(self, "kl_order", ("teacher_student", "student_teacher"))
        above_zero(self, "temperature")
        within(self, 0, 1, "distill_weight")
        within(self, 0, 0.99, "grow_share")
        within(self, 0, math.inf, "feature_transfer", "attention_transfer", "patch_weight")
