"""What is to be checked: the files of a list in any form, and the same list without the broken ones."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Set
from dataclasses import dataclass
from pathlib import Path

from revit_video.data import class_folders, epic_kitchens, ssv2
from revit_video.data.kinetics import kinetics_rows, kinetics_split
from revit_video.data.list_files import read_text
from revit_video.types import InputError, Split

FOLDER_KINDS = {"class_folders": "videos", "image_folders": "images", "frame_folders": "frames"}
FORMS = ("auto", "files", "kinetics", "ssv2", *FOLDER_KINDS, "epic_kitchens")
# Numbers of videos of the lists as they were published: the csv files of Kinetics-400 and -600 (Google
# DeepMind), the JSON files of Something-Something V2. Hardly anybody has all of them, as videos vanish.
RELEASED = {
    ("Kinetics-400", 400): {"train": 246_534, "val": 19_906, "test": 38_685},
    ("Kinetics-600", 600): {"train": 392_622, "val": 30_001},
    ("Something-Something V2", 174): {"train": 168_913, "val": 24_777, "test": 27_157},
}


@dataclass(frozen=True)
class FileList:
    """Files, each once, and how the list reads without some of them.

    num_classes: 0 where there are none. num_rows: of the list; parts of one long video are several rows.
    without: (paths) to the text of the list without the rows of these files.
    """

    paths: tuple[str, ...]
    form: str
    split: str
    num_rows: int
    num_classes: int
    ending: str
    without: Callable[[Set[str]], str]


def file_list(
    source: Path, *, form: str = "auto", root: Path | None = None, split: str = "", separator: str = "auto"
) -> FileList:
    """The files that a list names.

    Args:
        source: the list; the root of class folders; the root or a JSON list of Something-Something.
        form: one of FORMS; auto: by the name and the first line.
        root: folder that paths start from; None: as in training without data.path_prefix.
        split: of folders and of Something-Something; elsewhere the name of the list says it.
    """
    if form not in FORMS:
        raise InputError(f"no form of list is named {form!r}; there are {', '.join(FORMS)}")
    if not source.exists():
        read_text(source)  # says what is there instead
    form = _guess(source) if form == "auto" else form
    if form == "files":
        return _plain_files(source, root)
    if form == "kinetics":
        return _kinetics(source, root, separator)
    if form == "ssv2":
        return _ssv2(source, root, split)
    if form == "epic_kitchens":
        return _epic(source, root)
    return _folders(source, form, split)


def compare_with_released(listed: FileList, num_broken: int) -> str:
    """One line on how the list differs from the published one of as many classes; "" where there is none."""
    split = {"validation": "val"}.get(listed.split, listed.split)
    for (name, num_classes), counts in RELEASED.items():
        ssv2_like = name.startswith("Something")
        if num_classes == listed.num_classes and split in counts and ssv2_like == (listed.form == "ssv2"):
            rest = counts[split] - listed.num_rows
            less = f"{abs(rest):,} {'fewer' if rest > 0 else 'more'}" if rest else "all of them"
            return (
                f"{name} {split} was published with {counts[split]:,} videos; this list has "
                f"{listed.num_rows:,} ({less}), {listed.num_rows - num_broken:,} of them readable"
            )
    return ""


def _guess(source: Path) -> str:
    if source.is_dir():
        return "ssv2" if (source / f"{ssv2.PREFIX}labels.json").exists() else "class_folders"
    if source.suffix == ".json":
        return "ssv2"
    if source.name.startswith("EPIC_100_"):
        return "epic_kitchens"
    lines = [line for line in read_text(source).splitlines() if line.strip()]
    labelled = [re.search(r"[\s,;|]-?\d+\s*$", line) is not None for line in lines[:100]]
    return "kinetics" if sum(labelled) > len(labelled) / 2 else "files"


def _plain_files(source: Path, root: Path | None) -> FileList:
    lines = [line.strip() for line in read_text(source).splitlines() if line.strip()]
    if not lines:
        raise InputError(f"{source} is empty; expected a path per line")
    folder = source.parent if root is None else root
    rows = [(str(folder / line), line) for line in lines]
    return _of_lines(rows, form="files", source=source, num_classes=0)


def _kinetics(source: Path, root: Path | None, separator: str) -> FileList:
    folder = source.parent if root is None else root
    split = kinetics_split(source, root=folder, separator=separator, check_files=False)
    lines = read_text(source).splitlines()
    rows = [(path, lines[n - 1]) for n, path, _ in kinetics_rows(source, root=folder, separator=separator)]
    return _of_lines(rows, form="kinetics", source=source, num_classes=len(split.class_names))


def _of_lines(rows: list[tuple[str, str]], *, form: str, source: Path, num_classes: int) -> FileList:
    """Of (path, line) rows; lines stay as they are written."""

    def without(broken: Set[str]) -> str:
        return "".join(f"{line}\n" for path, line in rows if path not in broken)

    paths = tuple(dict.fromkeys(path for path, _ in rows))
    return FileList(paths, form, source.stem, len(rows), num_classes, source.suffix or ".txt", without)


def _ssv2(source: Path, root: Path | None, split: str) -> FileList:
    folder = source if source.is_dir() else source.parent
    if not source.is_dir():
        split = source.stem.removeprefix(ssv2.PREFIX)
    elif not split:
        raise InputError(f"{source} holds several lists; say which by --split train or --split val")
    found = ssv2.ssv2_split(folder, split, path_prefix=root or "", check_files=False)
    list_file = folder / f"{ssv2.PREFIX}{ssv2.SPLIT_NAMES[split]}.json"
    entries = json.loads(read_text(list_file))

    def without(broken: Set[str]) -> str:
        pairs = zip(entries, found.samples, strict=True)
        kept = ",\n".join(json.dumps(entry) for entry, sample in pairs if sample.path not in broken)
        return f"[\n{kept}\n]\n"

    return _of_split(found, form="ssv2", split=split, ending=".json", without=without)


def _epic(source: Path, root: Path | None) -> FileList:
    named = {table: name for name, table in epic_kitchens.SPLIT_NAMES.items()}
    split = named.get(source.stem.removeprefix("EPIC_100_"), "")
    found = epic_kitchens.epic_split(source.parent, split, path_prefix=root or "", check_files=False)
    header, *rows = csv.reader(io.StringIO(read_text(source), newline=""))

    def without(broken: Set[str]) -> str:
        text = io.StringIO()
        pairs = zip(rows, found.samples, strict=True)
        kept = [row for row, sample in pairs if sample.path not in broken]
        csv.writer(text, lineterminator="\n").writerows([header, *kept])
        return text.getvalue()

    return _of_split(found, form="epic_kitchens", split=split, ending=".csv", without=without)


def _folders(source: Path, form: str, split: str) -> FileList:
    """Without `split` all there is, where the splits are no folders. The list is one of Kinetics' form."""
    shares = (0.8, 0.1, 0.1) if split else (1.0, 0.0, 0.0)
    kind = FOLDER_KINDS[form]
    found = class_folders.class_folder_split(source, split or "train", kind=kind, shares=shares)

    def without(broken: Set[str]) -> str:
        kept = [sample for sample in found.samples if sample.path not in broken]
        return "".join(f"{Path(sample.path).absolute()} {sample.label}\n" for sample in kept)

    return _of_split(found, form=form, split=split, ending=".csv", without=without)


def _of_split(
    found: Split, *, form: str, split: str, ending: str, without: Callable[[Set[str]], str]
) -> FileList:
    paths = tuple(dict.fromkeys(sample.path for sample in found.samples))
    return FileList(paths, form, split, len(found.samples), len(found.class_names), ending, without)
