"""Parts of a list by a hash of the names: the same on every machine, whatever else is in the list."""

from __future__ import annotations

import hashlib
from pathlib import Path

from revit_video.data.class_folders import group_name
from revit_video.types import InputError, Split, VideoSample


def parse_fold(text: str) -> tuple[int, int]:
    """Part 2 of 5 from "2/5": (2, 5)."""
    number, parts = map(int, text.split("/"))
    return number, parts


def fold_of(sample: VideoSample, parts: int, *, group_pattern: str = "") -> int:
    """The part, 0 to parts - 1, that a video is in: by a hash of its file name, or of its group's name, so
    that a group is in one part. Samples cut out of one file are in one part too.
    """
    path = Path(sample.path)
    name = group_name(path, group_pattern) if group_pattern else path.name
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % parts


def without_fold(split: Split, number: int, parts: int, *, group_pattern: str = "") -> Split:
    """The list without part `number` of `parts`.

    Raises:
        InputError: that part is empty, or the whole list.
    """
    kept = tuple(s for s in split.samples if fold_of(s, parts, group_pattern=group_pattern) != number)
    if not 0 < len(kept) < len(split.samples):
        raise InputError(
            f"part {number} of {parts} holds {len(split.samples) - len(kept)} of the {len(split.samples)} "
            "videos of the list, so there is nothing to leave out or to keep; give fewer parts "
            "(labels.folds, data.leave_out)"
        )
    return Split(kept, split.class_names, split.heads)
