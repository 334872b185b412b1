# ruff: noqa: RUF009  (`_list` is a dataclasses.field)
"""The settings of a run, with their defaults, units and limits; config.py reads them from YAML files.

`solver.base_lr` is the field `base_lr` of SolverConfig, and so on. Every class checks its values when it is
made, Config also what spans two groups, so one that exists makes sense. All are frozen; none reads files.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from revit_video.types import InputError

MISSING = "???"  # OmegaConf's mark for a value that the user must give
FOLDERS = ("class_folders", "image_folders", "frame_folders")
DATASETS = ("kinetics", "ssv2", *FOLDERS, "epic_kitchens", "demo")
ONLY_USED_BY = {  # settings of `data` that most data sets do not look at
    "path_prefix": ("kinetics", "ssv2", "epic_kitchens"),
    "separator": ("kinetics",),
    "class_names": ("kinetics",),
    "num_classes": ("kinetics",),
    "target": ("epic_kitchens",),
    "group_pattern": FOLDERS,
    "split_shares": FOLDERS,
}
STAGES = ("all", "revit", "labels", "assigner", "test")
SMALLEST_PATCH = 4  # pixels a side; the longest token length may not cut a crop finer


def _list(*items: Any) -> Any:
    return field(default_factory=lambda: list(items))


@dataclass(frozen=True)
class DataConfig:
    dataset: str = "kinetics"  # kinetics | ssv2 | class_, image_, frame_folders | epic_kitchens | demo
    root: str = MISSING  # folder of the lists, or of the class folders
    path_prefix: str = ""  # folder of the videos where it is not the root
    separator: str = "auto"  # kinetics: between path and label: auto | space | comma | tab | ; or such
    class_names: str = ""  # kinetics: file of the names; "": classes.txt beside the list
    train_split: str = "train"  # name of the list that is trained on
    val_split: str = "val"
    test_split: str = "test"
    num_classes: int = 0  # kinetics; 0: from the data
    target: str = ""  # epic_kitchens: verb | noun, which of the two is the label
    group_pattern: str = ""  # folders: regex; files with equal (group) share a split. "": by file
    split_shares: list[float] = _list(0.8, 0.1, 0.1)  # folders: of train, val, test
    decoder: str = "auto"  # reader of the videos, see decode
    sampling: str = "dense"  # dense: every sampling_rate-th frame | segments: one of each equal part
    num_frames: int = 8  # T, frames of a clip
    sampling_rate: int = 32  # frames from one taken frame to the next
    sampling_rule: str = "centred"  # centred: ours | slowfast, slowfast_offset: as the official code
    target_fps: float = 30.0  # frame rate that sampling_rate counts in under the official rules
    crop: int = 224  # pixels a side of what the model sees
    train_jitter: list[int] = _list(256, 320)  # pixels; the short side is drawn between these
    test_short_side: int = 0  # pixels; 0: the crop
    mean: list[float] = _list(0.45, 0.45, 0.45)  # of RGB in 0..1
    std: list[float] = _list(0.225, 0.225, 0.225)
    channel_order: str = "rgb"  # rgb | bgr: the order in which the model takes the colours
    flip: bool = True  # mirror half of the training clips
    flip_labels: list[list[str]] = _list()  # pairs of class names that swap in the mirror; []: labels stay
    num_workers: int = 4  # processes that read videos; 0: this one
    cache: str = "none"  # none | memory: decoded frames are kept in memory
    max_unreadable: float = 0.01  # share of a list that may be unreadable before the run stops

    def __post_init__(self) -> None:
        _one_of(self, "dataset", DATASETS)
        if not self.separator or any(letter.isalnum() for letter in self.separator):
            _one_of(self, "separator", ("auto", "space", "comma", "tab"))
        _one_of(self, "sampling", ("dense", "segments"))
        _one_of(self, "sampling_rule", ("centred", "slowfast", "slowfast_offset"))
        _above_zero(self, "target_fps")
        if self.dataset == "epic_kitchens":
            _one_of(self, "target", ("verb", "noun"))
        _one_of(self, "cache", ("none", "memory"))
        _one_of(self, "channel_order", ("rgb", "bgr"))
        _within(self, 0, math.inf, "num_classes", "test_short_side", "num_workers")
        _within(self, 1, math.inf, "num_frames", "sampling_rate", "crop")
        _within(self, 0, 1, "max_unreadable")
        _check(self, "split_shares", _are_shares(self.split_shares), "three shares >= 0 that add up to 1")
        _check(self, "mean", len(self.mean) == 3 and all(map(math.isfinite, self.mean)), "three numbers")
        scales = len(self.std) == 3 and all(0 < x < math.inf for x in self.std)
        _check(self, "std", scales, "three numbers above 0")
        jitter = self.train_jitter
        fits = len(jitter) == 2 and self.crop <= jitter[0] <= jitter[1]
        _check(self, "train_jitter", fits, f"[shortest, longest] with both at least data.crop={self.crop}")
        fits = self.test_short_side in (0, max(self.test_short_side, self.crop))
        _check(self, "test_short_side", fits, f"0 or at least data.crop={self.crop}")
        names = [name for pair in self.flip_labels for name in pair]
        pairs = all(len(pair) == 2 for pair in self.flip_labels) and len(set(names)) == len(names)
        _check(self, "flip_labels", pairs, "a list of pairs of class names, no name twice")
        mirrored = self.flip and not self.flip_labels and self.dataset in ("ssv2", "demo")
        hint = f"false for {self.dataset}, whose classes tell left from right, or data.flip_labels be given"
        _check(self, "flip", not mirrored, hint)
        _check(self, "group_pattern", _is_pattern(self.group_pattern), "a regex with exactly one (group)")
        self._refuse_unused()

    def _refuse_unused(self) -> None:
        """A setting that this data set would not look at is a misunderstanding, not a detail."""
        for name, users in ONLY_USED_BY.items():
            if self.dataset not in users and getattr(self, name) != _default(DataConfig, name):
                raise InputError(
                    f"data.{name} is {getattr(self, name)!r}, but data.dataset={self.dataset} does not "
                    f"use it, only {', '.join(users)}; leave it out"
                )


@dataclass(frozen=True)
class ModelConfig:
    name: str = "timesformer_base"  # a name of backbones.zoo
    token_lengths: list[int] = _list(14, 10, 7)  # patches per side of a frame, longest first
    patch_embed: str = ""  # "": the model's own | conv: a kernel per length | resize: the frame is resized
    distill_token: bool = True  # the shorter lengths carry a token that learns from the longest
    drop_path: float = 0.1  # chance that the last block is skipped; falls to 0 at the first
    options: dict[str, Any] = field(default_factory=dict)  # more arguments of create_model: dim, depth, ...
    init_from: str = ""  # checkpoint to start from; its head is dropped if the number of classes differs

    def __post_init__(self) -> None:
        _one_of(self, "patch_embed", ("", "conv", "resize"))
        _within(self, 0, 0.99, "drop_path")
        lengths = self.token_lengths
        falling = sorted(set(lengths), reverse=True)
        _check(self, "token_lengths", falling and falling[-1] >= 1, "one or more lengths, each at least 1")
        _check(self, "token_lengths", lengths == falling, f"falling, each length once: {falling}")


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
    steps: list[int] = _list(0, 11, 14)  # relative_steps: the epochs at which a rate begins
    lrs: list[float] = _list(1.0, 0.1, 0.01)  # relative_steps: the rates, as shares of base_lr
    batch_size: int = 8  # clips of one optimizer step
    clip_grad: float = 1.0  # largest norm of the gradient; 0: off
    ema: float = 0.0  # decay of the averaged weights per step; 0: off
    label_smoothing: float = 0.0
    log_period: int = 10  # steps
    checkpoint_period: int = 500  # steps

    def __post_init__(self) -> None:
        _one_of(self, "optimizer", ("sgd", "adamw", "muon"))
        _one_of(self, "schedule", ("cosine", "constant", "relative_steps"))
        _above_zero(self, "base_lr", "muon_lr")
        _within(self, 0, math.inf, "weight_decay", "max_steps", "clip_grad")
        _within(self, 1, math.inf, "max_epoch", "batch_size")
        _within(self, 1, math.inf, "log_period", "checkpoint_period")
        _within(self, 0, 0.99, "warmup_share", "label_smoothing")
        _within(self, 0, 0.999999, "momentum", "ema")
        rising = self.steps[:1] == [0] and self.steps == sorted(set(self.steps))
        _check(self, "steps", rising, "rising epochs that start with 0")
        fits = len(self.lrs) == len(self.steps) and all(0 < x < math.inf for x in self.lrs)
        _check(self, "lrs", fits, f"a number above 0 for each of solver.steps={self.steps}")


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
        _one_of(self, "kl_order", ("teacher_student", "student_teacher"))
        _above_zero(self, "temperature")
        _within(self, 0, 1, "distill_weight")
        _within(self, 0, 0.99, "grow_share")
        _within(self, 0, math.inf, "feature_transfer", "attention_transfer")


@dataclass(frozen=True)
class LabelsConfig:
    split: str = "train"  # train | val: the list whose videos get a length label
    max_videos: int = 0  # 0: all
    none_right: str = "longest"  # longest | shortest | drop: the label where no length is right

    def __post_init__(self) -> None:
        _one_of(self, "split", ("train", "val"))
        _one_of(self, "none_right", ("longest", "shortest", "drop"))
        _within(self, 0, math.inf, "max_videos")


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
        _one_of(self, "class_weight", ("none", "sqrt", "balanced"))
        _above_zero(self, "width", "depth", "base_lr")
        _within(self, 32, math.inf, "image_size")
        _within(self, 1, math.inf, "epochs", "batch_size")
        _within(self, 0, math.inf, "weight_decay")


@dataclass(frozen=True)
class RouterConfig:
    budget: float = 0.5  # mean cost, assigner included, as a share of the longest length's GMACs
    holdout_share: float = 0.3  # of the label split: the budget is solved on it, the assigner not trained

    def __post_init__(self) -> None:
        _check(self, "budget", 0 < self.budget <= 1, "above 0 and at most 1")
        _check(self, "holdout_share", 0 < self.holdout_share < 1, "between 0 and 1")


@dataclass(frozen=True)
class TestConfig:
    __test__ = False  # pytest takes a class called Test... for tests

    num_ensemble_views: int = 10  # clips per video
    num_spatial_crops: int = 3  # 1: one_crop | 3: along the long side
    one_crop: str = "centre"  # centre | first: left or top, as Motionformer on Something-Something
    batch_size: int = 16  # views per forward pass
    throughput: bool = True  # time the model too

    def __post_init__(self) -> None:
        _within(self, 1, math.inf, "num_ensemble_views", "batch_size")
        _check(self, "num_spatial_crops", self.num_spatial_crops in (1, 3), "1 or 3")
        _one_of(self, "one_crop", ("centre", "first"))


@dataclass(frozen=True)
class ReportConfig:
    sheet_clips: int = 6  # clips on the contact sheet
    plots: bool = True

    def __post_init__(self) -> None:
        _within(self, 0, math.inf, "sheet_clips")


@dataclass(frozen=True)
class Config:
    stage: str = "all"  # all | revit | labels | assigner | test
    output_dir: str = "output/run"
    seed: int = 0
    resume: bool = False  # go on from the last checkpoint in output_dir
    device: str = "auto"  # auto | cpu | cuda | cuda:N
    dtype: str = "auto"  # auto | float32 | bfloat16
    num_threads: int = 0  # of torch on the CPU; 0: torch's default
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    solver: SolverConfig = field(default_factory=SolverConfig)
    revit: ReViTConfig = field(default_factory=ReViTConfig)
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    assigner: AssignerConfig = field(default_factory=AssignerConfig)
    router: RouterConfig = field(default_factory=RouterConfig)
    test: TestConfig = field(default_factory=TestConfig)
    report: ReportConfig = field(default_factory=ReportConfig)

    def __post_init__(self) -> None:
        _one_of(self, "stage", STAGES)
        _one_of(self, "dtype", ("auto", "float32", "bfloat16"))
        known = re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device) is not None
        _check(self, "device", known, "auto, cpu, cuda or cuda:N")
        _check(self, "output_dir", self.output_dir.strip(), "the name of a folder")
        _within(self, 0, math.inf, "seed", "num_threads")
        longest, crop, most = self.model.token_lengths[0], self.data.crop, self.data.crop // SMALLEST_PATCH
        if longest > most:
            raise InputError(
                f"model.token_lengths starts with {longest}, but data.crop={crop} allows at most {most} "
                f"(patches of {SMALLEST_PATCH} px); give shorter lengths or a larger crop"
            )


def _check(config: Any, name: str, holds: Any, expected: str) -> None:
    """Refuse a value by its dotted key: the group of SolverConfig is `solver`, that of Config is none."""
    if not holds:
        group = type(config).__name__.removesuffix("Config").lower()
        key = f"{group}.{name}" if group else name
        raise InputError(f"{key} is {getattr(config, name)!r}, but must be {expected}")


def _default(kind: type, name: str) -> Any:
    chosen = kind.__dataclass_fields__[name]
    return chosen.default_factory() if callable(chosen.default_factory) else chosen.default


def _one_of(config: Any, name: str, choices: Sequence[str]) -> None:
    value = getattr(config, name)
    near = difflib.get_close_matches(value.lower(), choices, n=1)
    hint = f". Did you mean {near[0]}?" if near else ""
    _check(config, name, value in choices, f"one of {', '.join(choices)}{hint}")


def _within(config: Any, low: float, high: float, *names: str) -> None:
    expected = f"at least {low}" if high == math.inf else f"from {low} to {high}"
    for name in names:
        value = getattr(config, name)
        _check(config, name, low <= value <= high and value < math.inf, expected)


def _above_zero(config: Any, *names: str) -> None:
    for name in names:
        _check(config, name, 0 < getattr(config, name) < math.inf, "a number above 0")


def _are_shares(shares: list[float]) -> bool:
    return len(shares) == 3 and min(shares) >= 0 and math.isclose(sum(shares), 1, abs_tol=1e-6)


def _is_pattern(pattern: str) -> bool:
    try:
        return not pattern or re.compile(pattern).groups == 1
    except re.error:
        return False
