"""Lists of videos and their classes, from the settings."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from revit_video.config import Config
from revit_video.data.class_folders import class_folder_split
from revit_video.data.demo import demo_split
from revit_video.data.epic_kitchens import epic_split
from revit_video.data.kinetics import kinetics_split
from revit_video.data.ssv2 import ssv2_split
from revit_video.types import InputError, Split, VideoSample

FOLDER_KINDS = {"class_folders": "videos", "image_folders": "images", "frame_folders": "frames"}


def build_split(config: Config, split: str) -> Split:
    """The list called `split` (train, val or test) of the config's data set."""
    data = config.data
    name = {"train": data.train_split, "val": data.val_split, "test": data.test_split}[split]
    root = Path(data.root)
    if data.dataset == "demo":
        return demo_split(root, name)
    if data.dataset == "ssv2":
        return ssv2_split(root, name, path_prefix=data.path_prefix)
    if data.dataset == "epic_kitchens":
        return epic_split(root, name, target=data.target, path_prefix=data.path_prefix)
    if data.dataset in FOLDER_KINDS:
        pattern = {"group_pattern": data.group_pattern} if data.group_pattern else {}
        kind = FOLDER_KINDS[data.dataset]
        return class_folder_split(root, name, kind=kind, shares=data.split_shares, **pattern)
    return kinetics_split(
        root / f"{name}.csv",
        root=data.path_prefix or root,
        separator=data.separator,
        class_names_file=data.class_names or None,
        num_classes=data.num_classes,
    )


def describe_list(name: str, split: Split, *, shown: int = 2) -> str:
    """One line on a list: how much it holds, and its first rows as they were understood."""
    rows = "; ".join(
        f"{Path(sample.path).parent.name}/{Path(sample.path).name}"
        + (f" [{sample.begin}:{sample.end}]" if sample.begin or sample.end else "")
        + f" = {sample.label} {split.class_names[sample.label]!r}"
        for sample in split.samples[:shown]
    )
    seen = len(Counter(sample.label for sample in split.samples))
    classes = f"{len(split.class_names)} classes" + (f", {seen} seen" * (seen < len(split.class_names)))
    more = "; ..." * (len(split.samples) > shown)
    return f"{name} list: {len(split.samples)} videos, {classes}: {rows}{more}"


def check_classes(split: Split, class_names: Sequence[str], *, source: str) -> Split:
    """The list with its labels in the model's order of classes. The same names in another order are put in
    order; other names are refused.
    """
    ours, theirs = list(class_names), list(split.class_names)
    if ours == theirs:
        return split
    if len(set(ours)) == len(ours) and sorted(ours) == sorted(theirs):
        place = {name: label for label, name in enumerate(ours)}
        samples = tuple(replace(sample, label=place[theirs[sample.label]]) for sample in split.samples)
        return replace(split, samples=samples, class_names=tuple(ours))
    first = next(
        (
            f"class {i} is {b!r} in the data, {a!r} in the model"
            for i, (a, b) in enumerate(zip(ours, theirs, strict=False))
            if a != b
        ),
        "",
    )
    raise InputError(
        f"{source} has {len(ours)} classes, the data {len(theirs)}{'; ' * bool(first)}{first}; "
        "use the data it was trained on, or give the names of the classes"
    )


def flip_map(pairs: Sequence[Sequence[str]], class_names: Sequence[str]) -> dict[int, int]:
    """Pairs of class names that swap under a flip, as labels in both directions."""
    swaps = {}
    for left, right in pairs:
        for name in (left, right):
            if name not in class_names:
                raise InputError(
                    f"data.flip_labels names the class {name!r}, which the data does not have: "
                    f"{list(class_names)[:20]}"
                )
        a, b = class_names.index(left), class_names.index(right)
        swaps |= {a: b, b: a}
    return swaps


def label_samples(
    config: Config, class_names: Sequence[str], *, source: str
) -> tuple[Split, tuple[VideoSample, ...]]:
    """The list that gets length labels, in the model's order of classes, cut to `labels.max_videos` by a draw
    with the config's seed.
    """
    split = check_classes(build_split(config, config.labels.split), class_names, source=source)
    samples = list(split.samples)
    if 0 < config.labels.max_videos < len(samples):
        samples = random.Random(config.seed).sample(samples, config.labels.max_videos)
    return split, tuple(samples)
