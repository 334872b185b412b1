"""Settings of the length labels, the assigner and its budget."""

from __future__ import annotations

import math
from dataclasses import dataclass

from revit_video.settings.checks import above_zero, check, one_of, within


@dataclass(frozen=True)
class LabelsConfig:
    split: str = "train"  # train | val: the list whose videos get a length label
    max_videos: int = 0  # 0: all
    none_right: str = "longest"  # longest | shortest | drop: the label where no length is right

    def __post_init__(self) -> None:
        one_of(self, "split", ("train", "val"))
        one_of(self, "none_right", ("longest", "shortest", "drop"))
        within(self, 0, math.inf, "max_videos")


@dataclass(frozen=True)
class AssignerConfig:
    width: float = 0.35  # of EfficientNet-B0
    depth: float = 0.5  # of EfficientNet-B0
    image_size: int = 96  # pixels a side of the one frame it looks at
    epochs: int = 16
    base_lr: float = 2e-3
    weight_decay: float = 0.05
    batch_size: int = 32  # frames
    class_weight: str = "sqrt"  # none | sqrt | balanced: weight of a rare length label in the loss
    soft_labels: bool = False  # learn how probable each length is to be the label, from the backbone's losses

    def __post_init__(self) -> None:
        one_of(self, "class_weight", ("none", "sqrt", "balanced"))
        above_zero(self, "width", "depth", "base_lr")
        within(self, 32, math.inf, "image_size")
        within(self, 1, math.inf, "epochs", "batch_size")
        within(self, 0, math.inf, "weight_decay")


@dataclass(frozen=True)
class RouterConfig:
    budget: float = 0.5  # mean cost, assigner included, as a share of the longest length's GMACs
    holdout_share: float = 0.3  # of the label split: the budget is solved on it, the assigner not trained

    def __post_init__(self) -> None:
        check(self, "budget", 0 < self.budget <= 1, "above 0 and at most 1")
        check(self, "holdout_share", 0 < self.holdout_share < 1, "between 0 and 1")
