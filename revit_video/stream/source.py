"""Where frames come from: what files and live streams share, and files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import av
import numpy as np

from revit_video.decode import DecodeError, VideoReader, open_video
from revit_video.decode.container import missing_bytes
from revit_video.decode.limits import DEFAULT_LIMITS, Deadline, Limits
from revit_video.decode.member import Member
from revit_video.decode.orientation import UPRIGHT, Orientation, orientation
from revit_video.decode.packets import may_have_table, packet_table
from revit_video.decode.pyav_source import NoVideo, Source, Walk
from revit_video.decode.reader import UNKNOWN_FPS
from revit_video.decode.rgb import ToRGB


@dataclass(frozen=True)
class Frame:
    """A decoded frame, not yet converted, and its time in seconds from the first one."""

    time_s: float
    picture: av.VideoFrame
    turned: Orientation = UPRIGHT

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) as displayed."""
        return self.turned.size(self.picture.height, self.picture.width)

    def rgb(self, to_rgb: ToRGB, short_side: int) -> np.ndarray:
        """uint8 (H, W, 3), as `VideoReader.frames` makes it."""
        return to_rgb(self.picture, *scaled(self.size, short_side), self.turned)


@dataclass(frozen=True)
class StillFrame:
    """A picture of a folder in the place of a frame."""

    time_s: float
    reader: VideoReader
    number: int

    @property
    def size(self) -> tuple[int, int]:
        return self.reader.height, self.reader.width

    def rgb(self, to_rgb: ToRGB, short_side: int) -> np.ndarray:
        return self.reader.frames([self.number], short_side)[0]


@dataclass(frozen=True)
class Gap:
    """What follows does not follow on what came before."""

    why: str


class FrameSource(Protocol):
    """Frames and gaps in the order of time. `name` is for people; `fps_known`: it says its rate itself."""

    name: str
    fps: float
    fps_known: bool

    def __iter__(self) -> Iterator[Frame | StillFrame | Gap]: ...

    def close(self) -> None: ...


class FileSource:
    """A video file, frame by frame from its start to its end, whatever its length.

    Times are those of the file, from its first frame on. Where they are missing or do not rise, a frame
    comes one frame interval after the one before.

    Raises:
        DecodeError: the file cannot be opened; while iterating, from where it is damaged.
    """

    def __init__(self, path: str, *, limits: Limits = DEFAULT_LIMITS) -> None:
        self.name = os.fspath(path)
        member = Member.of(self.name)
        if not os.path.isfile(member.shard if member else self.name):
            raise DecodeError(self.name, "pyav", "no such file")
        self._deadline = Deadline(limits.seconds)
        with blamed(self.name, "cannot be opened"):
            self._lacking = missing_bytes(self.name)
            self._source = Source(self.name, threads=1, limits=limits, deadline=self._deadline)
        rate = self._source.stream.average_rate or self._source.stream.guessed_rate
        self.fps, self.fps_known = float(rate) if rate else UNKNOWN_FPS, bool(rate)

    def __iter__(self) -> Iterator[Frame]:
        walk, last, first = Walk(self._source), -1 / self.fps, None
        base, turned = self._source.stream.time_base, UPRIGHT
        while True:
            self._deadline.renew()
            with blamed(self.name, "cannot be decoded"):
                if not walk.step():
                    return self._check_end(walk.number + 1)
            if walk.number == 0:
                matrix = walk.frame.side_data.get("DISPLAYMATRIX")
                first, turned = walk.frame.pts, orientation(bytes(matrix) if matrix else None)
            last = rising_time(walk.frame.pts, first, base, last, self.fps)
            yield Frame(last, walk.frame, turned)

    def _check_end(self, frames: int) -> None:
        announced = self._source.stream.frames
        if not frames:
            raise DecodeError(self.name, "pyav", "holds no frame")
        if self._lacking and (not announced or frames < announced):
            left = f"{frames} of {announced}" if announced else frames
            reason = f"is cut off: {self._lacking} bytes are missing, {left} frames are left"
            raise DecodeError(self.name, "pyav", reason, frames)

    def close(self) -> None:
        self._source.close()


class PictureSource:
    """A folder of pictures, or one picture, at `fps` frames per second."""

    def __init__(self, path: str, *, fps: float | None = None) -> None:
        self.name = os.fspath(path)
        self._reader = open_video(self.name)
        self.fps, self.fps_known = fps or self._reader.fps, fps is not None

    def __iter__(self) -> Iterator[StillFrame]:
        for number in range(self._reader.num_frames):
            yield StillFrame(number / self.fps, self._reader, number)

    def close(self) -> None:
        self._reader.close()


def scaled(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """(height, width) with this short side; the long one is rounded down, as in decode."""
    return tuple(side * short_side // min(size) for side in size)


def rising_time(pts: int | None, first: int | None, base, last: float, fps: float) -> float:
    """Seconds from the first frame, after `last` in any case."""
    if pts is not None and first is not None:
        time_s = float((pts - first) * base)
        if time_s > last:
            return time_s
    return last + 1 / fps


def frame_times(path: str, *, limits: Limits = DEFAULT_LIMITS) -> list[float] | None:
    """The time of every frame of a file, by its number, without decoding; None where its packets do not
    prove them (see decode.packets).
    """
    with blamed(path, "cannot be read"):
        source = Source(path, threads=1, limits=limits, deadline=Deadline(limits.seconds))
        try:
            stream = source.stream
            if not may_have_table(stream, source.container.format.name):
                return None
            table = packet_table(stream, source.packets())
            base = stream.time_base
        finally:
            source.close()
    if table is None or not table.packets:
        return None
    first = table.times[table.packets[0]]
    return [float((table.times[packet] - first) * base) for packet in table.packets]


@contextmanager
def blamed(name: str, doing: str) -> Iterator[None]:
    """Turns whatever PyAV raises into a DecodeError of one line."""
    try:
        yield
    except DecodeError:
        raise
    except NoVideo as error:
        raise DecodeError(name, "pyav", str(error)) from error
    except (av.FFmpegError, OSError, ValueError, RuntimeError, LookupError, EOFError, MemoryError) as error:
        raise DecodeError(name, "pyav", f"{doing}: {reason_of(error)}") from error


def reason_of(error: Exception) -> str:
    if isinstance(error, av.error.ExitError):
        return "no answer within the time limit"
    why = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(why.split())
