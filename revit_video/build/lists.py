"""Lists of videos and their classes, from the settings."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from revit_video.config import Config
from revit_video.data.class_folders import class_folder_split
from revit_video.data.classes import class_lists, label_name, order_of
from revit_video.data.demo import demo_split
from revit_video.data.epic_kitchens import epic_split
from revit_video.data.folds import parse_fold, without_fold
from revit_video.data.kinetics import kinetics_split
from revit_video.data.packed import packed_kind, packed_split
from revit_video.data.ssv2 import ssv2_split
from revit_video.evaluate.heads import Heads, join_labels, split_labels
from revit_video.settings.data import TELL_LEFT_FROM_RIGHT
from revit_video.types import InputError, Split, VideoSample

FOLDER_KINDS = {"class_folders": "videos", "image_folders": "images", "frame_folders": "frames"}


def build_split(config: Config, split: str) -> Split:
    """The list called `split` (train, val or test) of the config's data set."""
    found = whole_split(config, split)
    if split == "train" and config.data.leave_out:
        number, parts = parse_fold(config.data.leave_out)
        return without_fold(found, number, parts, group_pattern=config.data.group_pattern)
    return found


def whole_split(config: Config, split: str) -> Split:
    """The same before anything is left out."""
    data = config.data
    name = {"train": data.train_split, "val": data.val_split, "test": data.test_split}[split]
    root = Path(data.root)
    if data.dataset == "demo":
        return demo_split(root, name)
    if data.dataset == "packed":
        kind = packed_kind(root, name)
        if kind in TELL_LEFT_FROM_RIGHT and data.flip and not data.flip_labels:
            raise InputError(
                f"data.flip is true, but must be false for packed {kind}, whose classes tell left from "
                "right, or data.flip_labels be given"
            )
        return packed_split(root, name)
    if data.dataset == "ssv2":
        return ssv2_split(root, name, path_prefix=data.path_prefix)
    if data.dataset == "epic_kitchens":
        return epic_split(root, name, target=data.target, path_prefix=data.path_prefix)
    if data.dataset in FOLDER_KINDS:
        pattern = {"group_pattern": data.group_pattern} if data.group_pattern else {}
        kind = FOLDER_KINDS[data.dataset]
        fold = parse_fold(data.test_fold) if data.test_fold else None
        return class_folder_split(root, name, kind=kind, shares=data.split_shares, fold=fold, **pattern)
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
        + f" = {sample.label} {label_name(sample.label, split.class_names, split.heads)!r}"
        for sample in split.samples[:shown]
    )
    lists = class_lists(split.class_names, split.heads)
    parts = zip(*(split_labels(sample.label, split.heads) for sample in split.samples), strict=True)
    seen = sum(len(set(part)) for part in parts)
    classes = f"{counted(lists)} classes" + (f", {seen} seen" * (seen < len(split.class_names)))
    more = "; ..." * (len(split.samples) > shown)
    return f"{name} list: {len(split.samples)} videos, {classes}: {rows}{more}"


def check_classes(
    split: Split, class_names: Sequence[str], *, source: str, heads: Sequence[int] = ()
) -> Split:
    """The list with its labels in the model's order of classes. The same names in another order are put in
    order; other names are refused. With several lists of classes (`heads`) that goes for each of them.
    """
    if (tuple(class_names), tuple(heads)) == (split.class_names, split.heads):
        return split
    ours, theirs = class_lists(class_names, tuple(heads)), class_lists(split.class_names, split.heads)
    if len(ours) == len(theirs):
        places = [order_of(names, before=model) for names, model in zip(theirs, ours, strict=True)]
        if None not in places:
            sizes, samples = tuple(heads), []
            for sample in split.samples:
                parts = split_labels(sample.label, sizes)
                moved = [place[part] for place, part in zip(places, parts, strict=True)]
                samples.append(replace(sample, label=join_labels(moved, sizes)))
            return replace(split, samples=tuple(samples), class_names=tuple(class_names))
    first = next(
        (
            f"class {i} is {b!r} in the data, {a!r} in the model"
            for i, (a, b) in enumerate(zip(class_names, split.class_names, strict=False))
            if a != b
        ),
        "",
    )
    raise InputError(
        f"{source} has {counted(ours)} classes, the data {counted(theirs)}{'; ' * bool(first)}{first}; "
        "use the data it was trained on, or give the names of the classes"
    )


def counted(lists: Sequence[Sequence[str]]) -> str:
    """How many classes: "400", or "97 + 300"."""
    return " + ".join(str(len(names)) for names in lists)


def flip_map(pairs: Sequence[Sequence[str]], names: Sequence[str], heads: Heads = ()) -> dict[int, int]:
    """Pairs of class names that swap under a flip, as labels in both directions.

    With several lists a pair swaps in every list that has both names, and the labels are those that change.

    Raises:
        InputError: no list has both names.
    """
    lists = class_lists(names, heads)
    swaps: list[dict[int, int]] = [{} for _ in lists]
    for left, right in pairs:
        for name in (left, right):
            if name not in names:
                raise InputError(
                    f"data.flip_labels names the class {name!r}, which the data does not have: "
                    f"{list(names)[:20]}"
                )
        there = [number for number, listed in enumerate(lists) if {left, right} <= set(listed)]
        if not there:
            raise InputError(f"data.flip_labels pairs {left!r} with {right!r}, which are of different lists")
        for number in there:
            a, b = lists[number].index(left), lists[number].index(right)
            swaps[number] |= {a: b, b: a}
    flipped = {0: 0}
    for listed, swap in zip(lists, swaps, strict=True):
        flipped = {
            label * len(listed) + part: there * len(listed) + swap.get(part, part)
            for label, there in flipped.items()
            for part in range(len(listed))
        }
    return {label: there for label, there in flipped.items() if label != there}


def label_samples(
    config: Config, class_names: Sequence[str], *, source: str, heads: Sequence[int] = ()
) -> tuple[Split, tuple[VideoSample, ...]]:
    """The list that gets length labels, in the model's order of classes, cut to `labels.max_videos` by a draw
    with the config's seed.
    """
    split = build_split(config, config.labels.split)
    split = check_classes(split, class_names, source=source, heads=heads)
    samples = list(split.samples)
    if 0 < config.labels.max_videos < len(samples):
        samples = random.Random(config.seed).sample(samples, config.labels.max_videos)
    return split, tuple(samples)
