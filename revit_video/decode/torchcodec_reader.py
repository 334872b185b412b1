"""A reader on torchcodec, by choice: it needs FFmpeg's shared libraries and the release that fits torch.

Its exact mode scans the file once when it opens it. What differs from the default reader is in
docs/decoding.md: frames that AVIs with B-frames promise cannot be reached, and full-size colours may differ
by rounding.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from revit_video.decode.container import missing_bytes
from revit_video.decode.limits import DEFAULT_LIMITS, Limits
from revit_video.decode.reader import UNKNOWN_FPS, VideoReader
from revit_video.types import InputError

FRAMES_AT_ONCE = 32  # decoded at full size before they are scaled


class TorchCodecReader(VideoReader):
    """Reads with torchcodec. VideoReader says what it offers, the head of this file what it does not."""

    decoder = "torchcodec"

    def __init__(
        self, path: str | os.PathLike[str], *, threads: int = 1, limits: Limits = DEFAULT_LIMITS
    ) -> None:
        decoders = _torchcodec()
        super().__init__(path, limits=limits)
        lacking = self._call("cannot be opened", lambda: missing_bytes(self.path))
        if lacking:
            raise self.error(f"is cut off: {lacking} bytes are missing")
        self._video = self._call(
            "cannot be opened",
            lambda: decoders.VideoDecoder(
                os.path.abspath(self.path),
                seek_mode="exact",
                dimension_order="NHWC",
                num_ffmpeg_threads=threads,
            ),
        )
        stored = self._video.metadata
        if (stored.width or 0) * (stored.height or 0) > limits.pixels:
            size = f"{stored.width}x{stored.height}"
            raise self.error(f"has pictures of {size}, more than the limit of {limits.pixels} pixels")
        self._length = len(self._video)
        if not self._length:
            raise self.error("holds no frame")
        self.fps_known = bool(stored.average_fps)
        self.fps = float(stored.average_fps or UNKNOWN_FPS)
        self.height, self.width = self._call("cannot be decoded", lambda: self._video[0].shape[:2])

    @property
    def num_frames(self) -> int:
        """What torchcodec counts."""
        return self._length

    def close(self) -> None:
        self._video = None

    def _read(self, numbers: list[int], height: int, width: int) -> Iterator[np.ndarray]:
        if self._video is None:
            raise InputError(f"{self.path}: the reader is closed; open the video again")
        if numbers[-1] >= self._length:
            raise self.past_the_end(numbers[-1], self._length)
        for begin in range(0, len(numbers), FRAMES_AT_ONCE):
            some = numbers[begin : begin + FRAMES_AT_ONCE]
            frames = self._call("cannot be decoded", lambda some=some: self._video.get_frames_at(some).data)
            yield from _scaled(frames, height, width)

    def _call(self, doing: str, do: Callable[[], Any]) -> Any:
        """do(), with what torchcodec raises as a DecodeError of one line. It names no frame."""
        try:
            return do()
        except (RuntimeError, OSError, ValueError, LookupError, TypeError) as error:
            why = str(error).strip().partition("\n")[0] or type(error).__name__
            raise self.error(f"{doing}: {why}") from error


def _torchcodec() -> Any:
    try:
        from torchcodec import decoders
    except ImportError as error:
        raise InputError(
            "decoder 'torchcodec' is not installed: pip install torchcodec, or use decoder='pyav'"
        ) from error
    except (RuntimeError, OSError) as error:
        why = " ".join(str(error).split())[:100]
        raise InputError(
            f"decoder 'torchcodec' does not load ({why} ...): it needs FFmpeg's shared libraries (Debian: "
            "apt install ffmpeg) and the release made for this torch; or use decoder='pyav'"
        ) from error
    return decoders


def _scaled(frames: Any, height: int, width: int) -> np.ndarray:
    """uint8 (T, H, W, 3), bilinear with antialiasing."""
    if frames.shape[1:3] == (height, width):
        return frames.numpy()
    from torch.nn.functional import interpolate

    size = {"size": (height, width), "mode": "bilinear", "antialias": True, "align_corners": False}
    small = interpolate(frames.permute(0, 3, 1, 2).float(), **size)
    return small.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
