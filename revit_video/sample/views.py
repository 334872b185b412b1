"""Which clips of a video are taken: one in training, and the views that are averaged when testing (clips in
time, times crops in space).
"""

from __future__ import annotations

import difflib
import random
from dataclasses import dataclass

from revit_video.sample.slowfast import (
    clip_size,
    random_spread_start,
    rounded_segments,
    spread_indices,
    spread_start,
)
from revit_video.sample.temporal import random_start, segment_indices, strided_indices, uniform_starts
from revit_video.types import InputError, View

SAMPLINGS = ("dense", "segments")
RULES = ("centred", "slowfast", "slowfast_offset")
ONE_CROP = {"centre": 1, "first": 0}
CROPS = (1, 3)


@dataclass(frozen=True)
class FramePicker:
    """How a clip's frames are chosen.

    Args:
        clip_len: frames of a clip, T.
        stride: frames from one taken frame to the next; unused by "segments", which spans the whole video.
        sampling: "dense" or "segments".
        rule: "centred" (ours, `temporal.py`), "slowfast" or "slowfast_offset" (official, `slowfast.py`; the
            second one is its DATA.USE_OFFSET_SAMPLING, which "segments" does not know).
        target_fps: frame rate that the official dense rule counts `stride` in; unused by the others.

    The frame rate of a video that does not know its own (a folder of frames) is 0 and taken to be target_fps.
    """

    clip_len: int
    stride: int = 1
    sampling: str = "dense"
    rule: str = "centred"
    target_fps: float = 30.0

    def __post_init__(self) -> None:
        for what, value, known in (("sampling", self.sampling, SAMPLINGS), ("rule", self.rule, RULES)):
            if value not in known:
                near = difflib.get_close_matches(value, known, n=1) or known
                raise InputError(f"no {what} is named {value!r}; nearest: {', '.join(near)}")

    def clip_size(self, fps: float) -> float:
        """How many frames a clip spans under the official dense rule."""
        return clip_size(self.clip_len, self.stride, fps or self.target_fps, self.target_fps)

    def train_clip(self, num_frames: int, fps: float, rng: random.Random) -> list[int]:
        """Frame numbers of one random clip."""
        official = self.rule != "centred"
        if self.sampling == "segments":
            return (rounded_segments if official else segment_indices)(num_frames, self.clip_len, rng)
        if official:
            size = self.clip_size(fps)
            return spread_indices(num_frames, self.clip_len, size, random_spread_start(num_frames, size, rng))
        start = random_start(num_frames, self.clip_len, self.stride, rng)
        return strided_indices(num_frames, self.clip_len, self.stride, start)

    def test_clips(self, num_frames: int, fps: float, num_clips: int) -> list[list[int]]:
        """Frame numbers of each of `num_clips` clips, the same ones every time."""
        if num_clips < 1:
            raise InputError(f"number of clips is {num_clips}, but must be at least 1")
        length, stride, clips = self.clip_len, self.stride, range(num_clips)
        if self.sampling == "segments":
            if self.rule != "centred":
                return [rounded_segments(num_frames, length) for _ in clips]
            return [segment_indices(num_frames, length, clip=clip, num_clips=num_clips) for clip in clips]
        if self.rule == "centred":
            starts = uniform_starts(num_frames, length, stride, num_clips)
            return [strided_indices(num_frames, length, stride, start) for start in starts]
        size, offset = self.clip_size(fps), self.rule == "slowfast_offset"
        starts = [
            spread_start(num_frames, size, clip=clip, num_clips=num_clips, offset=offset) for clip in clips
        ]
        return [spread_indices(num_frames, length, size, start) for start in starts]


def train_view(num_frames: int, fps: float, rng: random.Random, picker: FramePicker) -> View:
    """One random clip; which part of its frames is seen, the training transform draws."""
    return View(tuple(picker.train_clip(num_frames, fps, rng)), 0, 1)


def test_views(
    num_frames: int,
    fps: float,
    picker: FramePicker,
    num_ensemble_views: int,
    num_spatial_crops: int,
    *,
    one_crop: str = "centre",
) -> list[View]:
    """All views of one video, clip by clip: view `i` is clip `i // crops` and crop `i % crops`.

    2 ensemble views, 3 spatial crops:   clip 0: left, centre, right; clip 1: left, centre, right

    Args:
        fps: frames per second of the video; only the official dense rule looks at it.
        num_ensemble_views: clips per video. "dense" spreads their starts over the video; "segments" gives
            each its own fixed place within the segments, so that the clips interleave.
        num_spatial_crops: 1 or 3 (along the longer side).
        one_crop: where a single crop lies: "centre", or "first" (left or top), which is what Motionformer's
            Something-Something code takes.
    """
    if num_spatial_crops not in CROPS:
        raise InputError(f"number of spatial crops is {num_spatial_crops}, but must be 1 or 3")
    if one_crop not in ONE_CROP:
        raise InputError(f"one_crop is {one_crop!r}, but must be one of {', '.join(ONE_CROP)}")
    crops = (0, 1, 2) if num_spatial_crops == 3 else (ONE_CROP[one_crop],)
    clips = picker.test_clips(num_frames, fps, num_ensemble_views)
    return [View(tuple(frames), clip, crop) for clip, frames in enumerate(clips) for crop in crops]
