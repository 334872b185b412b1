"""Class folders: every class is a folder of videos, with folders for the splits above them or without.

root/train/hug/1.avi   root/val/hug/7.avi       the folders are the splits
root/hug/1.avi         root/kick/2.avi          a rule on the file names makes the splits, the same every time

root/tags.csv                                   optional: path,tag; words that group results in the report

In place of videos they can hold images (ImageNet: root/train/n01440764/a.JPEG), each a video of one frame, or
folders of frames (root/train/hug/1/000001.jpg), each a video.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from revit_video.types import InputError, Split, VideoSample

SPLITS = ("train", "val", "test")  # the order of the shares
VIDEO_ENDINGS = (".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".webm", ".wmv")
IMAGE_ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".webp")
KINDS = ("videos", "images", "frames")  # what a class folder holds
TAGS = "tags.csv"


def class_folder_split(
    root: str | os.PathLike,
    split: str,
    *,
    kind: str = "videos",
    shares: Sequence[float] = (0.8, 0.1, 0.1),
    group_pattern: str = "",
    fold: tuple[int, int] | None = None,
) -> Split:
    """The videos of a split; the classes are the folders by name.

    Without split folders, whole groups of videos go to train, val or test, by a hash of their names: the
    same on every machine, but adding videos may move others. A group should be a filming session,
    a person or a source video, or else a model is tested on what it has seen.

    Args:
        split: name of a split folder; "train", "val" or "test" where there are none.
        kind: what a class folder holds: "videos", "images", or "frames", a folder of images for each video.
        shares: of the groups, for train, val and test; 0 leaves a split out.
        group_pattern: regex searched in the file name without its ending, its one (group) names the group:
            r"_(\\d+)_" puts a_7_x and b_7_y together. "": every file is alone, and every class is shared out
            for itself.
        fold: (k, K) in place of the shares: the groups are dealt to K parts, of which part k is the test
            list, the next one (after the last the first) the val list, and the others are trained on. With
            K = the number of groups every group is left out once.

    Raises:
        InputError: no videos, a class that a split would lack, a file that the pattern does not fit.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"no folder {root}; expected one folder per class in it")
    if kind not in KINDS:
        raise InputError(f"class folders hold one of {', '.join(KINDS)}, not {kind!r}")
    depth = 2 if kind == "frames" else 1  # of the folders below a split folder
    split_folders = [folder for folder in _folders(root) if _is_deep(folder, depth)]
    if split_folders and fold:
        raise InputError(
            f"{root} has the split folders {', '.join(folder.name for folder in split_folders)}, so "
            "data.test_fold has nothing to share out; leave it out"
        )
    if split_folders:
        return tagged(_from_split_folders(root, split, split_folders, kind), root)
    if split not in SPLITS:
        raise InputError(f"{root} has no split folders, so the splits are {', '.join(SPLITS)}, not {split!r}")
    classes = {folder.name: _videos(folder, kind, may_be_empty=False) for folder in _folders(root)}
    if not classes:
        raise InputError(f"{root} holds no folders; expected one folder of {kind} per class")
    return tagged(_from_rule(root, split, classes, shares, group_pattern, fold), root)


def tagged(split: Split, root: Path) -> Split:
    """The list with the tags that root/tags.csv gives to paths below the root; others stay without."""
    if not (root / TAGS).is_file():
        return split
    with open(root / TAGS, newline="") as file:
        table = csv.DictReader(file)
        if not {"path", "tag"} <= set(table.fieldnames or ()):
            raise InputError(f"{root / TAGS} begins with {table.fieldnames}, but must begin with path,tag")
        tags = {str(root / row["path"]): row["tag"] or "" for row in table}
    samples = tuple(replace(sample, tag=tags.get(sample.path, "")) for sample in split.samples)
    return replace(split, samples=samples)


def _from_split_folders(root: Path, split: str, split_folders: list[Path], kind: str) -> Split:
    names = sorted({folder.name for parent in split_folders for folder in _folders(parent)})
    if split not in [folder.name for folder in split_folders]:
        found = ", ".join(folder.name for folder in split_folders)
        raise InputError(f"{root} has no split folder {split!r} with class folders; it has {found}")
    for name in names:
        if not (root / split / name).is_dir():
            hint = "make an empty one if the split has no such video"
            raise InputError(
                f"{root / split} has no folder for the class {name!r} of the other splits; {hint}"
            )
    samples = tuple(
        VideoSample(str(path), label)
        for label, name in enumerate(names)
        for path in _videos(root / split / name, kind, may_be_empty=True)
    )
    if not samples:
        endings = VIDEO_ENDINGS if kind == "videos" else IMAGE_ENDINGS
        raise InputError(f"{root / split} holds no {kind}; known endings are {' '.join(endings)}")
    return Split(samples, tuple(names))


