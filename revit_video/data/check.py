"""Can the files of a data set be read? In processes of their own, as a decoder can hang or crash.

Every file is a row of a report (csv), which is only ever added to: a run that was stopped goes on behind it.
"""

from __future__ import annotations

import csv
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from multiprocessing import connection
from pathlib import Path

from revit_video.decode import DecodeError, open_video
from revit_video.types import InputError

START_S = 120.0  # seconds that a process may take until it is ready
FILES_PER_PROCESS = 500  # then a fresh one takes over: some readers lose memory with every file
CHUNK = 64  # frames that are held at once when all are decoded
SIDE = 32  # pixels of the short side of what is converted: converting is no part of the question


@dataclass(frozen=True)
class Checked:
    """What became of one file, a row of the report.

    status: ok | missing | broken (the reader says why) | timeout (killed) | crashed (took its process along).
    how: quick (opened, counted, its first, middle and last frame decoded) | full (every frame decoded).
    """

    path: str
    status: str
    frames: int = 0
    fps: float = 0.0
    width: int = 0
    height: int = 0
    seconds: float = 0.0
    error: str = ""
    how: str = "quick"


COLUMNS = tuple(column.name for column in fields(Checked))


def check_file(path: str, *, decoder: str = "auto", full: bool = False) -> Checked:
    """Open and decode one file in this process. What a reader says of it is a result; an InputError (no such
    reader) is not.
    """
    how, start = "full" if full else "quick", time.monotonic()
    if not os.path.exists(path):
        return Checked(path, "missing", error="no such file", how=how)
    seen: dict = {}
    try:
        with open_video(path, decoder=decoder, guarded=False) as video:  # it is us who kill what hangs
            count = video.num_frames
            seen = {"frames": count, "fps": round(video.fps, 3), "width": video.width, "height": video.height}
            numbers = list(range(count)) if full else sorted({0, count // 2, count - 1})
            for first in range(0, len(numbers), CHUNK):
                video.frames(numbers[first : first + CHUNK], short_side=min(SIDE, video.height, video.width))
            seen["frames"] = video.num_frames  # decoding may have found fewer than were announced
        status, error = "ok", ""
    except DecodeError as problem:
        status, error = "broken", str(problem).removeprefix(f"{path}: ")
    except InputError:
        raise
    except Exception as problem:  # a bug of a reader is a fact about the file here
        status, error = "broken", f"{type(problem).__name__}: {problem}"
    took = round(time.monotonic() - start, 3)
    return Checked(path, status, **seen, seconds=took, error=" ".join(error.split()), how=how)


def check_files(
    paths: Iterable[str],
    *,
    processes: int,
    seconds: float,
    decoder: str = "auto",
    full: bool = False,
    check: Callable[..., Checked] = check_file,
) -> Iterator[Checked]:
    """`check_file` of every path, in the order in which they are done.

    New interpreters are started, so a script that calls this needs `if __name__ == "__main__":`.

    Args:
        seconds: time limit of a file; the process that reads it is then killed and replaced.
        check: what is done with a path; another function of a module, with the arguments of check_file.
    """
    if processes < 1 or seconds <= 0:
        raise InputError(f"got {processes} processes and {seconds:g} seconds a file; both must be above 0")
    options = {"decoder": decoder, "full": full}
    waiting, workers = list(reversed(list(paths))), []
    try:
        workers = [_Worker(check, options) for _ in range(min(processes, len(waiting)))]
        while workers:
            deadline = min(worker.deadline for worker in workers)
            links = [worker.link for worker in workers]
            ready = connection.wait(links, timeout=max(0.0, deadline - time.monotonic()))
            for worker in list(workers):
                late = time.monotonic() >= worker.deadline
                if worker.link not in ready and not late:
                    continue
                result = worker.result(late=worker.link not in ready)
                if result is not None:
                    yield result
                if not worker.alive or not waiting or worker.done >= FILES_PER_PROCESS:
                    worker.stop()
                    workers.remove(worker)
                    if waiting:
                        workers.append(_Worker(check, options))
                else:
                    worker.take(waiting.pop(), seconds)
    finally:
        for worker in workers:
            worker.stop()


class _Worker:
    """A process that checks one file at a time. It says None when it is ready for the first."""

    def __init__(self, check: Callable[..., Checked], options: dict) -> None:
        context = multiprocessing.get_context("spawn")  # fork would copy the threads of torch and FFmpeg
        self.link, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, check, options), daemon=True)
        with _ctrl_c_ignored():  # which the new process inherits: it is us who stop it
            self.process.start()
        theirs.close()
        self.path: str | None = None
        self.how = "full" if options["full"] else "quick"
        self.alive, self.done = True, 0
        self.started, self.deadline = time.monotonic(), time.monotonic() + START_S

    def take(self, path: str, seconds: float) -> None:
        self.path, self.started = path, time.monotonic()
        self.deadline = self.started + seconds
        self.link.send(path)

    def result(self, *, late: bool) -> Checked | None:
        """What came of the file; None where the process has just become ready. A process that is too late or
        gone is not `alive` any more.
        """
        took = round(time.monotonic() - self.started, 3)
        status, error = "timeout", f"killed after {took:g} s"
        if not late:
            try:
                answer = self.link.recv()
            except (EOFError, OSError):
                self.process.join(5)
                status, error = "crashed", f"its process ended with exit code {self.process.exitcode}"
            else:
                if isinstance(answer, InputError):
                    raise answer
                self.done += answer is not None
                return answer
        self.alive = False
        if self.path is None:
            raise RuntimeError(f"a process that checks files did not start: {error}")
        return Checked(self.path, status, seconds=took, error=error, how=self.how)

    def stop(self) -> None:
        self.process.kill()
        self.process.join(5)  # one that waits for a dead network disk cannot be killed: leave it behind
        self.link.close()


