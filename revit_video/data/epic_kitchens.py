"""EPIC-KITCHENS-100 lists: actions as a verb and a noun, each a part of a long video.

EPIC_100_{train,validation}.csv      narration_id,participant_id,video_id,...,start_frame,stop_frame,
                                     narration,verb,verb_class,noun,noun_class,...
EPIC_100_{verb,noun}_classes.csv     id,key,...

The same tables are also handed out as pickled pandas frames (.pkl); those are never read, as reading a pickle
runs what is in it.
"""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

from revit_video.data.list_files import read_text, refuse_missing_videos
from revit_video.types import InputError, Split, VideoSample

SPLIT_NAMES = {"train": "train", "val": "validation", "validation": "validation", "test": "test_timestamps"}
TARGETS = ("verb", "noun", "both")
PATTERNS = tuple(  # of the frames of a video, or of the video itself, below the folder of the videos
    f"{{participant_id}}/{folder}{{video_id}}{ending}"
    for folder, ending in (("rgb_frames/", ""), ("videos/", ".MP4"), ("", ""), ("", ".MP4"), ("", ".mp4"))
) + ("{video_id}", "{video_id}.MP4", "{video_id}.mp4")
PLACE = ("participant_id", "video_id")
NUMBERS = ("start_frame", "stop_frame", "verb_class", "noun_class")


def epic_split(
    root: str | os.PathLike,
    split: str,
    *,
    target: str = "both",
    path_prefix: str | os.PathLike = "",
    pattern: str = "",
    check_files: bool = True,
) -> Split:
    """The actions of "train" or "val".

    Frames are numbered from 1 in these lists and from 0 with us; `stop_frame` belongs to the action.

    Args:
        root: folder of the csv files.
        target: what a label is: the "verb", the "noun", or "both": then the names are the verbs followed by
            the nouns, and the label is the pair as one number, see `Split`.
        path_prefix: folder of the videos; "": the root.
        pattern: place of a video in it, with {participant_id} and {video_id}; "": the first of PATTERNS that
            fits one of the first actions.

    Raises:
        InputError: with file and line, for all that is wrong in the lists.
    """
    if split not in SPLIT_NAMES or target not in TARGETS:
        raise InputError(
            f"no split {split!r} or no target {target!r}; splits are {', '.join(SPLIT_NAMES)}, "
            f"targets {', '.join(TARGETS)}"
        )
    root = Path(root)
    folder = Path(path_prefix) if os.fspath(path_prefix) else root
    list_file = root / f"EPIC_100_{SPLIT_NAMES[split]}.csv"
    verbs, nouns = epic_classes(root)
    rows = _read_table(list_file, PLACE + NUMBERS)
    pattern = pattern or _find_pattern(rows, folder)
    samples = []
    for number, row in enumerate(rows, start=2):
        where = f"{list_file}:{number}"
        begin, end, verb, noun = (_number(row, name, where) for name in NUMBERS)
        if not 1 <= begin <= end:
            raise InputError(f"{where}: the action runs from frame {begin} to {end}; frames begin with 1")
        for what, label, names in (("verb", verb, verbs), ("noun", noun, nouns)):
            if label >= len(names):
                raise InputError(f"{where}: {what}_class is {label}, but there are {len(names)} {what}s")
        label = {"verb": verb, "noun": noun, "both": verb * len(nouns) + noun}[target]
        path = str(folder / _place(pattern, row))
        samples.append(VideoSample(path, label, begin=begin - 1, end=end))
    if check_files:
        hint = f"the videos were looked for as {folder / pattern}; data.path_prefix gives another folder"
        videos = list({sample.path: sample for sample in samples}.values())
        refuse_missing_videos(videos, source=list_file, hint=hint)
    names = {"verb": verbs, "noun": nouns, "both": verbs + nouns}[target]
    return Split(tuple(samples), names, (len(verbs), len(nouns)) if target == "both" else ())


def epic_classes(root: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the verbs and of the nouns, in the order of their labels."""
    return tuple(_class_names(root / f"EPIC_100_{kind}_classes.csv") for kind in ("verb", "noun"))


def _class_names(path: Path) -> tuple[str, ...]:
    """The keys in the order of their ids, which are 0, 1, ..., K - 1."""
    rows = _read_table(path, ("id", "key"))
    names = {_number(row, "id", f"{path}:{n}"): row["key"] for n, row in enumerate(rows, start=2)}
    if sorted(names) != list(range(len(rows))):
        raise InputError(f"{path} has {len(rows)} classes; their ids must be 0 to {len(rows) - 1}, each once")
    return tuple(names[number] for number in range(len(rows)))


def _read_table(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    pickled = path.with_suffix(".pkl")
    if not path.exists() and pickled.exists():
        raise InputError(
            f"no file {path}; {pickled.name} beside it is a pickle, which is never read as it can run "
            "anything: take the csv of the same name from the epic-kitchens-100-annotations repository"
        )
    table = csv.DictReader(io.StringIO(read_text(path), newline=""))
    lacking = [name for name in columns if name not in (table.fieldnames or ())]
    if lacking:
        hint = "; the test list has no labels" if "timestamps" in path.name else ""
        raise InputError(f"{path}:1: the columns {', '.join(lacking)} are missing{hint}")
    rows = list(table)
    if not rows:
        raise InputError(f"{path} holds no rows, only its header")
    return rows


def _number(row: dict[str, str], name: str, where: str) -> int:
    text = row[name] or ""
    if not text.isdecimal():
        raise InputError(f"{where}: {name} is {text!r}, but must be a whole number of at least 0")
    return int(text)


def _place(pattern: str, row: dict[str, str]) -> str:
    return pattern.format(**{name: row[name] for name in PLACE})


def _find_pattern(rows: list[dict[str, str]], folder: Path) -> str:
    """The first pattern by which one of the first videos exists; PATTERNS[0] where none does."""
    for pattern in PATTERNS:
        if any((folder / _place(pattern, row)).exists() for row in rows[:100]):
            return pattern
    return PATTERNS[0]
