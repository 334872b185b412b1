# ruff: noqa: RUF009  (`items` is a dataclasses.field)
"""Settings of the test and of its report."""

from __future__ import annotations

import math
from dataclasses import dataclass

from revit_video.settings.checks import check, items, one_of, within


@dataclass(frozen=True)
class TestConfig:
    __test__ = False  # pytest takes a class called Test... for tests

    num_ensemble_views: int = 10  # clips per video
    num_spatial_crops: int = 3  # 1: one_crop | 3: along the long side
    one_crop: str = "centre"  # centre | first: left or top, as Motionformer on Something-Something
    batch_size: int = 16  # views per forward pass
    throughput: bool = True  # time the model too
    fewer_frames: list[int] = items()  # baselines: the longest length on so many frames of a clip

    def __post_init__(self) -> None:
        within(self, 1, math.inf, "num_ensemble_views", "batch_size")
        check(self, "num_spatial_crops", self.num_spatial_crops in (1, 3), "1 or 3")
        one_of(self, "one_crop", ("centre", "first"))
        fits = all(frames >= 2 for frames in self.fewer_frames)
        once = len(set(self.fewer_frames)) == len(self.fewer_frames)
        check(self, "fewer_frames", fits and once, "numbers of frames, at least 2 and none twice")


@dataclass(frozen=True)
class ReportConfig:
    sheet_clips: int = 6  # clips on the contact sheet
    plots: bool = True

    def __post_init__(self) -> None:
        within(self, 0, math.inf, "sheet_clips")
