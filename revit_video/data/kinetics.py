"""Kinetics lists: text without a header, one video per line, "path label" with a space, a comma or a tab.

videos/abseiling/k21h2.mp4 0
videos/zumba/9sj3a 1.mp4 399         the last field is the label, so a path may hold the separator
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from revit_video.data.list_files import read_text, refuse_missing_videos, shorten
from revit_video.types import InputError, Split, VideoSample

SEPARATORS = {"space": " ", "comma": ",", "tab": "\t"}


def kinetics_split(
    list_file: str | os.PathLike,
    *,
    root: str | os.PathLike | None = None,
    separator: str = "auto",
    class_names_file: str | os.PathLike | None = None,
    num_classes: int = 0,
    check_files: bool = True,
) -> Split:
    """The videos of a list.

    Args:
        root: folder that the paths start from; None: the folder of the list. Absolute paths stay.
        separator: auto, space, comma or tab. `auto` takes the one that fits every line.
        class_names_file: one name per line in the order of the labels; None: classes.txt beside the list, and
            where there is none the classes are called "class 0", "class 1", ...
        num_classes: 0: from the class names, or else the largest label + 1.
        check_files: refuse a list that names files which do not exist.

    Raises:
        InputError: with file and line, for all that is wrong in the list.
    """
    list_file = Path(list_file)
    rows = _numbered_rows(list_file)
    split_line = _line_splitter(list_file, rows, separator)
    names = _class_names(list_file, class_names_file, num_classes)
    num_classes = num_classes or len(names or ())
    root = list_file.parent if root is None else Path(root)

    samples, seen = [], {}  # seen: path -> line number
    for number, line in rows:
        path, label = split_line(number, line)
        if num_classes and label >= num_classes:
            raise InputError(
                f"{list_file}:{number}: the label is {label}, but there are {num_classes} classes"
            )
        path = str(root / path)
        if path in seen:
            raise InputError(f"{list_file}:{number}: {path} is there twice, first on line {seen[path]}")
        seen[path] = number
        samples.append(VideoSample(path, label))
    if check_files:
        hint = f"the paths were taken to start from {root}; data.path_prefix gives another folder"
        refuse_missing_videos(samples, source=list_file, hint=hint)
    last = num_classes or 1 + max(sample.label for sample in samples)
    return Split(tuple(samples), names or tuple(f"class {label}" for label in range(last)))


def _numbered_rows(list_file: Path) -> list[tuple[int, str]]:
    """(line number from 1, line) of the lines that are not blank."""
    lines = read_text(list_file).splitlines()
    rows = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    if not rows:
        raise InputError(f"{list_file} is empty; expected lines like 'videos/a.mp4 0'")
    return rows


def _line_splitter(
    list_file: Path, rows: Sequence[tuple[int, str]], separator: str
) -> Callable[[int, str], tuple[str, int]]:
    """A function (line number, line) -> (path, label) for the separator that is given or fits the list."""
    if separator == "auto":
        separator = _detect(list_file, rows)
    elif separator not in SEPARATORS:
        raise InputError(f"separator is {separator!r}, but must be one of auto, {', '.join(SEPARATORS)}")

    def split_line(number: int, line: str) -> tuple[str, int]:
        where, shown = f"{list_file}:{number}", repr(shorten(line))
        fields = _fields(line, separator)
        if len(fields) != 2 or not fields[0]:
            raise InputError(f"{where}: expected a path, a {separator} and a label, got {shown}")
        if not re.fullmatch(r"-?[0-9]+", fields[1]):
            raise InputError(
                f"{where}: the label is {shorten(fields[1])!r} in {shown}, but must be a whole number"
            )
        if int(fields[1]) < 0:
            raise InputError(f"{where}: the label is {fields[1]} in {shown}, but must be at least 0")
        return fields[0], int(fields[1])

    return split_line


def _detect(list_file: Path, rows: Sequence[tuple[int, str]]) -> str:
    """The separator that most lines can be split by; two that fit equally well are refused."""

    def fits(line: str, name: str) -> bool:
        fields = _fields(line, name)
        return len(fields) == 2 and re.fullmatch(r"-?[0-9]+", fields[1]) is not None

    counts = {name: sum(fits(line, name) for _, line in rows) for name in SEPARATORS}
    best = [name for name, count in counts.items() if count == max(counts.values())]
    if len(best) > 1 and counts[best[0]]:
        number, line = next((number, line) for number, line in rows if fits(line, best[0]))
        both = " and ".join(best)
        raise InputError(
            f"{list_file}:{number}: {both} both fit {shorten(line)!r}; set data.separator to one"
        )
    if not counts[best[0]]:
        number, line = rows[0]
        raise InputError(
            f"{list_file}:{number}: expected a path and a label like 'a.mp4 0', got {shorten(line)!r}"
        )
    return best[0]


def _fields(line: str, separator: str) -> list[str]:
    return [field.strip() for field in line.rsplit(SEPARATORS[separator], 1)]


def _class_names(
    list_file: Path, class_names_file: str | os.PathLike | None, num_classes: int
) -> tuple[str, ...] | None:
    path = Path(class_names_file) if class_names_file is not None else list_file.parent / "classes.txt"
    if class_names_file is None and not path.exists():
        return None
    names = [line.strip() for line in read_text(path).rstrip().splitlines()]
    for number, name in enumerate(names, start=1):
        if not name or name in names[: number - 1]:
            raise InputError(f"{path}:{number}: the class name {name!r} is empty or there twice")
    if not names or num_classes not in (0, len(names)):
        raise InputError(f"{path} names {len(names)} classes, expected {num_classes or 'at least one'}")
    return tuple(names)
