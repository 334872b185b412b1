"""What all lists of videos share: reading a small text file, refusing a list whose videos are not there."""

from __future__ import annotations

import difflib
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from revit_video.types import InputError, VideoSample

ASKED_ONE_BY_ONE = 16  # files of a folder; of more the folder is listed


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        InputError: it is missing (the message names its nearest neighbours of that kind) or no UTF-8 text.
    """
    if not path.is_file():
        others = sorted(file.name for file in path.parent.glob(f"*{path.suffix}"))
        near = difflib.get_close_matches(path.name, others, n=3, cutoff=0.4) or others[:3]
        hint = (
            f"in its folder there are {', '.join(near)}"
            if near
            else f"no {path.suffix} file is in its folder"
        )
        raise InputError(f"no file {path}; {hint}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is no UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}"
        ) from None


def refuse_missing_videos(samples: Sequence[VideoSample], *, source: Path, hint: str) -> None:
    """One InputError for all videos that do not exist: how many, the first three, and what to try."""
    gone = missing_paths([sample.path for sample in samples])
    if gone:
        first = ", ".join(gone[:3]) + (", ..." if len(gone) > 3 else "")
        raise InputError(
            f"{len(gone)} of the {len(samples)} videos of {source} do not exist: {first}; {hint}"
        )


def missing_paths(paths: Sequence[str]) -> list[str]:
    """The paths where nothing is, in their order.

    A folder of which much is asked is listed once: on a network disk a question per file takes minutes.
    """
    asked = Counter(os.path.dirname(path) for path in paths)
    listed = {folder: _names(folder) for folder, count in asked.items() if count > ASKED_ONE_BY_ONE}

    def exists(path: str) -> bool:
        folder, name = os.path.split(path)
        return name in listed[folder] if folder in listed else os.path.exists(path)

    return [path for path in paths if not exists(path)]


def _names(folder: str) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder or "."))
    except OSError:
        return frozenset()


def shorten(text: str, most: int = 80) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


def read_json(path: Path, kind: type, expected: str) -> Any:
    """The object or list in a JSON file; `expected` says in words what it should be."""
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno} is no valid JSON: {error.msg}") from None
    if not isinstance(content, kind):
        raise InputError(f"{path} holds {shorten(repr(content))}, but must hold {expected}")
    return content


def read_class_names(path: Path) -> tuple[str, ...]:
    """Class names in the order of their labels: a text file with one per line, or JSON {"name": label}.

    Raises:
        InputError: a name is empty or there twice, or the labels of a JSON file are not 0, 1, ..., K - 1.
    """
    if path.suffix == ".json":
        table = read_json(path, dict, 'an object like {"abseiling": 0}')
        try:
            labels = {name: int(label) for name, label in table.items()}
        except (TypeError, ValueError):
            raise InputError(f"{path}: every label must be a whole number, as in {{'a': 0}}") from None
        if not labels or sorted(labels.values()) != list(range(len(labels))):
            last = len(labels) - 1
            raise InputError(f"{path} has {len(labels)} names; their labels must be 0 to {last}, each once")
        return tuple(sorted(labels, key=labels.__getitem__))
    names = [line.strip() for line in read_text(path).rstrip().splitlines()]
    seen: set[str] = set()
    for number, name in enumerate(names, start=1):
        if not name or name in seen:
            raise InputError(f"{path}:{number}: the class name {name!r} is empty or there twice")
        seen.add(name)
    return tuple(names)
