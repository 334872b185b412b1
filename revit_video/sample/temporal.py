"""Frame numbers of clips.

Dense sampling (Kinetics) takes `clip_len` frames, every `stride`-th, from one place of the video. Segment
sampling (Something-Something, TSN) takes one frame from each of `clip_len` equal parts of the whole video.

The official TimeSformer and Motionformer code differs in small ways (one test clip starts at the beginning of
the video, the last of several never reaches its end): `slowfast.py` has its rules. Here one clip is central
and several span the video.
"""

from __future__ import annotations

import random
from itertools import pairwise

from revit_video.types import InputError


def strided_indices(num_frames: int, clip_len: int, stride: int, start: int) -> list[int]:
    """Frame numbers of one clip; past the end of the video the last frame repeats.

    num_frames=10, clip_len=4, stride=2          (f: taken, .: skipped, L: last frame again)
        start=0   f.f.f.f...   -> [0, 2, 4, 6]
        start=6   ......f.f.LL -> [6, 8, 9, 9]
    """
    last_start(num_frames, clip_len, stride)  # checks them
    if start < 0:
        raise InputError(f"a clip cannot start at frame {start}; the first frame is 0")
    return [min(start + i * stride, num_frames - 1) for i in range(clip_len)]


def last_start(num_frames: int, clip_len: int, stride: int) -> int:
    """The last frame at which a clip can start without repeating frames; 0 if the video is too short for one.

    num_frames=10, clip_len=4, stride=2
        ...f.f.f.f -> 3
    """
    check_lengths(num_frames, clip_len)
    if stride < 1:
        raise InputError(f"stride is {stride}, but must be at least 1 frame")
    return max(num_frames - 1 - (clip_len - 1) * stride, 0)


def random_start(num_frames: int, clip_len: int, stride: int, rng: random.Random) -> int:
    """A start for training: each one from 0 to `last_start`, inclusive, is equally likely."""
    return rng.randint(0, last_start(num_frames, clip_len, stride))


def uniform_starts(num_frames: int, clip_len: int, stride: int, num_clips: int) -> list[int]:
    """Starts for testing: one clip is central, several spread evenly from the first start to the last.

    num_frames=10, clip_len=4, stride=2          (the last start is 3)
        num_clips=1   .f.f.f.f..  -> [1]
        num_clips=2   f.f.f.f...
                      ...f.f.f.f  -> [0, 3]

    Starts are rounded down; where a video has fewer starts than clips, some clips are alike.
    """
    last = last_start(num_frames, clip_len, stride)
    if num_clips < 1:
        raise InputError(f"number of clips is {num_clips}, but must be at least 1")
    if num_clips == 1:
        return [last // 2]
    return [i * last // (num_clips - 1) for i in range(num_clips)]


def segment_indices(
    num_frames: int,
    clip_len: int,
    rng: random.Random | None = None,
    *,
    clip: int = 0,
    num_clips: int = 1,
) -> list[int]:
    """One frame from each of `clip_len` equal segments of the video.

    num_frames=12, clip_len=3                    (|: where a segment begins)
        middle                  |..f.|..f.|..f.   -> [2, 6, 10]
        rng                     |.f..|...f|f...   -> e.g. [1, 7, 8]
        clip 0 of num_clips=2   |.f..|.f..|.f..   -> [1, 5, 9]
        clip 1 of num_clips=2   |...f|...f|...f   -> [3, 7, 11]

    With several clips, each segment is cut into `num_clips` parts and a clip takes the middle of its own one,
    so that the clips interleave. Where there are fewer frames than segments, frames repeat.

    Args:
        rng: draws a frame of each segment, for training; None takes the fixed ones, for testing.
        clip, num_clips: which of several test clips; unused with rng.
    """
    check_lengths(num_frames, clip_len)
    if not 0 <= clip < num_clips:
        raise InputError(f"clip is {clip}, but must be from 0 to {num_clips - 1}")
    bounds = [i * num_frames // clip_len for i in range(clip_len + 1)]
    indices = []
    for begin, end in pairwise(bounds):
        length = max(end - begin, 1)  # an empty segment takes the frame it begins at
        fixed = (2 * clip + 1) * length // (2 * num_clips)
        indices.append(begin + (fixed if rng is None else rng.randrange(length)))
    return indices


def check_lengths(num_frames: int, clip_len: int) -> None:
    """Refuse an empty video and an empty clip."""
    if num_frames < 1:
        raise InputError(f"cannot sample a clip from a video with {num_frames} frames")
    if clip_len < 1:
        raise InputError(f"clip length is {clip_len}, but must be at least 1 frame")
