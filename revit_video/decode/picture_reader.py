"""A folder of pictures as a video, and a picture as a video of one frame.

Frames that were taken out of videos lie in folders as img_00001.jpg or frame_0000000001.jpg. Their names
are sorted as people count (2 before 10), and a frame's number is its place in that order, from 0, whatever
number its name has. Pillow reads the pictures; an orientation in their EXIF data is applied, transparency
is dropped.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from revit_video.decode.limits import DEFAULT_LIMITS, Limits
from revit_video.decode.member import Member
from revit_video.decode.reader import UNKNOWN_FPS, VideoReader
from revit_video.types import InputError

ENDINGS = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"))


def is_pictures(path: str | os.PathLike[str]) -> bool:
    """Is this for PictureReader: a folder, or a file with the ending of a picture?"""
    member = Member.of(path)
    if member:
        return Path(member.name).suffix.lower() in ENDINGS
    return os.path.isdir(path) or (Path(path).suffix.lower() in ENDINGS and os.path.isfile(path))


def picture_files(folder: str) -> list[str]:
    """Paths of the pictures in a folder, in the order of their numbers. Hidden files are left out."""
    with os.scandir(folder) as entries:
        names = [
            entry.name
            for entry in entries
            if Path(entry.name).suffix.lower() in ENDINGS and not entry.name.startswith(".")
        ]
    return [os.path.join(folder, name) for name in sorted(names, key=counting_order)]


def counting_order(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sorts names with numbers in them by the numbers: a2 before a10, a1 before a01."""
    parts = re.split(r"([0-9]+)", Path(name).stem)
    return [(int(part), "") if part.isdecimal() else (-1, part.lower()) for part in parts], name


class PictureReader(VideoReader):
    """Reads pictures. See VideoReader for what it offers; a file is opened when its frame is asked for.

    All pictures must have the size of the first. The rate is not known: fps is 25.0, unless it is given.
    """

    decoder = "pictures"

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        threads: int = 1,
        limits: Limits = DEFAULT_LIMITS,
        fps: float | None = None,
    ) -> None:
        super().__init__(path, limits=limits)
        self.fps, self.fps_known = fps or UNKNOWN_FPS, fps is not None
        self._closed = False
        try:
            self._files = picture_files(self.path) if os.path.isdir(self.path) else [self.path]
        except OSError as error:
            raise self.error(f"cannot be opened: {error.strerror}") from error
        if not self._files:
            raise self.error("is no file, but a folder without pictures (jpg, png, bmp, webp, ppm)")
        with self._open(0) as picture:
            self.width, self.height = picture.size

    @property
    def num_frames(self) -> int:
        """How many pictures there are."""
        return len(self._files)

    def close(self) -> None:
        self._closed = True

    def _check_path(self) -> None:
        if not os.path.isdir(self.path):
            super()._check_path()

    def _read(self, numbers: list[int], height: int, width: int) -> Iterator[np.ndarray]:
        if self._closed:
            raise InputError(f"{self.path}: the reader is closed; open the video again")
        if numbers[-1] >= len(self._files):
            raise self.past_the_end(numbers[-1], len(self._files))
        for number in numbers:
            picture = self._open(number)
            if picture.size != (self.width, self.height):
                sizes = f"is {picture.width}x{picture.height}, the first picture {self.width}x{self.height}"
                raise self._wrong(number, sizes)
            if picture.size != (width, height):
                picture = picture.resize((width, height), Image.Resampling.BILINEAR)
            yield np.asarray(picture)

    def _open(self, number: int) -> Image.Image:
        """A picture in RGB, upright, at its own size."""
        try:
            member = Member.of(self._files[number])
            with (
                member.open() if member else nullcontext(self._files[number]) as file,
                Image.open(file) as picture,
            ):
                if picture.width * picture.height > self.limits.pixels:
                    size = f"{picture.width}x{picture.height}"
                    raise ValueError(f"{size} is more than the limit of {self.limits.pixels} pixels")
                return ImageOps.exif_transpose(picture).convert("RGB")
        except (
            OSError,
            ValueError,
            SyntaxError,
            LookupError,
            TypeError,
            ArithmeticError,
            AttributeError,
            MemoryError,
            struct.error,
            Image.DecompressionBombError,
        ) as error:  # fmt: skip - Pillow has no error of its own for damaged files
            why = " ".join((str(error) or type(error).__name__).split()).replace(self._files[number], "file")
            raise self._wrong(number, f"cannot be decoded: {why}") from error

    def _wrong(self, number: int, reason: str) -> Exception:
        name = "" if self._files[number] == self.path else f"{os.path.basename(self._files[number])} "
        return self.error(name + reason, number)
