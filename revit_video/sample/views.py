"""The views of a video that are averaged when testing: clips in time, times crops in space."""

from __future__ import annotations

import difflib

from revit_video.sample.temporal import segment_indices, strided_indices, uniform_starts
from revit_video.types import InputError, View

SAMPLINGS = ("dense", "segments")
CROPS = {1: (1,), 3: (0, 1, 2)}  # number of crops -> their positions; one crop is the centre


def test_views(
    num_frames: int,
    clip_len: int,
    stride: int,
    num_ensemble_views: int,
    num_spatial_crops: int,
    sampling: str = "dense",
) -> list[View]:
    """All views of one video, clip by clip: view `i` is clip `i // crops` and crop `i % crops`.

    2 ensemble views, 3 spatial crops:   clip 0: left, centre, right; clip 1: left, centre, right

    Args:
        stride: frames between two frames of a clip; unused by "segments", which spans the whole video.
        num_ensemble_views: clips per video. "dense" spreads their starts over the video; "segments" gives
            each its own fixed place within the segments, so that the clips interleave.
        num_spatial_crops: 1 (the centre) or 3 (along the longer side).
        sampling: "dense" or "segments".
    """
    if num_spatial_crops not in CROPS:
        raise InputError(f"number of spatial crops is {num_spatial_crops}, but must be 1 or 3")
    if sampling == "dense":
        starts = uniform_starts(num_frames, clip_len, stride, num_ensemble_views)
        clips = [strided_indices(num_frames, clip_len, stride, start) for start in starts]
    elif sampling == "segments":
        if num_ensemble_views < 1:
            raise InputError(f"number of ensemble views is {num_ensemble_views}, but must be at least 1")
        clips = [
            segment_indices(num_frames, clip_len, clip=clip, num_clips=num_ensemble_views)
            for clip in range(num_ensemble_views)
        ]
    else:
        near = difflib.get_close_matches(sampling, SAMPLINGS, n=1) or SAMPLINGS
        raise InputError(f"no sampling is named {sampling!r}; nearest: {', '.join(near)}")
    return [
        View(tuple(frames), clip, crop)
        for clip, frames in enumerate(clips)
        for crop in CROPS[num_spatial_crops]
    ]
