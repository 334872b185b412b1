"""What a stream needs of a checkpoint's settings."""

from __future__ import annotations

from revit_video.config import Config
from revit_video.sample.views import CROPS, ONE_CROP
from revit_video.sample.windows import WindowRule
from revit_video.transform import EvalTransform


def window_parts(config: Config) -> dict:
    """The rule of its windows, the transform of their frames, where the crops lie, and how many windows make
    a batch.
    """
    data, test = config.data, config.test
    rule = WindowRule(
        clip_len=data.num_frames,
        sampling_rate=data.sampling_rate,
        sampling=data.sampling,
        rule=data.sampling_rule,
        target_fps=data.target_fps,
    )
    crops = tuple(range(3)) if test.num_spatial_crops == max(CROPS) else (ONE_CROP[test.one_crop],)
    return {
        "rule": rule,
        "transform": EvalTransform(data.crop, short_side=data.test_short_side),
        "crops": crops,
        "batch_size": max(1, test.batch_size // len(crops)),
    }
