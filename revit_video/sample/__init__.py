"""Which frames of a video, and which part of a frame. Pure functions; random ones take a `random.Random`."""

from __future__ import annotations

from revit_video.sample.spatial import crop_box
from revit_video.sample.temporal import random_start, segment_indices, strided_indices, uniform_starts
from revit_video.sample.views import SAMPLINGS, test_views

__all__ = [
    "SAMPLINGS",
    "crop_box",
    "random_start",
    "segment_indices",
    "strided_indices",
    "test_views",
    "uniform_starts",
]
