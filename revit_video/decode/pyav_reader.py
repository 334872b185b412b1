"""The default reader: PyAV, which brings its own FFmpeg. Exact, and it decodes as little as exactness allows.

A frame's number is its place in the decoder's output. Presentation times are wrong in AVIs with B-frames,
and frame counts in headers are too high in many, so neither is trusted. Where the packets prove which frame
is where (packets.py), the reader seeks and leaves out pictures that no other needs (pyav_seek.py);
everywhere else it walks through the file once, from the start or from where the last call stopped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import av
import numpy as np

from revit_video.decode.container import missing_bytes
from revit_video.decode.limits import DEFAULT_LIMITS, Deadline, Limits
from revit_video.decode.orientation import orientation
from revit_video.decode.packets import PacketTable, may_have_table, packet_table
from revit_video.decode.pyav_seek import Mismatch, Seeker
from revit_video.decode.pyav_source import NoVideo, Source, Walk
from revit_video.decode.reader import UNKNOWN_FPS, VideoReader
from revit_video.decode.rgb import ToRGB
from revit_video.types import InputError


class PyAVReader(VideoReader):
    """Reads with PyAV. See VideoReader for what it offers.

    A file that is cut off (it lacks bytes and frames that its container announces) is refused at opening.
    A file that is damaged somewhere gives a DecodeError for every frame that cannot be decoded without the
    damaged part: up to the next key frame where the reader seeks, up to the end where it cannot.
    """

    decoder = "pyav"

    def __init__(
        self, path: str | os.PathLike[str], *, threads: int = 1, limits: Limits = DEFAULT_LIMITS
    ) -> None:
        super().__init__(path, limits=limits)
        self.threads = threads
        self._counted: int | None = None  # frames announced by packets or counted by decoding
        self._existing: int | None = None  # frames that decoding to the end has given
        self._closed = False
        self._to_rgb = ToRGB(threads=threads)
        self._deadline = Deadline(limits.seconds)
        self._walk: Walk | None = None
        self._seeker: Seeker | None = None
        self._lacking = 0
        with self._blame("cannot be opened"):
            self._lacking = missing_bytes(self.path)
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    @property
    def num_frames(self) -> int:
        """How many frames the video has; counted when first asked for, if the packets do not tell.

        In mp4, mov, mkv and webm with today's codecs packets are frames, wherever that can be proved;
        elsewhere frames are counted by decoding. Should the decoder then end with up to 3 frames (or 5%)
        fewer than there are packets, `frames` repeats the last frame in place of the others and num_frames
        falls to what exists; with still fewer frames the video counts as damaged.
        """
        if self._counted is None:
            self._deadline.renew()
            with closing(Walk(self._open())) as walk:
                while self._step(walk):
                    pass
                self._counted = walk.number + 1
        return self._counted if self._existing is None else self._existing

    def close(self) -> None:
        self._closed = True
        self._stop_walk()
        self._stop_seeking()

    def _start(self) -> None:
        """Looks at all packets, where they can prove anything, and at the first frame."""
        source = self._open()
        try:
            table = self._table(source)
            frame = self._first_frame(source, table)
        except BaseException:
            source.close()
            raise
        stream = (self._seeker or self._walk).source.stream
        rate = stream.average_rate or stream.guessed_rate
        self.fps_known = bool(rate)
        self.fps = float(rate) if rate else UNKNOWN_FPS
        matrix = frame.side_data.get("DISPLAYMATRIX")
        self._orientation = orientation(bytes(matrix) if matrix else None)
        self.height, self.width = self._orientation.size(frame.height, frame.width)

    def _table(self, source: Source) -> PacketTable | None:
        """Which packet holds which frame, if that can be told. A file without its last frames is refused."""
        table = None
        if may_have_table(source.stream, source.container.format.name):
            with self._blame("cannot be read"):
                table = packet_table(source.stream, source.packets())
        if self._lacking:
            packets, announced = len(table.packets) if table else self._count_packets(), source.stream.frames
            if not announced or packets < announced:
                left = f"{packets} of {announced}" if announced else packets
                reason = f"is cut off: {self._lacking} bytes are missing, {left} frames are left"
                raise self.error(reason, packets)
        return table

    def _first_frame(self, source: Source, table: PacketTable | None) -> av.VideoFrame:
        if table and table.packets:
            self._seeker, self._counted = Seeker(source, table), len(table.packets)
            found = list(self._sought([0], go_on=True))
            if found:
                return found[0][1]
            self._counted = None
        if not source.untouched:
            source.close()
            source = self._open()
        self._walk = Walk(source)
        if not self._step(self._walk):
            raise self.error("holds no frame")
        return self._walk.frame

    def _count_packets(self) -> int:
        with closing(self._open()) as source, self._blame("cannot be read"):
            return sum(packet.size > 0 and not packet.is_discard for packet in source.packets())

    def _read(self, numbers: list[int], height: int, width: int) -> Iterator[np.ndarray]:
        if self._counted is not None and numbers[-1] >= self._counted:
            raise self.past_the_end(numbers[-1], self.num_frames)
        self._deadline.renew()
        given = 0
        for number, frame in self._sought(numbers) if self._seeker else ():
            yield self._convert(number, frame, height, width)
            self._deadline.renew()
            given += 1
        try:
            for number in numbers[given:]:
                yield self._convert(number, self._frame(number), height, width)
                self._deadline.renew()
        except BaseException:  # the walk may have been stopped anywhere: the next call starts anew
            self._stop_walk()
            raise

    def _sought(self, numbers: list[int], *, go_on: bool = False) -> Iterator[tuple[int, av.VideoFrame]]:
        """The frames by seeking. Ends early, and for good, where the packets turn out to prove nothing."""
        frames = self._seeker.frames(numbers, go_on=go_on)
        while True:
            with self._blame("cannot be decoded", lambda: self._seeker.failed_at):
                try:
                    found = next(frames, None)
                except Mismatch:
                    return self._stop_seeking()
            if found is None:
                return None
            yield found

    def _frame(self, number: int) -> av.VideoFrame:
        """A frame by walking."""
        if self._walk is None or number < self._walk.number:
            self._stop_walk()
            self._walk = Walk(self._open())
        while self._walk.number < number:
            if not self._step(self._walk):
                self._settle_the_end(number, existing=self._walk.number + 1)
                break
        return self._walk.frame

    def _step(self, walk: Walk) -> bool:
        with self._blame("cannot be decoded", lambda: walk.number + 1):
            return walk.step()

    def _settle_the_end(self, number: int, *, existing: int) -> None:
        """The decoder ended well, before frame `number`: is that number wrong, or the count, or the file?"""
        self.num_frames  # noqa: B018 - counts, if nobody has asked yet
        if number >= self._counted:
            raise self.past_the_end(number, self.num_frames)
        if not existing or self._counted - existing > max(3, self._counted // 20):
            raise self.error(f"gives {existing} frames of the {self._counted} it announces", existing)
        self._existing = existing

    def _convert(self, number: int, frame: av.VideoFrame, height: int, width: int) -> np.ndarray:
        with self._blame("cannot be converted to RGB", lambda: number):
            return self._to_rgb(frame, height, width, self._orientation)

    def _open(self) -> Source:
        """The file, ready to be read from the start."""
        if self._closed:
            raise InputError(f"{self.path}: the reader is closed; open the video again")
        with self._blame("cannot be opened"):
            try:
                return Source(self.path, threads=self.threads, limits=self.limits, deadline=self._deadline)
            except NoVideo as error:
                raise self.error(str(error)) from error

    def _stop_walk(self) -> None:
        if self._walk is not None:
            self._walk.close()
            self._walk = None

    def _stop_seeking(self) -> None:
        if self._seeker is not None:
            self._seeker.source.close()
            self._seeker = None

    @contextmanager
    def _blame(self, doing: str, frame: Callable[[], int] | None = None) -> Iterator[None]:
        """Turns whatever PyAV raises into a DecodeError of one line."""
        try:
            yield
        except InputError:
            raise
        except (
            av.FFmpegError,
            OSError,
            ValueError,
            RuntimeError,
            LookupError,
            EOFError,
            MemoryError,
        ) as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            if isinstance(error, av.error.ExitError):  # FFmpeg was waiting for the disk
                why = f"took longer than the limit of {self.limits.seconds:g} s"
            lacking = f"; {self._lacking} bytes are missing at its end" if self._lacking else ""
            number = frame() if frame else None
            raise self.error(f"{doing}: {' '.join(why.split())}{lacking}", number) from error
