"""An mp4 of the stream with the label written on its frames. Without sound."""

from __future__ import annotations

import threading
from collections import deque
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from revit_video.decode.rgb import ToRGB
from revit_video.stream.cutter import Missed
from revit_video.stream.engine import WindowResult, speaks_for
from revit_video.stream.outputs import Item, refuse_existing

TIME_BASE = Fraction(1, 60_000)  # MPEG-4 knows no finer one


class Annotated:
    """Takes all frames of a source by `watch` and all its results by `write`.

    Of a file, frames wait, made small already, until the result for their time is there: as many as a window
    and a stride hold, if windows do not wait for each other to make a batch. Of a live stream (`wait=False`)
    a frame gets the last result that is known. The mp4 is written in fragments, so that what a kill leaves
    can be played.

    Args:
        fps: of the stream. short_side: of the frames that are written, in pixels.
    """

    def __init__(
        self, path: Path, *, fps: float, grid, wait: bool, overwrite: bool, short_side: int = 360
    ) -> None:
        refuse_existing(path, overwrite=overwrite)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.grid, self.wait, self.short_side = grid, wait, short_side
        options = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
        self._container = av.open(str(path), "w", format="mp4", options=options)
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        self._stream = self._container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
        self._to_rgb, self._lock = ToRGB(), threading.Lock()
        self._started = self._closed = False
        self._frames: deque[tuple[float, np.ndarray]] = deque()
        self._labels: deque[tuple[float, float, str]] = deque()  # from, to, text
        self._known_until = 0.0

    def watch(self, frame) -> None:
        """The next frame. Nothing is written after closing."""
        short = min(self.short_side, *frame.size)
        picture = frame.rgb(self._to_rgb, short)
        with self._lock:
            if self._closed:
                return
            self._frames.append((frame.time_s, picture))
            self._encode(self._known_until if self.wait else frame.time_s)

    def write(self, source: str, item: Item) -> None:
        """The next result: its label is on the frames that it speaks for."""
        with self._lock:
            if isinstance(item, WindowResult):
                begin, end = speaks_for(item, self.grid)
                text = f"{item.class_names[0]}  {100 * item.probabilities[0]:.0f}%"
                self._labels.append((begin, end, text))
                while not self.wait and len(self._labels) > 1:
                    self._labels.popleft()
                gap = max(self.grid.stride_s - self.grid.length_s, 0.0)  # between windows that do not touch
                self._known_until = end + gap
            elif isinstance(item, Missed):
                self._known_until = max(self._known_until, self.grid.start(item.last + 1))
            if self.wait:
                self._encode(self._known_until)

    def close(self) -> None:
        """Writes what is left. Closing twice is harmless."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._encode(float("inf"))
            if self._started:
                self._container.mux(self._stream.encode(None))
            self._container.close()

    def _encode(self, until_s: float) -> None:
        while self._frames and self._frames[0][0] <= until_s:
            time_s, picture = self._frames.popleft()
            self._put(time_s, labelled(picture, self._text(time_s)))

    def _text(self, time_s: float) -> str:
        if not self.wait:
            return self._labels[-1][2] if self._labels else ""
        while self._labels and self._labels[0][1] <= time_s:
            self._labels.popleft()
        return self._labels[0][2] if self._labels and self._labels[0][0] <= time_s else ""

    def _put(self, time_s: float, picture: np.ndarray) -> None:
        height, width = (side - side % 2 for side in picture.shape[:2])  # 4:2:0 knows even sides only
        if not self._started:
            self._stream.height, self._stream.width = height, width
            self._stream.pix_fmt = "yuv420p"
            self._stream.codec_context.time_base = TIME_BASE
            self._stream.codec_context.max_b_frames = 0  # whose times fragments shift
            self._started = True
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]), format="rgb24")
        if (height, width) != (self._stream.height, self._stream.width):  # the stream's pictures changed
            frame = frame.reformat(self._stream.width, self._stream.height)
        frame.pts, frame.time_base = round(time_s / TIME_BASE), TIME_BASE
        self._container.mux(self._stream.encode(frame))


font_of = cache(ImageFont.load_default)


def labelled(picture: np.ndarray, text: str) -> np.ndarray:
    """The picture (H, W, 3) with white text on black, lower left, cut off where it is too long."""
    if not text:
        return picture
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    size = max(10, picture.shape[0] // 14)
    font, edge = font_of(size), size // 3
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    y = picture.shape[0] - (bottom - top) - 3 * edge
    draw.rectangle((0, y, right - left + 2 * edge, picture.shape[0]), fill=(0, 0, 0))
    draw.text((edge - left, y + edge - top), text, font=font, fill=(255, 255, 255))
    return np.asarray(image)