def _from_rule(
    root: Path,
    split: str,
    classes: dict[str, list[Path]],
    shares: Sequence[float],
    group_pattern: str,
    fold: tuple[int, int] | None,
) -> Split:
    if len(shares) != len(SPLITS) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise InputError(
            f"the split shares are {list(shares)}, but must be three, at least 0, with the sum 1"
        )
    if not fold and shares[SPLITS.index(split)] == 0:
        raise InputError(f"the split {split} has the share 0 in data.split_shares={list(shares)}")
    if group_pattern:
        group_of = {path: group_name(path, group_pattern) for paths in classes.values() for path in paths}
        split_of = _share_out(set(group_of.values()), shares, fold)
    else:
        group_of = {path: f"{name}/{path.name}" for name, paths in classes.items() for path in paths}
        split_of = {}
        for paths in classes.values():
            split_of |= _share_out({group_of[path] for path in paths}, shares, fold)
    # a part of few groups may lack a class: the training list alone must have all
    for wanted, share in zip(SPLITS, (1, 0, 0) if fold else shares, strict=True):
        for name, paths in classes.items():
            if share and not any(split_of[group_of[path]] == wanted for path in paths):
                hint = "change data.split_shares or data.group_pattern, or add videos"
                raise InputError(
                    f"no video of the class {name!r} of {root} falls into the split {wanted}; {hint}"
                )
    samples = tuple(
        VideoSample(str(path), label)
        for label, paths in enumerate(classes.values())
        for path in paths
        if split_of[group_of[path]] == split
    )
    return Split(samples, tuple(classes))


def _share_out(groups: set[str], shares: Sequence[float], fold: tuple[int, int] | None) -> dict[str, str]:
    """Group -> split: the shares rounded so that they add up, one group at least for a share above 0; with a
    `fold` parts of sizes that differ by one at most.
    """
    order = sorted(groups, key=lambda group: hashlib.sha256(group.encode()).hexdigest())
    if fold:
        number, parts = fold
        if len(order) < parts:
            raise InputError(
                f"data.test_fold={number}/{parts} wants {parts} parts of {len(order)} groups of videos; give "
                f"at most {len(order)} (data.group_pattern says what a group is)"
            )
        named = {number: "test", (number + 1) % parts: "val"}
        return {group: named.get(place % parts, "train") for place, group in enumerate(order)}
    exact = [share * len(order) for share in shares]
    counts = [int(number + 1e-9) for number in exact]
    for index in sorted(range(len(shares)), key=lambda i: counts[i] - exact[i])[: len(order) - sum(counts)]:
        counts[index] += 1
    for index, share in enumerate(shares):
        if share and not counts[index] and max(counts) > 1:
            counts[counts.index(max(counts))] -= 1
            counts[index] += 1
    names = [split for split, count in zip(SPLITS, counts, strict=True) for _ in range(count)]
    return dict(zip(order, names, strict=True))


def group_name(path: Path, pattern: str) -> str:
    """The one (group) of a regex in a file's name without its ending."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"the group pattern {pattern!r} is no regex: {error}") from None
    if compiled.groups != 1:
        raise InputError(f"the group pattern {pattern!r} has {compiled.groups} (groups), but must have one")
    match = compiled.search(path.stem)
    if not match or match[1] is None:
        raise InputError(f"the group pattern {pattern!r} does not fit {path.stem!r} of {path}")
    return match[1]


def _folders(root: Path) -> list[Path]:
    return sorted(root / entry.name for entry in _entries(root) if entry.is_dir())


def _is_deep(folder: Path, depth: int) -> bool:
    """Whether there are folders in folders, `depth` below this one."""
    return depth == 0 or any(_is_deep(inner, depth - 1) for inner in _folders(folder))


def _entries(folder: Path) -> list[os.DirEntry]:
    """What a folder holds, hidden things left out. Entries know their kind: no question per file."""
    with os.scandir(folder) as entries:
        return [entry for entry in entries if not entry.name.startswith(".")]


def _videos(folder: Path, kind: str, *, may_be_empty: bool) -> list[Path]:
    """The videos, images or folders of frames in a class folder, by name. Where there are none, the error
    counts what else there is.
    """
    if kind == "frames":
        found = [folder / entry.name for entry in _entries(folder) if entry.is_dir()]
        others = [entry.name for entry in _entries(folder) if entry.is_file()]
    else:
        endings = VIDEO_ENDINGS if kind == "videos" else IMAGE_ENDINGS
        files = [entry.name for entry in _entries(folder) if entry.is_file()]
        found = [folder / name for name in files if os.path.splitext(name)[1].lower() in endings]
        others = files
    if not found and not may_be_empty:
        counts = Counter(os.path.splitext(name)[1] or "no ending" for name in others)
        shown = ", ".join(f"{count} with {ending}" for ending, count in counts.most_common(3)) or "nothing"
        what = "folders of frames" if kind == "frames" else kind
        hint = "its " + what
        if kind != "images" and any(name.lower().endswith(IMAGE_ENDINGS) for name in others):
            hint += "; for images give data.dataset=image_folders"
        raise InputError(
            f"the class folder {folder} holds no {what} (files: {shown}); remove it or name {hint}"
        )
    return sorted(found)
