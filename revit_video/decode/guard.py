"""A reader in a process of its own, which is killed when it takes too long and may crash without harm.

decord can hang inside its library, where no time limit of ours reaches it, and any decoder may crash on a
damaged file. The process is started once per decoder and kept for the next video; it ends with its owner.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np

from revit_video.decode.limits import DEFAULT_LIMITS, Limits
from revit_video.decode.reader import VideoReader
from revit_video.types import InputError

START_SECONDS = 120.0  # for python and the decoder's libraries to load
FRAMES_AT_ONCE = 64  # travel in one message
ROOT = Path(__file__).resolve().parents[2]  # where the package lies

_idle: dict[tuple[int, str], list[_Process]] = {}  # of (this process, decoder); a fork must not share them


class _Process:
    """A child that reads videos on request, one at a time."""

    def __init__(self, decoder: str) -> None:
        self.decoder = decoder
        self.wire, theirs = Pipe()
        paths = os.pathsep.join(filter(None, (str(ROOT), *sys.path)))
        command = [sys.executable, "-m", "revit_video.decode.guarded", str(theirs.fileno()), decoder]
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with theirs:
            self.child = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], env=os.environ | {"PYTHONPATH": paths}, **quiet
            )
        self.ask(START_SECONDS)

    def ask(self, seconds: float, *request: Any) -> Any:
        """The answer to a request (none: the child's first word). Raises what the reader raised there.

        Raises:
            TimeoutError, EOFError: no answer came, or the child died. It then has been killed.
        """
        try:
            if request:
                self.wire.send(request)
            if not self.wire.poll(seconds):
                raise TimeoutError(f"took longer than the limit of {seconds:g} s and was stopped")
            error, answer = self.wire.recv()
        except (EOFError, OSError) as problem:
            status = self.kill()
            if isinstance(problem, TimeoutError):
                raise
            raise EOFError(f"ended the reader's process (status {status})") from problem
        except BaseException:  # interrupted: the answer would be taken for that of the next request
            self.kill()
            raise
        if error is not None:
            raise error
        return answer

    def kill(self) -> int:
        with contextlib.suppress(OSError):
            self.wire.close()
        if self.child.poll() is None:
            self.child.kill()
        return self.child.wait()


class GuardedReader(VideoReader):
    """Any reader, by its name in DECODERS, in a process of its own."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        decoder: str,
        *,
        threads: int = 1,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.decoder = decoder  # of this reader, not of the class
        super().__init__(path, limits=limits)
        idle = _idle.setdefault((os.getpid(), decoder), [])
        self._process: _Process | None = idle.pop() if idle else self._started(decoder)
        try:
            about = self._ask("open", self.path, os.path.abspath(self.path), threads, limits)
        except BaseException:
            self.close()
            raise
        self.fps, self.fps_known, self.height, self.width = about
        self._length: int | None = None

    @property
    def num_frames(self) -> int:
        """How many frames the reader in the other process counts."""
        return self._ask("num_frames")

    def close(self) -> None:
        process, self._process = getattr(self, "_process", None), None
        if process is None or process.child.poll() is not None:
            return
        try:
            process.ask(self.limits.seconds, "close")
        except (OSError, EOFError):
            return
        _idle.setdefault((os.getpid(), self.decoder), []).append(process)

    def _check_path(self) -> None:
        if not os.path.isdir(self.path):
            super()._check_path()

    def _started(self, decoder: str) -> _Process:
        try:
            return _Process(decoder)
        except (OSError, EOFError) as error:
            raise self.error(f"cannot be opened: the reader's process does not start: {error}") from error

    def _read(self, numbers: list[int], height: int, width: int) -> Iterator[np.ndarray]:
        for begin in range(0, len(numbers), FRAMES_AT_ONCE):
            yield from self._ask("read", numbers[begin : begin + FRAMES_AT_ONCE], height, width)

    def _ask(self, *request: Any) -> Any:
        if self._process is None:
            raise InputError(f"{self.path}: the reader is closed; open the video again")
        try:
            return self._process.ask(self.limits.seconds, *request)
        except MemoryError as error:
            raise self.error(str(error)) from error
        except (OSError, EOFError) as error:
            self._process = None
            raise self.error(str(error)) from error
