"""What every video reader offers, and the one error that all of them raise."""

from __future__ import annotations

import operator
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar

import numpy as np

from revit_video.decode.limits import DEFAULT_LIMITS, Limits
from revit_video.decode.member import Member
from revit_video.types import InputError

UNKNOWN_FPS = 25.0  # FFmpeg's own choice for pictures without times


class DecodeError(InputError):
    """A video cannot be read. Says which file, which reader and, where one is to blame, which frame."""

    def __init__(self, path: str, reader: str, reason: str, frame: int | None = None) -> None:
        super().__init__(path, reader, reason, frame)  # all four, so that it survives pickling by a worker
        self.path, self.reader, self.reason, self.frame = path, reader, reason, frame

    def __str__(self) -> str:
        frame = "" if self.frame is None else f", frame {self.frame}"
        return f"{self.path}: {self.reason} (reader {self.reader}{frame})"


class VideoReader(ABC):
    """The frames of one video file by number: 0 is the first that the decoder gives out, then without gaps.

    Times in the file play no part in the numbering. Sizes are as displayed: quarter turns and mirroring
    stored in the file are applied. A sample aspect ratio (non-square pixels) is not, as in the other action
    recognition toolkits, whose weights have been trained without it.

    Attributes:
        path, decoder: the file, and the name of the reader ("pyav").
        fps: mean frames per second; 25.0 where the file does not say.
        fps_known: whether it does.
        height, width: of a displayed frame, in pixels.
    """

    decoder: ClassVar[str]
    path: str
    fps: float
    fps_known: bool = True
    height: int
    width: int

    def __init__(self, path: str | os.PathLike[str], *, limits: Limits = DEFAULT_LIMITS) -> None:
        self.path, self.limits = os.fspath(path), limits
        self._check_path()

    def _check_path(self) -> None:
        member = Member.of(self.path)
        file = member.shard if member else self.path
        if not os.path.isfile(file):  # also keeps web addresses, pipes and devices away from the decoder
            what = "is no file" if os.path.exists(file) else "no such file"
            raise self.error(what)

    @property
    @abstractmethod
    def num_frames(self) -> int:
        """How many frames the video has."""

    @abstractmethod
    def close(self) -> None:
        """Gives back files and decoders. Closing twice is harmless."""

    @abstractmethod
    def _read(self, numbers: list[int], height: int, width: int) -> Iterable[np.ndarray]:
        """The displayed frames of these rising, distinct numbers, each uint8 (height, width, 3)."""

    def frames(self, indices: Sequence[int], short_side: int | None = None) -> np.ndarray:
        """The frames of these numbers, in this order; numbers may repeat. Each frame is decoded once.

        Args:
            indices: frame numbers from 0 to num_frames - 1.
            short_side: pixels that the shorter side gets (bilinear, with antialiasing when it shrinks);
                the longer one keeps the proportion, rounded down. None keeps the size.

        Returns:
            uint8 (T, H, W, 3), RGB.

        Raises:
            InputError: a number is negative or past the end.
            DecodeError: a frame cannot be decoded.
        """
        wanted = [operator.index(index) for index in indices]
        height, width = self.scaled_size(short_side)
        if not wanted:
            return np.empty((0, height, width, 3), np.uint8)
        if min(wanted) < 0:
            raise InputError(f"{self.path}: frame {min(wanted)} was asked for; numbers start at 0")
        if len(wanted) * height * width * 3 > self.limits.bytes:
            size = f"{len(wanted)} frames of {width}x{height}"
            raise self.error(f"was asked for {size}, more than the limit of {self.limits.bytes} bytes")
        places: dict[int, list[int]] = {}  # of each frame in the result
        for place, number in enumerate(wanted):
            places.setdefault(number, []).append(place)
        numbers = sorted(places)
        frames = np.empty((len(wanted), height, width, 3), np.uint8)
        for number, picture in zip(numbers, self._read(numbers, height, width), strict=True):
            frames[places[number]] = picture
        return frames

    def scaled_size(self, short_side: int | None) -> tuple[int, int]:
        """(height, width) of the frames that `frames(..., short_side)` returns."""
        if short_side is None:
            return self.height, self.width
        if short_side < 1:
            raise InputError(f"short_side is {short_side}, but must be at least 1 pixel")
        short = min(self.height, self.width)
        return self.height * short_side // short, self.width * short_side // short

    def error(self, reason: str, frame: int | None = None) -> DecodeError:
        return DecodeError(self.path, self.decoder, reason, frame)

    def past_the_end(self, number: int, num_frames: int) -> InputError:
        return InputError(
            f"{self.path}: frame {number} was asked for; the video has {num_frames} frames, from number 0"
        )

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
