"""A file opened by PyAV, and the plain walk through all its frames."""

from __future__ import annotations

import os
from collections.abc import Iterator

import av
from av.stream import Discard

from revit_video.decode.limits import Deadline, Limits
from revit_video.decode.member import Member


class NoVideo(ValueError):
    """The file opens, but holds nothing that can be shown."""


class Source:
    """The main video stream of a file: packets come out of it, frames out of its decoder.

    Raises whatever PyAV raises; the reader turns that into a DecodeError. Packets are bounded in time by the
    deadline, pictures in size by FFmpeg's own check, which comes before it allocates them.
    """

    def __init__(self, path: str, *, threads: int, limits: Limits, deadline: Deadline) -> None:
        self.deadline = deadline
        self.untouched = True  # no packet has been read
        member = Member.of(path)
        self._file = member.open() if member else None
        try:
            self.container = av.open(
                self._file or os.path.abspath(path),  # FFmpeg takes "a:b.mp4" for a web address
                metadata_errors="ignore",
                timeout=limits.seconds,
                options=self._options(limits),
            )
        except BaseException:
            self._close_file()
            raise
        try:
            self.stream = self._best_stream()
            self._prepare(threads, limits)
        except BaseException:
            self.container.close()
            self._close_file()
            raise

    def packets(self) -> Iterator[av.Packet]:
        """Packets of the stream from where it stands; the last is empty and makes the decoder finish."""
        self.untouched = False
        for packet in self.container.demux(self.stream):
            self.deadline.check()
            yield packet

    def decode(self, packet: av.Packet | None) -> list[av.VideoFrame]:
        """The frames that the decoder gives out for this packet; None: all that it holds back."""
        return self.stream.codec_context.decode(packet)

    def seek(self, time: int) -> None:
        """To the key frame at or before this time, with an empty decoder."""
        depth = self.stream.codec_context.reorder_depth
        self.container.seek(time, stream=self.stream)
        self.stream.codec_context.reorder_depth = depth  # emptying makes FFmpeg forget it

    def close(self) -> None:
        self.container.close()
        self._close_file()
        self.stream = None  # the decoder is freed with its last reference

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()

    @staticmethod
    def _options(limits: Limits) -> dict[str, str]:
        """FFmpeg counts the margins that codecs add, so it gets some more; readers compare exactly."""
        return {"max_pixels": str(2 * limits.pixels + 65_536)}

    def _best_stream(self) -> av.VideoStream:
        stream = self.container.streams.best("video")
        if stream is None:
            raise NoVideo("holds no video stream")
        if stream.codec_context is None:
            raise NoVideo("holds video in an unknown form")
        return stream

    def _prepare(self, threads: int, limits: Limits) -> None:
        context = self.stream.codec_context
        if context.width * context.height > limits.pixels:
            size = f"{context.width}x{context.height}"
            raise NoVideo(f"has pictures of {size}, more than the limit of {limits.pixels} pixels")
        context.options = self._options(limits)
        context.thread_count = threads
        if threads != 1:
            self.stream.thread_type = "AUTO"
        for other in self.container.streams:
            if other is not self.stream:
                other.discard = Discard.all


class Walk:
    """One walk through the frames of a file, from the start, in the decoder's order.

    Attributes:
        number: of the frame last decoded; -1 before the first.
        frame: that frame, not converted.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.number = -1
        self.frame: av.VideoFrame | None = None
        self._frames = self._decode_all()

    def step(self) -> bool:
        """Decodes the next frame; False where the video ends."""
        frame = next(self._frames, None)
        if frame is None:
            return False
        self.number, self.frame = self.number + 1, frame
        return True

    def close(self) -> None:
        self._frames.close()
        self.source.close()
        del self.frame

    def _decode_all(self) -> Iterator[av.VideoFrame]:
        for packet in self.source.packets():
            yield from self.source.decode(packet)
