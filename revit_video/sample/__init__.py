"""Which frames of a video, and which part of a frame. Pure functions; random ones take a `random.Random`."""

from __future__ import annotations

from revit_video.sample.slowfast import (
    clip_size,
    random_spread_start,
    rounded_segments,
    spread_indices,
    spread_start,
)
from revit_video.sample.spatial import crop_box, random_crop_box
from revit_video.sample.temporal import random_start, segment_indices, strided_indices, uniform_starts
from revit_video.sample.views import RULES, SAMPLINGS, FramePicker, test_views, train_view

__all__ = [
    "RULES",
    "SAMPLINGS",
    "FramePicker",
    "clip_size",
    "crop_box",
    "random_crop_box",
    "random_spread_start",
    "random_start",
    "rounded_segments",
    "segment_indices",
    "spread_indices",
    "spread_start",
    "strided_indices",
    "test_views",
    "train_view",
    "uniform_starts",
]
