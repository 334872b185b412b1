"""The default reader: PyAV, which brings its own FFmpeg. Exact by counting frames, never by times or seeking.

Presentation times are wrong in AVIs with B-frames, and frame counts in headers are too high in many, so
neither is used: a frame's number is its place in the decoder's output. Every call walks through the file
once, from the start or from where the last call stopped, and converts only the frames that were asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from revit_video.decode.container import missing_bytes
from revit_video.decode.reader import VideoReader
from revit_video.types import InputError

UNKNOWN_FPS = 25.0  # FFmpeg's own choice for pictures without times
# Here one packet with data is one frame; elsewhere it may not be (B-frames packed into AVIs, hidden in VP8).
PACKET_IS_FRAME = {
    "mov,mp4,m4a,3gp,3g2,mj2": {"h264", "hevc", "vp9", "av1"},
    "matroska,webm": {"h264", "hevc", "vp9", "av1"},
}


class PyAVReader(VideoReader):
    """Reads with PyAV. See VideoReader for what it offers.

    A file that is cut off (it lacks bytes and frames that its container announces) is refused at opening.
    A file that is damaged somewhere gives the frames before the damage and a DecodeError from there on.
    """

    decoder = "pyav"

    def __init__(self, path: str | os.PathLike[str], *, threads: int = 1) -> None:
        super().__init__(path)
        self.threads = threads
        self._counted: int | None = None  # frames announced by packets or counted by decoding
        self._existing: int | None = None  # frames that decoding to the end has given
        self._closed = False
        self._reformatter = VideoReformatter()  # one, as it keeps FFmpeg's scaling tables between frames
        self._lacking = 0
        with self._blame("cannot be opened"):
            self._lacking = missing_bytes(self.path)
        self._walk: _Walk | None = self._start_walk()
        try:
            self._describe(self._walk)
            if self._lacking:
                self._refuse_if_cut(self._walk.stream.frames)
        except BaseException:
            self.close()
            raise

    @property
    def num_frames(self) -> int:
        """How many frames the video has; counted when first asked for.

        In mp4, mov, mkv and webm with today's codecs the packets are counted, which costs a few
        milliseconds; elsewhere the frames are, by decoding. Should the decoder then end with up to 3 frames
        (or 5%) fewer than there are packets, `frames` repeats the last frame in place of the others and
        num_frames falls to what exists; with still fewer frames the video counts as damaged.
        """
        if self._counted is None:
            self._counted = self._count_packets() if self._packet_is_frame else self._count_frames()
        return self._counted if self._existing is None else self._existing

    def close(self) -> None:
        self._closed = True
        self._stop_walk()

    def _describe(self, walk: _Walk) -> None:
        if not walk.step():
            raise self.error("holds no frame")
        stream, frame = walk.stream, walk.frame
        rate = stream.average_rate or stream.guessed_rate
        self.fps = float(rate) if rate else UNKNOWN_FPS
        self._quarter_turns = round(frame.rotation / 90) % 4  # counter-clockwise, to be applied
        turned = self._quarter_turns % 2
        self.height, self.width = (frame.width, frame.height) if turned else (frame.height, frame.width)
        codecs = PACKET_IS_FRAME.get(walk.container.format.name, ())
        self._packet_is_frame = stream.codec_context.codec.canonical_name in codecs

    def _refuse_if_cut(self, announced: int) -> None:
        """Bytes are missing. That matters if frames are too, or if no number of frames was announced."""
        packets = self._count_packets()
        if not announced or packets < announced:
            left = f"{packets} of {announced}" if announced else packets
            reason = f"is cut off: {self._lacking} bytes are missing, {left} frames are left"
            raise self.error(reason, packets)

    def _count_packets(self) -> int:
        container, stream = self._open()
        with container, self._blame("cannot be read"):
            return sum(packet.size > 0 and not packet.is_discard for packet in container.demux(stream))

    def _count_frames(self) -> int:
        with closing(self._start_walk()) as walk:
            while walk.step():
                pass
            return walk.number + 1

    def _read(self, numbers: list[int], height: int, width: int) -> list[np.ndarray]:
        if self._counted is not None and numbers[-1] >= self._counted:
            raise self.past_the_end(numbers[-1], self.num_frames)
        try:
            return [self._convert(self._frame(number), height, width) for number in numbers]
        except BaseException:  # the walk may have been stopped anywhere: the next call starts anew
            self._stop_walk()
            raise

    def _frame(self, number: int) -> av.VideoFrame:
        if self._walk is None or number < self._walk.number:
            self._stop_walk()
            self._walk = self._start_walk()
        while self._walk.number < number:
            if not self._walk.step():
                self._settle_the_end(number, existing=self._walk.number + 1)
                break
        return self._walk.frame

    def _settle_the_end(self, number: int, *, existing: int) -> None:
        """The decoder ended well, before frame `number`: is that number wrong, or the count, or the file?"""
        self.num_frames  # noqa: B018 - counts, if nobody has asked yet
        if number >= self._counted:
            raise self.past_the_end(number, self.num_frames)
        if self._counted - existing > max(3, self._counted // 20):
            raise self.error(f"gives {existing} frames of the {self._counted} it announces", existing)
        self._existing = existing

    def _convert(self, frame: av.VideoFrame, height: int, width: int) -> np.ndarray:
        if self._quarter_turns % 2:
            height, width = width, height
        with self._blame("cannot be converted to RGB", self._walk.number):
            rgb = self._reformatter.reformat(
                frame, width, height, "rgb24", interpolation="BILINEAR", threads=self.threads
            )
            return np.rot90(rgb.to_ndarray(), self._quarter_turns)

    def _open(self) -> tuple[InputContainer, VideoStream]:
        """The file and its main video stream, ready to be read from the start."""
        if self._closed:
            raise InputError(f"{self.path}: the reader is closed; open the video again")
        with self._blame("cannot be opened"):  # an absolute path, as FFmpeg takes "a:b.mp4" for a web address
            container = av.open(os.path.abspath(self.path), metadata_errors="ignore")
            try:
                stream = container.streams.best("video")
                if stream is None:
                    raise self.error("holds no video stream")
                stream.codec_context.thread_count = self.threads
                if self.threads != 1:
                    stream.thread_type = "AUTO"
                return container, stream
            except BaseException:
                container.close()
                raise

    def _start_walk(self) -> _Walk:
        return _Walk(*self._open(), self._blame)

    def _stop_walk(self) -> None:
        if self._walk is not None:
            self._walk.close()
            self._walk = None

    @contextmanager
    def _blame(self, doing: str, frame: int | None = None) -> Iterator[None]:
        """Turns whatever PyAV raises into a DecodeError of one line."""
        try:
            yield
        except InputError:
            raise
        except (av.FFmpegError, OSError, ValueError, RuntimeError, LookupError, EOFError) as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            lacking = f"; {self._lacking} bytes are missing at its end" if self._lacking else ""
            raise self.error(f"{doing}: {' '.join(why.split())}{lacking}", frame) from error


class _Walk:
    """One walk through the frames of a file, in the decoder's order.

    Attributes:
        number: of the frame last decoded; -1 before the first.
        frame: that frame, not converted.
    """

    def __init__(self, container: InputContainer, stream: VideoStream, blame: Callable) -> None:
        self.container, self.stream = container, stream
        self.number = -1
        self.frame: av.VideoFrame | None = None
        self._blame = blame
        self._frames = container.decode(stream)

    def step(self) -> bool:
        """Decodes the next frame; False where the video ends."""
        with self._blame("cannot be decoded", self.number + 1):
            frame = next(self._frames, None)
        if frame is None:
            return False
        self.number, self.frame = self.number + 1, frame
        return True

    def close(self) -> None:
        self._frames.close()
        self.container.close()
        del self._frames, self.stream, self.frame  # the decoder is freed with its last reference
