"""A reader on decord, to compare with: never the default, as it can hang on damaged files and leak memory.
open_video therefore runs it in a process of its own (guard.py).

Its lengths are the header's: in AVIs they can be 1 to 3 too high, and the last frame then is a wrong one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from revit_video.decode.container import missing_bytes
from revit_video.decode.limits import DEFAULT_LIMITS, Limits
from revit_video.decode.reader import VideoReader
from revit_video.types import InputError


class DecordReader(VideoReader):
    """Reads with decord. VideoReader says what it offers, the head of this file what it does not."""

    decoder = "decord"

    def __init__(
        self, path: str | os.PathLike[str], *, threads: int = 1, limits: Limits = DEFAULT_LIMITS
    ) -> None:
        try:
            import decord
        except ImportError as error:
            raise InputError(
                "decoder 'decord' is not installed: pip install decord (x86-64 only), or use decoder='pyav'"
            ) from error
        super().__init__(path, limits=limits)
        self._decord, self._threads = decord, threads
        lacking = self._call("cannot be opened", lambda: missing_bytes(self.path))
        if lacking:  # decord may hang where frames are missing
            raise self.error(f"is cut off: {lacking} bytes are missing")
        self._video = self._open()
        self._length = len(self._video)
        if not self._length:
            raise self.error("holds no frame")
        self.height, self.width = self._call("cannot be decoded", lambda: self._video[0].shape[:2])
        self.fps = float(self._video.get_avg_fps())
        self._size = self.height, self.width

    @property
    def num_frames(self) -> int:
        """What decord says; see the head of this file."""
        return self._length

    def close(self) -> None:
        self._video = None

    def _open(self, height: int = -1, width: int = -1) -> Any:
        def reader() -> Any:
            path = os.path.abspath(self.path)
            return self._decord.VideoReader(path, width=width, height=height, num_threads=self._threads)

        return self._call("cannot be opened", reader)

    def _read(self, numbers: list[int], height: int, width: int) -> list[np.ndarray]:
        if self._video is None:
            raise InputError(f"{self.path}: the reader is closed; open the video again")
        if numbers[-1] >= self._length:
            raise self.past_the_end(numbers[-1], self._length)
        if self._size != (height, width):  # decord fixes the size when it opens a file
            self._video, self._size = self._open(height, width), (height, width)
        batch = self._call("cannot be decoded", lambda: self._video.get_batch(numbers).asnumpy())
        return list(batch)

    def _call(self, doing: str, do: Callable[[], Any]) -> Any:
        """do(), with what decord raises as a DecodeError of one line. It does not say which frame is bad."""
        try:
            return do()
        except (self._decord.DECORDError, RuntimeError, OSError, ValueError, LookupError) as error:
            why = str(error).strip().partition("\n")[0] or type(error).__name__
            raise self.error(f"{doing}: {why}") from error
