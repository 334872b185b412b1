"""Which frames the official SlowFast, TimeSformer and Motionformer code takes, off-by-ones and all.

For numbers that are to be compared with theirs; `temporal.py` has what we do otherwise. The differences:

    ours (centred)                                      theirs (slowfast)
    a clip takes every `stride`-th frame                the frames lie evenly from the first to the last of
                                                        stride * clip_len frames, so a bit further apart:
                                                        8 x 32 spans 225 frames with us, 256 with them
    frames are counted, whatever the frame rate         a clip lasts stride * clip_len / target_fps seconds
    one test clip is the middle of the video            one test clip is the START of the video
    the last of several test clips reaches the end      it does not: 10 clips start at 0, 1/10, ... 9/10
    a video that is too short repeats its last frame    the same
    segments: equal parts of all frames                 segments of (frames - 1) / clip_len, rounded half to
                                                        even, that share their bounds; in training a frame
                                                        can be drawn twice
    several segment clips interleave                    they are all the same
    the last place of a random crop can be drawn        it cannot, see spatial.py

Facts: slowfast/datasets/decoder.py and ssv2.py. Their PyAV path seeks to a clip by its times and then spreads
the frames over whatever came back; this is the rule itself, over the frames of the whole video.
"""

from __future__ import annotations

import random

import torch

from revit_video.sample.temporal import check_lengths
from revit_video.types import InputError


def clip_size(clip_len: int, stride: int, fps: float, target_fps: float) -> float:
    """How many frames of the video a clip spans: stride * clip_len at `target_fps`, in frames at `fps`.

    8 x 32 for 30 fps: 256 frames of a video with 30 fps, 213.33 of one with 25, 512 of one with 60.
    """
    for name, value in (("frame rate", fps), ("target frame rate", target_fps)):
        if not 0 < value < float("inf"):
            raise InputError(f"the {name} is {value}, but must be above 0 frames per second")
    if stride < 1:
        raise InputError(f"stride is {stride}, but must be at least 1 frame")
    return stride * clip_len / target_fps * fps


def spread_indices(num_frames: int, clip_len: int, size: float, start: float) -> list[int]:
    """Frame numbers of a clip: evenly from `start` to `start + size - 1`, cut into the video, rounded down.

    num_frames=300, clip_len=8, size=256, start=0     0 36.4 72.9 109.3 145.7 182.1 218.6 255
                                                   -> 0 36 72 109 145 182 218 255
    num_frames=200, the same                       -> 0 36 72 109 145 182 199 199

    The places are torch's linspace in float32, as theirs are: an exact one would give the other frame where
    a place falls next to a whole number.
    """
    check_lengths(num_frames, clip_len)
    places = torch.linspace(start, start + size - 1, clip_len, dtype=torch.float32)
    return places.clamp(0, num_frames - 1).long().tolist()


def random_spread_start(num_frames: int, size: float, rng: random.Random) -> float:
    """A start for training, a fraction of a frame too: uniform from 0 to the last place where a clip fits.

    Their validation draws it too; with us only training does.
    """
    return rng.uniform(0.0, _free(num_frames, size))


def spread_start(num_frames: int, size: float, *, clip: int, num_clips: int, offset: bool = False) -> float:
    """The start of test clip `clip` of `num_clips`.

    num_frames=300, size=256, so 44 frames are free          (|: the video, -: a clip)
        num_clips=1            |--------------------------.....|   0: the start of the video
        num_clips=2            |--------------------------.....|   0
                               |..--------------------------...|   22: the end is never reached
        num_clips=1, offset    |..--------------------------...|   22
        num_clips=2, offset    |--------------------------.....|   0
                               |.....--------------------------|   44

    Args:
        offset: the rule of DATA.USE_OFFSET_SAMPLING: one clip is central, several span the video in whole
            steps of floor(free / (num_clips - 1)).
    """
    if not 0 <= clip < num_clips:
        raise InputError(f"clip is {clip}, but must be from 0 to {num_clips - 1}")
    free = _free(num_frames, size)
    if not offset:
        return free * clip / num_clips
    return float(free // 2 if num_clips == 1 else clip * (free // (num_clips - 1)))


def rounded_segments(num_frames: int, clip_len: int, rng: random.Random | None = None) -> list[int]:
    """One frame of each segment as the official Something-Something code cuts them.

    num_frames=12, clip_len=3: segments of 11/3 frames with bounds 0, 3.67, 7.33, 11, rounded 0 4 7 11
        0 1 2 3 4 5 6 7 8 9 10 11
        |-------|-----|--------|        both bounds belong to a segment
            2     5       9             -> [2, 5, 9]: (a + b) // 2, where ours takes [2, 6, 10]

    Halves round to the even number. With `rng` a frame from a to b, ends included, is drawn of each, so that
    neighbours can draw the same frame. All test clips of a video are alike.
    """
    check_lengths(num_frames, clip_len)
    length = (num_frames - 1) / clip_len
    bounds = [(round(length * i), round(length * (i + 1))) for i in range(clip_len)]
    return [(a + b) // 2 if rng is None else rng.randint(a, b) for a, b in bounds]


def _free(num_frames: int, size: float) -> float:
    check_lengths(num_frames, 1)
    return max(num_frames - size, 0.0)
