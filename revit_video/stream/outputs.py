"""Where results go, as they come: console, JSON lines, CSV, SRT. A line is written whole or not at all."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from revit_video.stream.cutter import Missed
from revit_video.stream.engine import WindowResult
from revit_video.stream.smoothing import Event
from revit_video.types import InputError

Item = WindowResult | Missed | Event
COLUMNS = ("source", "window", "start_s", "end_s", "class", "probability", "length", "lag_s", "note")


class Output(Protocol):
    """Takes everything that an engine emits about one source after the other."""

    def write(self, source: str, item: Item) -> None: ...

    def close(self) -> None: ...


class LineFile:
    """A new file into which every `write` is one write of the system: a kill leaves whole ones only."""

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        refuse_existing(path, overwrite=overwrite)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("wb" if overwrite else "xb", buffering=0)

    def __call__(self, text: str) -> None:
        data = text.encode()
        written = self._file.write(data)
        if written < len(data):  # the disk is full: what it took of the line goes, too
            self._file.truncate(self._file.tell() - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._file.name)

    def close(self) -> None:
        self._file.close()


class JsonLines:
    """An object per line; its "kind" is window, event or missed."""

    def __init__(self, write: Callable[[str], None], close: Callable[[], None] = lambda: None) -> None:
        self._write, self.close = write, close

    def write(self, source: str, item: Item) -> None:
        self._write(json.dumps(as_row(source, item)) + "\n")


class Csv:
    """A row per window, and one per stretch of missed windows, which has no class but a note."""

    def __init__(self, file: LineFile) -> None:
        self._file, self.close = file, file.close
        self._row(COLUMNS)

    def write(self, source: str, item: Item) -> None:
        if isinstance(item, Missed):
            which = item.first if item.first == item.last else f"{item.first}-{item.last}"
            times = f"{item.start_s:.3f}", f"{item.end_s:.3f}"
            self._row((source, which, *times, "", "", "", "", f"missed: {item.why}"))
        elif isinstance(item, WindowResult):
            lag = "" if item.lag_s is None else f"{item.lag_s:.3f}"
            best = item.class_names[0], f"{item.probabilities[0]:.6f}"
            times = f"{item.start_s:.3f}", f"{item.end_s:.3f}"
            self._row((source, item.number, *times, *best, item.token_length, lag, ""))

    def _row(self, cells: tuple) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(cells)
        self._file(text.getvalue())


class Srt:
    """SubRip subtitles: one for each event, when it has ended."""

    def __init__(self, file: LineFile) -> None:
        self._file, self.close = file, file.close
        self._number = 0

    def write(self, source: str, item: Item) -> None:
        if isinstance(item, Event):
            self._number += 1
            times = f"{srt_time(item.start_s)} --> {srt_time(item.end_s)}"
            text = f"{item.class_name} ({100 * item.probability:.0f}%)"
            self._file(f"{self._number}\n{times}\n{text}\n\n")


class Console:
    """A table that grows: a line per window, per event and per stretch of missed windows."""

    def __init__(self, write: Callable[[str], None] | None = None) -> None:
        self._write = write or to_stdout
        self._source: str | None = None

    def write(self, source: str, item: Item) -> None:
        if source != self._source:
            self._source = source
            self._write(f"{source}\n{'from':>10} {'to':>10}  {'length':>6}  probability, class\n")
        times = f"{clock_time(item.start_s):>10} {clock_time(item.end_s):>10}"
        if isinstance(item, Missed):
            self._write(f"{times}  {'-':>6}  {counted(item.last - item.first + 1)} missed: {item.why}\n")
        elif isinstance(item, Event):
            what = f"{item.class_name} ({100 * item.probability:.1f}%, {counted(item.windows)})"
            self._write(f"{times}  {'event':>6}  {what}\n")
        else:
            lag = "" if item.lag_s is None else f"  ({item.lag_s:.1f} s late)"
            best = f"{100 * item.probabilities[0]:5.1f}%  {item.class_names[0]}"
            self._write(f"{times}  {item.token_length:>6}  {best}{lag}\n")

    def close(self) -> None:
        pass


FORMATS: dict[str, Callable[[LineFile], Output]] = {
    ".jsonl": lambda file: JsonLines(file, file.close),
    ".csv": Csv,
    ".srt": Srt,
}


def open_output(path: Path, *, overwrite: bool) -> Output:
    """The output whose format the ending says."""
    return FORMATS[path.suffix.lower()](LineFile(path, overwrite=overwrite))


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    if path.is_dir() or (path.exists() and not overwrite):
        hint = "is a folder" if path.is_dir() else "exists already; choose another name or say --overwrite"
        raise InputError(f"{path} {hint}")


def as_row(source: str, item: Item) -> dict:
    kinds = {WindowResult: "window", Event: "event", Missed: "missed"}
    return {"kind": kinds[type(item)], **asdict(item), "source": source}


def to_stdout(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def counted(windows: int) -> str:
    return f"{windows} window{'s' * (windows != 1)}"


def srt_time(seconds: float) -> str:
    """3723.5 -> "01:02:03,500"."""
    thousandths = round(seconds * 1000)
    minutes, rest = divmod(thousandths, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02},{rest % 1000:03}"


def clock_time(seconds: float) -> str:
    """3723.54 -> "1:02:03.5"."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours = f"{minutes // 60}:" if minutes >= 60 else ""
    return f"{hours}{minutes % 60:02}:{rest // 10:02}.{rest % 10}"


def file_of(pattern: Path, name: str) -> Path:
    """{name} in a pattern stands for the source's name: its path below the folder, without the ending."""
    return Path(os.fspath(pattern).replace("{name}", name))