def _serve(link: connection.Connection, check: Callable[..., Checked], options: dict) -> None:
    """The life of a process: paths in, results out, until nobody asks any more."""
    link.send(None)
    while True:
        try:
            path = link.recv()
        except EOFError:
            return
        try:
            link.send(check(path, **options))
        except InputError as problem:
            link.send(problem)


@contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only that one may ask
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Report:
    """The rows of earlier runs, and a file to add rows to.

    Raises:
        InputError: the file holds something else, or checks of the other kind.
    """

    def __init__(self, path: str | os.PathLike, *, how: str) -> None:
        self.path = Path(path)
        self.rows: dict[str, Checked] = {}
        if self.path.exists() and self.path.stat().st_size:
            self._read(how)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "a", newline="", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
        self._writer = csv.writer(self._file, lineterminator="\n")
        if not self._file.tell():
            self._writer.writerow(COLUMNS)
            self._file.flush()

    def add(self, row: Checked) -> None:
        self.rows[row.path] = row
        self._writer.writerow(asdict(row).values())
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _read(self, how: str) -> None:
        with open(self.path, "r+b") as file:  # a row that a kill left half-written goes
            text = file.read()
            whole = text.rfind(b"\n") + 1
            lines = text[:whole].decode("utf-8", "surrogateescape").splitlines()
            if not lines or lines[0].split(",") != list(COLUMNS):
                raise InputError(f"{self.path} is no report of checked files; give another name")
            file.truncate(whole)
        for cells in csv.reader(lines[1:]):
            if len(cells) == len(COLUMNS):
                row = _row(dict(zip(COLUMNS, cells, strict=True)))
                self.rows[row.path] = row
        others = {row.how for row in self.rows.values()} - {how}
        if others:
            raise InputError(f"{self.path} holds {others.pop()} checks, this one is {how}; give another name")

    def __enter__(self) -> Report:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _row(values: dict[str, str]) -> Checked:
    kinds = {"frames": int, "fps": float, "width": int, "height": int, "seconds": float}
    return Checked(**{name: kinds.get(name, str)(value) for name, value in values.items()})
