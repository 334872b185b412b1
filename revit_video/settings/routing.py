"""Settings of the length labels, the assigner and its budget."""

from __future__ import annotations

import math
from dataclasses import dataclass

from revit_video.settings.checks import above_zero, check, one_of, within


@dataclass(frozen=True)
class LabelsConfig:
    split: str = "train"  # train | val: the list whose videos get a length label
    max_videos: int = 0  # 0: all
    folds: int = 0  # parts of the training list, each labelled by a model that has not seen it; 0: off
    rule: str = "shortest_right"  # shortest_right | near_longest: what is a video's length label
    none_right: str = "longest"  # longest | shortest | drop: the label where no length is right
    epsilon: float = (
        0.1  # nats: near_longest takes the shortest length whose loss is so close to the longest's
    )

    def __post_init__(self) -> None:
        one_of(self, "split", ("train", "val"))
        one_of(self, "rule", ("shortest_right", "near_longest"))
        one_of(self, "none_right", ("longest", "shortest", "drop"))
        within(self, 0, math.inf, "max_videos", "epsilon")
        check(self, "folds", self.folds == 0 or self.folds >= 2, "0 or at least 2")
        both = self.folds and self.split == "val"
        check(self, "folds", not both, "0 with labels.split=val, of which the model has seen nothing")


@dataclass(frozen=True)
class AssignerConfig:
    width: float = 0.35  # of EfficientNet-B0
    depth: float = 0.5  # of EfficientNet-B0
    image_size: int = 96  # pixels a side of a frame it looks at
    frames: int = 1  # 1: the middle frame | 3: and how the first and the last frame differ from it
    epochs: int = 16
    base_lr: float = 2e-3
    weight_decay: float = 0.05
    batch_size: int = 32  # frames
    loss: str = "cross_entropy"  # cross_entropy | focal | cost | regression
    focal_gamma: float = 2.0  # of the focal loss; 0 is the cross-entropy
    cost_weight: float = 0.1  # of the cost loss: errors per video that the longest length's cost is worth
    calibrate: bool = False  # scale the logits by a temperature that fits the held-out labels
    class_weight: str = "sqrt"  # none | sqrt | balanced: weight of a rare length label in the loss
    soft_labels: bool = False  # learn how probable each length is to be the label, from the backbone's losses

    def __post_init__(self) -> None:
        one_of(self, "class_weight", ("none", "sqrt", "balanced"))
        one_of(self, "loss", ("cross_entropy", "focal", "cost", "regression"))
        check(self, "frames", self.frames in (1, 3), "1 or 3")
        above_zero(self, "width", "depth", "base_lr")
        within(self, 32, math.inf, "image_size")
        within(self, 1, math.inf, "epochs", "batch_size")
        within(self, 0, math.inf, "weight_decay", "focal_gamma", "cost_weight")
        if self.calibrate and self.loss in ("cost", "regression"):
            check(self, "calibrate", False, f"false with assigner.loss={self.loss}, which learns no labels")


@dataclass(frozen=True)
class RouterConfig:
    kind: str = "assigner"  # assigner | cascade | hybrid | auto: the best of them on held-out videos
    budget: float = 0.5  # most mean cost, assigner included, as a share of the longest length's GMACs
    budget_gmacs: float = 0.0  # the same in GMACs per view, in place of `budget`; 0: not given
    share: str = "clip"  # clip | video: the crops of a clip, or all views of a video, run at the same length
    holdout_share: float = 0.3  # of the label split: the budget is solved on it, the assigner not trained

    def __post_init__(self) -> None:
        one_of(self, "kind", ("assigner", "cascade", "hybrid", "auto"))
        one_of(self, "share", ("clip", "video"))
        within(self, 0, math.inf, "budget_gmacs")
        check(self, "budget", 0 < self.budget <= 1, "above 0 and at most 1")
        check(self, "holdout_share", 0 < self.holdout_share < 1, "between 0 and 1")
