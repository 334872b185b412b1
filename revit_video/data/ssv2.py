"""Something-Something V2 lists: three JSON files in one folder, and the videos called by their id. A video is
a file, or a folder of frames, named by a frame list beside the JSON files (`ssv2_frames.py`) or by the id.

something-something-v2-labels.json             {"Holding something": "0", ...}
something-something-v2-{train,validation}.json [{"id": "74225", "template": "Holding [something]", ...}, ...]
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from revit_video.data.list_files import read_json, refuse_missing_videos, shorten
from revit_video.data.ssv2_frames import compare_ids, is_frame_list, read_frame_list
from revit_video.types import InputError, Split, VideoSample

PREFIX = "something-something-v2-"
SPLIT_NAMES = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
FRAME_LISTS = {"train": "train.csv", "validation": "val.csv", "test": "test.csv"}
FOLDERS, ENDINGS = ("", "videos/", "frames/"), (".webm", ".mp4", "")  # no ending: a folder of frames
PATTERNS = tuple(f"{folder}{{id}}{ending}" for folder in FOLDERS for ending in ENDINGS)
LOOKED_AT = 100  # videos that are tried to find which pattern a folder follows


def ssv2_split(
    root: str | os.PathLike,
    split: str,
    *,
    path_prefix: str | os.PathLike = "",
    pattern: str = "",
    check_files: bool = True,
) -> Split:
    """The videos of "train", "val" or "test".

    Args:
        root: folder of the JSON files and, where the videos are frames, of train.csv and val.csv.
        path_prefix: folder of the videos; "": the root.
        pattern: file name of a video in that folder, like "{id}.webm"; "": what a frame list says, or else
            the first of PATTERNS that fits.
        check_files: refuse a list that names files which do not exist.

    Raises:
        InputError: a file is missing or malformed, a template is unknown, or videos are missing.
    """
    if split not in SPLIT_NAMES:
        raise InputError(f"no split named {split!r}; the splits are {', '.join(SPLIT_NAMES)}")
    root = Path(root)
    folder = Path(path_prefix) if os.fspath(path_prefix) else root
    labels_file = root / f"{PREFIX}labels.json"
    list_file = root / f"{PREFIX}{SPLIT_NAMES[split]}.json"
    labels = _read_labels(labels_file)
    entries = _read_entries(list_file, labels, labels_file)
    frame_list = root / FRAME_LISTS[SPLIT_NAMES[split]]
    if not pattern and is_frame_list(frame_list):
        videos = read_frame_list(frame_list, folder)
        compare_ids(list(entries), videos, source=list_file, frames=frame_list)
        samples = tuple(
            VideoSample(videos[name].path, label, end=videos[name].num_frames)
            for name, label in entries.items()
        )
        looked = f"as the folders of {frame_list}, from {folder}"
    else:
        pattern = _checked(pattern) if pattern else _find_pattern(list(entries), folder)
        samples = tuple(
            VideoSample(str(folder / pattern.format(id=name)), label) for name, label in entries.items()
        )
        looked = f"as {folder / pattern}"
    if check_files:
        hint = f"the videos were looked for {looked}; data.path_prefix gives another folder"
        refuse_missing_videos(samples, source=list_file, hint=hint)
    return Split(samples, tuple(sorted(labels, key=labels.__getitem__)))


def _read_labels(path: Path) -> dict[str, int]:
    """Template without brackets -> label; the labels are 0, 1, ..., K-1."""
    table = read_json(path, dict, 'an object like {"Holding something": "0"}')
    try:
        labels = {_plain(template): int(label) for template, label in table.items()}
    except (TypeError, ValueError):
        raise InputError(
            f"{path}: every label must be a whole number, as in {{'Holding something': '0'}}"
        ) from None
    if not table or sorted(labels.values()) != list(range(len(table))):
        raise InputError(
            f"{path} has {len(table)} templates, whose labels must be 0 to {len(table) - 1}, each once"
        )
    return labels


def _read_entries(path: Path, labels: dict[str, int], labels_file: Path) -> dict[str, int]:
    """Video id -> label, in the order of the list."""
    found: dict[str, int] = {}
    for number, entry in enumerate(read_json(path, list, "a list of objects with id and template")):
        if not isinstance(entry, dict) or not str(entry.get("id", "")):
            raise InputError(
                f"{path}: entry {number} is {shorten(repr(entry))}, but must have an id and a template"
            )
        name, template = str(entry["id"]), entry.get("template")
        where = f"{path}: entry {number} (id {name})"
        if not isinstance(template, str):
            hint = "the official test list has no labels, data.test_split=val tests on the validation list"
            raise InputError(f"{where} has no template; {hint}")
        if _plain(template) not in labels:
            near = difflib.get_close_matches(_plain(template), labels, n=1, cutoff=0)
            raise InputError(
                f"{where} has the template {template!r}, unknown to {labels_file}. Nearest: {near[0]!r}"
            )
        if name in found:
            raise InputError(f"{where} is there twice, first as entry {list(found).index(name)}")
        found[name] = labels[_plain(template)]
    if not found:
        raise InputError(f"{path} is an empty list")
    return found


def _plain(template: str) -> str:
    """ "Holding [something]" -> "Holding something" """
    return template.replace("[", "").replace("]", "")


def _checked(pattern: str) -> str:
    try:
        if pattern.format(id="1") != pattern.format(id="2"):
            return pattern
    except (KeyError, IndexError, ValueError):
        pass
    raise InputError(f"pattern is {pattern!r}, but must hold {{id}} and no other braces, like '{{id}}.webm'")


def _find_pattern(names: list[str], folder: Path) -> str:
    """The first pattern by which one of the first videos exists; PATTERNS[0] where none does."""
    for pattern in PATTERNS:
        if any(_is_there(folder / pattern.format(id=name), pattern) for name in names[:LOOKED_AT]):
            return pattern
    return PATTERNS[0]


def _is_there(path: Path, pattern: str) -> bool:
    return path.is_dir() if pattern.endswith("{id}") else path.is_file()
