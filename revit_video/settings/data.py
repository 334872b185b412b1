# ruff: noqa: RUF009  (`items` is a dataclasses.field)
"""Settings of the lists, the clips and how they are read."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from revit_video.settings.checks import above_zero, check, default, items, one_of, within
from revit_video.types import InputError

MISSING = "???"  # OmegaConf's mark for a value that the user must give
FOLDERS = ("class_folders", "image_folders", "frame_folders")
DATASETS = ("kinetics", "ssv2", *FOLDERS, "epic_kitchens", "demo", "packed")
TELL_LEFT_FROM_RIGHT = ("ssv2", "demo")  # data sets whose classes a mirror changes
ONLY_USED_BY = {  # settings of `data` that most data sets do not look at
    "path_prefix": ("kinetics", "ssv2", "epic_kitchens"),
    "separator": ("kinetics",),
    "class_names": ("kinetics",),
    "num_classes": ("kinetics",),
    "target": ("epic_kitchens",),
    "group_pattern": FOLDERS,
    "split_shares": FOLDERS,
    "test_fold": FOLDERS,
    "label_maps": ("image_folders",),
}


@dataclass(frozen=True)
class DataConfig:
    dataset: str = "kinetics"  # kinetics | ssv2 | class_, image_, frame_folders | epic_kitchens | packed...
    root: str = MISSING  # folder of the lists, or of the class folders
    path_prefix: str = ""  # folder of the videos where it is not the root
    separator: str = "auto"  # kinetics: between path and label: auto | space | comma | tab | ; or such
    class_names: str = ""  # kinetics: file of the names; "": classes.txt beside the list
    train_split: str = "train"  # name of the list that is trained on
    val_split: str = "val"
    test_split: str = "test"
    num_classes: int = 0  # kinetics; 0: from the data
    target: str = ""  # epic_kitchens: verb | noun | both, what is learnt
    group_pattern: str = ""  # folders: regex; files with equal (group) share a split. "": by file
    split_shares: list[float] = items(0.8, 0.1, 0.1)  # folders: of train, val, test
    test_fold: str = ""  # folders: k/K: of K parts part k is the test list, the next the val list
    leave_out: str = ""  # k/K: the training list without part k of K, by a hash of the names
    label_maps: str = ""  # image_folders: folder of the label maps of the training images; "": none
    decoder: str = "auto"  # reader of the videos, see decode
    sampling: str = "dense"  # dense: every sampling_rate-th frame | segments: one of each equal part
    num_frames: int = 8  # T, frames of a clip
    sampling_rate: int = 32  # frames from one taken frame to the next
    sampling_rule: str = "centred"  # centred: ours | slowfast, slowfast_offset: as the official code
    target_fps: float = 30.0  # frame rate that sampling_rate counts in under the official rules
    crop: int = 224  # pixels a side of what the model sees
    train_jitter: list[int] = items(256, 320)  # pixels; the short side is drawn between these
    test_short_side: int = 0  # pixels; 0: the crop
    mean: list[float] = items(0.45, 0.45, 0.45)  # of RGB in 0..1
    std: list[float] = items(0.225, 0.225, 0.225)
    channel_order: str = "rgb"  # rgb | bgr: the order in which the model takes the colours
    flip: bool = True  # mirror half of the training clips
    flip_labels: list[list[str]] = items()  # pairs of class names that swap in the mirror; []: labels stay
    num_workers: int = 4  # processes that read videos; 0: this one
    prefetch: int = 2  # batches that each of them reads ahead
    cache: str = "none"  # none | memory: decoded frames are kept in memory
    max_unreadable: float = 0.01  # share of a list that may be unreadable before the run stops

    def __post_init__(self) -> None:
        one_of(self, "dataset", DATASETS)
        if not self.separator or any(letter.isalnum() for letter in self.separator):
            one_of(self, "separator", ("auto", "space", "comma", "tab"))
        one_of(self, "sampling", ("dense", "segments"))
        one_of(self, "sampling_rule", ("centred", "slowfast", "slowfast_offset"))
        above_zero(self, "target_fps")
        if self.dataset == "epic_kitchens":
            one_of(self, "target", ("verb", "noun", "both"))
        one_of(self, "cache", ("none", "memory"))
        one_of(self, "channel_order", ("rgb", "bgr"))
        within(self, 0, math.inf, "num_classes", "test_short_side", "num_workers")
        within(self, 1, math.inf, "num_frames", "sampling_rate", "crop", "prefetch")
        within(self, 0, 1, "max_unreadable")
        check(self, "split_shares", are_shares(self.split_shares), "three shares >= 0 that add up to 1")
        rule = self.split_shares == default(DataConfig, "split_shares")
        hint = "not given with data.test_fold, which says what is train, val and test"
        check(self, "split_shares", rule or not self.test_fold, hint)
        check(self, "test_fold", is_fold(self.test_fold, least=3), "k/K with 0 <= k < K and K at least 3")
        check(self, "leave_out", is_fold(self.leave_out, least=2), "k/K with 0 <= k < K and K at least 2")
        check(self, "mean", len(self.mean) == 3 and all(map(math.isfinite, self.mean)), "three numbers")
        scales = len(self.std) == 3 and all(0 < x < math.inf for x in self.std)
        check(self, "std", scales, "three numbers above 0")
        jitter = self.train_jitter
        fits = len(jitter) == 2 and self.crop <= jitter[0] <= jitter[1]
        check(self, "train_jitter", fits, f"[shortest, longest] with both at least data.crop={self.crop}")
        fits = self.test_short_side in (0, max(self.test_short_side, self.crop))
        check(self, "test_short_side", fits, f"0 or at least data.crop={self.crop}")
        names = [name for pair in self.flip_labels for name in pair]
        pairs = all(len(pair) == 2 for pair in self.flip_labels) and len(set(names)) == len(names)
        check(self, "flip_labels", pairs, "a list of pairs of class names, no name twice")
        mirrored = self.flip and not self.flip_labels and self.dataset in TELL_LEFT_FROM_RIGHT
        hint = f"false for {self.dataset}, whose classes tell left from right, or data.flip_labels be given"
        check(self, "flip", not mirrored, hint)
        check(self, "group_pattern", is_pattern(self.group_pattern), "a regex with exactly one (group)")
        whole = self.dataset != "packed" or self.decoder in ("auto", "pyav")
        check(self, "decoder", whole, "auto or pyav for packed, as the others read whole files only")
        one_frame = not self.label_maps or self.num_frames == 1
        check(self, "num_frames", one_frame, "1 with data.label_maps, which are of single pictures")
        self._refuse_unused()

    def _refuse_unused(self) -> None:
        """A setting that this data set would not look at is a misunderstanding, not a detail."""
        for name, users in ONLY_USED_BY.items():
            if self.dataset not in users and getattr(self, name) != default(DataConfig, name):
                raise InputError(
                    f"data.{name} is {getattr(self, name)!r}, but data.dataset={self.dataset} does not "
                    f"use it, only {', '.join(users)}; leave it out"
                )


def are_shares(shares: list[float]) -> bool:
    return len(shares) == 3 and min(shares) >= 0 and math.isclose(sum(shares), 1, abs_tol=1e-6)


def is_fold(text: str, *, least: int) -> bool:
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    return not text or (found is not None and int(found[1]) < int(found[2]) >= least)


def is_pattern(pattern: str) -> bool:
    try:
        return not pattern or re.compile(pattern).groups == 1
    except re.error:
        return False
