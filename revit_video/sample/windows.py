"""Windows that slide over a stream: where in time each one's frames lie. Pure functions of seconds.

A window is what the model was trained to see, a clip of T frames; one begins every `stride_s`:

    time        0 . . . . 1 . . . . 2 . . . . 3 . . . .
    window 0    f . f . f . f . f                          length 2 s, stride 1 s
    window 1              f . f . f . f . f
    window 2                        f . f . f . f . f

A place in time stands for the frame that is shown there: the last one that comes no more than half a frame
after it. So times that shake by less than that, or are rounded, change nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from revit_video.types import InputError


@dataclass(frozen=True)
class WindowRule:
    """What a checkpoint knows of its clips, in the words of `FramePicker`."""

    clip_len: int
    sampling_rate: int = 1
    sampling: str = "dense"
    rule: str = "centred"
    target_fps: float = 30.0

    def length_s(self, fps: float) -> float:
        """Seconds of a clip in a stream of `fps` frames per second.

        Official dense clips last equally long whatever the frame rate. Ours were trained on every n-th frame
        of whatever rate, so they do as well here. Segments stand for a whole video, whose length no
        checkpoint knows: InputError.
        """
        if self.sampling == "segments":
            raise InputError(
                "this checkpoint takes its frames from all over a video (data.sampling=segments), so it does "
                "not tell how long a window is; say it, as long as the videos it was trained on: "
                "--window SECONDS"
            )
        return self.clip_len * self.sampling_rate / (fps if self.rule == "centred" else self.target_fps)

    def places(self, length_s: float, fps: float) -> tuple[float, ...]:
        """Seconds from the start of a window of this length to each of its T frames.

        Dense: every T-th part's begin; the official rule goes evenly from the first frame to the last.
        Segments: every T-th part's middle.
        """
        part = length_s / self.clip_len
        if self.sampling == "segments":
            return tuple((i + 0.5) * part for i in range(self.clip_len))
        if self.rule != "centred" and self.clip_len > 1:
            part = max(length_s - 1 / fps, 0.0) / (self.clip_len - 1)
        return tuple(i * part for i in range(self.clip_len))


@dataclass(frozen=True)
class WindowGrid:
    """All windows of a stream. Times are in seconds from its first frame.

    Args:
        length_s, stride_s: of a window, and from one's start to the next one's.
        places: from a window's start to each of its frames, rising.
        frame_s: how long a frame is shown.
    """

    length_s: float
    stride_s: float
    places: tuple[float, ...]
    frame_s: float

    def __post_init__(self) -> None:
        for what, value in (("window", self.length_s), ("stride", self.stride_s), ("frame", self.frame_s)):
            if not 0 < value < math.inf:
                raise InputError(f"the {what} is {value:g} s long, but must be longer than 0 s")

    def start(self, number: int) -> float:
        return number * self.stride_s

    def end(self, number: int) -> float:
        return self.start(number) + self.length_s

    def deadlines(self, number: int) -> tuple[float, ...]:
        """Of each frame of a window: the last moment at which it may come."""
        start = self.start(number)
        return tuple(start + place + 0.5 * self.frame_s for place in self.places)

    def first_from(self, time_s: float) -> int:
        """The first window that needs no frame from before this time."""
        number = max(0, math.floor((time_s - self.places[0] - 0.5 * self.frame_s) / self.stride_s))
        while self.deadlines(number)[0] < time_s:
            number += 1
        return number


def window_grid(
    rule: WindowRule, *, fps: float, window_s: float | None = None, stride_s: float | None = None
) -> WindowGrid:
    """The windows of a stream of `fps` frames per second: as long as a clip of the checkpoint and half a
    window apart, unless told otherwise.
    """
    if not 0 < fps < math.inf:
        raise InputError(f"the frame rate is {fps:g}, but must be above 0 frames per second")
    length = rule.length_s(fps) if window_s is None else window_s
    stride = length / 2 if stride_s is None else stride_s
    return WindowGrid(length, stride, rule.places(length, fps), 1 / fps)
