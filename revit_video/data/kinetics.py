"""Kinetics lists: text, one video per line, "path label" with a space, a comma, a tab or what is given.

videos/abseiling/k21h2.mp4 0
videos/zumba/9sj3a 1.mp4 399         the last field is the label, so a path may hold the separator

They have no header; a first line that only names the two columns ("path,label") is passed over.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from revit_video.data.list_files import read_class_names, read_text, refuse_missing_videos, shorten
from revit_video.types import InputError, Split, VideoSample

SEPARATORS = {"space": " ", "comma": ",", "tab": "\t"}
HEADER = re.compile(  # a line that only names the columns
    r"(path|file|filename|file_?path|video|video_?path|name)\W+(label|labels|class|class_?id|target)", re.I
)
RELEASED = re.compile(r"(label,)?youtube_id,time_start", re.I)  # the list of Kinetics as published


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
        separator: auto, space, comma or tab, or the text that separates. `auto` takes the one of the three
            that fits every line.
        class_names_file: one name per line in the order of the labels, or JSON {name: label}; None:
            classes.txt beside the list, and where there is none the classes are "class 0", "class 1", ...
        num_classes: 0: from the class names, or else the largest label + 1.
        check_files: refuse a list that names files which do not exist.

    Raises:
        InputError: with file and line, for all that is wrong in the list.
    """
    list_file = Path(list_file)
    names = _class_names(list_file, class_names_file, num_classes)
    num_classes = num_classes or len(names or ())
    root = list_file.parent if root is None else Path(root)

    samples, seen = [], {}  # seen: path -> line number
    for number, path, label in kinetics_rows(list_file, root=root, separator=separator):
        if num_classes and label >= num_classes:
            raise InputError(
                f"{list_file}:{number}: the label is {label}, but there are {num_classes} classes"
            )
        if path in seen:
            raise InputError(f"{list_file}:{number}: {path} is there twice, first on line {seen[path]}")
        seen[path] = number
        samples.append(VideoSample(path, label))
    if check_files:
        hint = f"the paths were taken to start from {root}; data.path_prefix gives another folder"
        refuse_missing_videos(samples, source=list_file, hint=hint)
    last = num_classes or 1 + max(sample.label for sample in samples)
    return Split(tuple(samples), names or tuple(f"class {label}" for label in range(last)))


def kinetics_rows(list_file: Path, *, root: Path, separator: str = "auto") -> Iterator[tuple[int, str, int]]:
    """(line number from 1, path from `root`, label) of the rows of a list."""
    rows = _numbered_rows(list_file)
    split_line = _line_splitter(list_file, rows, separator)
    for number, line in rows:
        path, label = split_line(number, line)
        yield number, str(root / path), label


def _numbered_rows(list_file: Path) -> list[tuple[int, str]]:
    """(line number from 1, line) of the lines that are not blank."""
    lines = read_text(list_file).splitlines()
    rows = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    if rows and HEADER.fullmatch(rows[0][1]):
        rows = rows[1:]
    if rows and RELEASED.match(rows[0][1]):
        raise InputError(
            f"{list_file}:{rows[0][0]}: this is the list of Kinetics as published, which names no files; "
            "expected lines like 'videos/a.mp4 0'"
        )
    if not rows:
        raise InputError(f"{list_file} is empty; expected lines like 'videos/a.mp4 0'")
    return rows


def _line_splitter(
    list_file: Path, rows: Sequence[tuple[int, str]], separator: str
) -> Callable[[int, str], tuple[str, int]]:
    """A function (line number, line) -> (path, label) for the separator that is given or fits the list."""
    if separator == "auto":
        separator = _detect(list_file, rows)
    elif not is_separator(separator):
        raise InputError(
            f"separator is {separator!r}, but must be one of auto, {', '.join(SEPARATORS)} "
            "or a text without letters and digits"
        )

    def split_line(number: int, line: str) -> tuple[str, int]:
        where, shown = f"{list_file}:{number}", repr(shorten(line))
        fields = _fields(line, separator)
        if len(fields) != 2 or not fields[0]:
            name = separator if separator in SEPARATORS else repr(separator)
            raise InputError(f"{where}: expected a path, a {name} and a label, got {shown}")
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
    return [field.strip() for field in line.rsplit(SEPARATORS.get(separator, separator), 1)]


def is_separator(text: str) -> bool:
    """Whether it is a name of SEPARATORS or can stand between a path and a label itself."""
    return text in SEPARATORS or (bool(text) and not any(letter.isalnum() for letter in text))


def _class_names(
    list_file: Path, class_names_file: str | os.PathLike | None, num_classes: int
) -> tuple[str, ...] | None:
    path = Path(class_names_file) if class_names_file is not None else list_file.parent / "classes.txt"
    if class_names_file is None and not path.exists():
        return None
    names = read_class_names(path)
    if not names or num_classes not in (0, len(names)):
        raise InputError(f"{path} names {len(names)} classes, expected {num_classes or 'at least one'}")
    return names
