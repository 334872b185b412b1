"""Cameras, network addresses and pipes: what comes, comes when it comes."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from urllib.parse import urlsplit, urlunsplit

import av
from av.stream import Discard

from revit_video.decode import DecodeError
from revit_video.decode.limits import DEFAULT_LIMITS, Limits
from revit_video.decode.reader import UNKNOWN_FPS
from revit_video.stream.source import Frame, Gap, blamed, reason_of

AT_THE_EDGE_S = 0.02  # having waited so long for a packet, we have read all there was
SLACK_S = 10.0  # a stream's times may run so far ahead of the clock before they count as new ones
OUT_OF_ORDER_S = 1.0  # a frame that comes late by less is left out; by more, the times have started anew
BAD_PACKETS = 250  # in a row, before the connection is given up
LONGEST_WAIT_S = 8.0


def is_live(address: str) -> bool:
    """Is this an address, a camera or a pipe?"""
    if "://" in address:
        return True
    try:
        mode = os.stat(address).st_mode
    except OSError:
        return address.startswith("/dev/video")
    return stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)


def shown_name(address: str) -> str:
    """The address without the password in it."""
    if "://" not in address:
        return address
    parts = urlsplit(address)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


class LiveClock:
    """Times of a stream, rising from 0, across connections and streams that start to count anew.

    A time goes on from the one before where the wall clock says that it can; otherwise the time that has
    passed on the wall is taken to have passed in the stream, and its own times count from there.
    """

    def __init__(self, frame_s: float, now: Callable[[], float]) -> None:
        self.frame_s, self.now = frame_s, now
        self.last: float | None = None
        self._seen = self._offset = 0.0

    def time_of(self, raw_s: float | None) -> tuple[float | None, bool]:
        """(time, whether the stream's times have jumped) of the next frame; no time: leave it out."""
        now, jumped = self.now(), False
        if self.last is None:
            self.last, self._offset = 0.0, -(raw_s or 0.0)
        else:
            passed = max(now - self._seen, self.frame_s)
            ahead = passed if raw_s is None else raw_s + self._offset - self.last
            if -OUT_OF_ORDER_S < ahead <= 0:
                return None, False
            if not 0 < ahead <= passed + SLACK_S:
                jumped, ahead = True, passed
                self._offset = self.last + ahead - raw_s
            self.last += ahead
        self._seen = now
        return self.last, jumped


class LiveSource:
    """Frames of a live stream, with reconnection.

    A connection that breaks, ends or is silent for `timeout_s` is opened again: after 0.5 s, then after twice
    as long each time, up to 8 s, at most `retries` times in a row. A pipe, and a file behind an address, end
    where they end.

    Lag is how far behind the stream we are: it grows while packets lie there already when we come to read
    them, and is 0 whenever we have to wait for one. Beyond `max_lag_s` packets are thrown away undecoded up
    to a key frame with no such lag, which is a gap.

    Args:
        format: FFmpeg's name of the input where the address does not tell (v4l2 for cameras).
        options: of FFmpeg's input, such as {"video_size": "1280x720"}.

    Raises:
        DecodeError: it cannot be opened at first; while iterating, it is gone for good.
    """

    def __init__(
        self,
        address: str,
        *,
        format: str | None = None,
        options: Mapping[str, str] | None = None,
        timeout_s: float = 10.0,
        retries: int = 5,
        max_lag_s: float = 2.0,
        limits: Limits = DEFAULT_LIMITS,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self.address, self.name = address, shown_name(address)
        self.format = format or ("v4l2" if address.startswith("/dev/video") else None)
        self.options = {"rtsp_transport": "tcp"} if address.startswith("rtsp") else {}
        self.options |= {"max_pixels": str(limits.pixels), **(options or {})}
        self.timeout_s, self.retries, self.wait = timeout_s, retries, wait
        self.max_lag_s = max_lag_s
        self._edge = 0.0  # wall clock minus stream time, of what is not late
        self._container, self._stream = None, None
        self._reading, self._closed = threading.Lock(), False
        with blamed(self.name, "cannot be opened"):
            self._connect()
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.fps, self.fps_known = float(rate) if rate else UNKNOWN_FPS, bool(rate)
        pipe = "://" not in address and os.path.exists(address) and stat.S_ISFIFO(os.stat(address).st_mode)
        self._ends = pipe or self._container.duration is not None

    def lag_s(self, time_s: float) -> float:
        """How long ago this moment of the stream could have been known."""
        return max(0.0, time.monotonic() - time_s - self._edge)

    def __iter__(self) -> Iterator[Frame | Gap]:
        with self._reading:
            try:
                yield from self._frames()
            finally:
                if self._closed:
                    self._disconnect()

    def close(self) -> None:
        """Where another thread is just reading, the connection is closed when that comes back."""
        self._closed = True
        if self._reading.acquire(blocking=False):
            self._disconnect()
            self._reading.release()

    def _frames(self) -> Iterator[Frame | Gap]:
        clock = LiveClock(1 / self.fps, time.monotonic)
        failed = 0
        while True:
            try:
                for item in self._decoded(clock):
                    failed = 0
                    yield item
                reason = "the stream ended"
                if self._ends:
                    return
            except (av.FFmpegError, OSError, ValueError, RuntimeError, EOFError) as error:
                reason = reason_of(error)
            if self._closed:
                return
            if clock.last is None:
                raise DecodeError(self.name, "pyav", f"gives no frame: {reason}")
            yield Gap(f"connection lost ({reason})")
            failed = self._again(reason, failed)

    def _disconnect(self) -> None:
        if self._container is not None:
            self._container.close()
            self._container = self._stream = None

    def _connect(self) -> None:
        self._disconnect()
        self._container = av.open(
            self.address, format=self.format, options=dict(self.options), timeout=self.timeout_s
        )
        stream = self._container.streams.best("video")
        if stream is None or stream.codec_context is None:
            raise ValueError("holds no video stream")
        stream.codec_context.options = {"max_pixels": self.options["max_pixels"]}
        for other in self._container.streams:
            if other is not stream:
                other.discard = Discard.all
        self._stream = stream

    def _again(self, reason: str, failed: int) -> int:
        """Opens the stream again; `failed`: attempts in a row that have brought no frame. Returns how many
        there are now.
        """
        for attempt in range(failed, self.retries):
            self._disconnect()
            self.wait(min(0.5 * 2**attempt, LONGEST_WAIT_S))
            try:
                self._connect()
                return attempt + 1
            except (av.FFmpegError, OSError, ValueError) as error:
                reason = reason_of(error)
        tried = f"{self.retries} attempts to reconnect failed"
        raise DecodeError(self.name, "pyav", f"the stream is gone; {tried}; the last: {reason}")

    def _decoded(self, clock: LiveClock) -> Iterator[Frame | Gap]:
        base, context = self._stream.time_base, self._stream.codec_context
        bad, skipping = 0, False
        packets = self._container.demux(self._stream)
        while True:
            asked = time.monotonic()
            packet = next(packets, None)
            if packet is None:
                return
            waited = time.monotonic() - asked > AT_THE_EDGE_S
            late = 0.0 if waited or clock.last is None else self.lag_s(clock.last)
            if late > self.max_lag_s or (skipping and not packet.is_keyframe):
                if not skipping:
                    yield Gap(f"{late:.1f} s late: went on with the next key frame")
                skipping = True
                if not packet.is_keyframe:
                    continue
            if skipping:
                context.flush_buffers()
                skipping = False
            try:
                frames = context.decode(packet if packet.size else None)
                bad = 0
            except av.InvalidDataError:
                bad += 1
                if bad > BAD_PACKETS:
                    raise
                continue
            for frame in frames:
                if frame.is_corrupt:
                    continue
                time_s, jumped = clock.time_of(None if frame.pts is None else float(frame.pts * base))
                if time_s is None:
                    continue
                if jumped:
                    yield Gap("the stream's times have jumped")
                now = time.monotonic() - time_s
                self._edge = now if waited or not time_s else min(self._edge, now)
                yield Frame(time_s, frame)
