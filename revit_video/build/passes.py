"""Data sets and passes over them, from the settings."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from revit_video.config import Config
from revit_video.data.dataset import VideoDataset
from revit_video.sample.views import FramePicker, test_views, train_view
from revit_video.settings import DataConfig
from revit_video.stages.job import Device, EvalJob
from revit_video.transform import EvalTransform, TrainTransform
from revit_video.types import VideoSample, View


def frame_picker(data: DataConfig) -> FramePicker:
    return FramePicker(
        clip_len=data.num_frames,
        stride=data.sampling_rate,
        sampling=data.sampling,
        rule=data.sampling_rule,
        target_fps=data.target_fps,
    )


def pick_train_view(num_frames: int, rng: random.Random, fps: float, *, picker: FramePicker) -> list[View]:
    """One random clip of a video, as `VideoDataset.pick_views` wants it."""
    return [train_view(num_frames, fps, rng, picker)]


def pick_test_views(
    num_frames: int,
    rng: random.Random,
    fps: float,
    *,
    picker: FramePicker,
    clips: int,
    crops: int,
    one_crop: str,
) -> list[View]:
    """The views of a test video; the same ones every time."""
    return test_views(num_frames, fps, picker, clips, crops, one_crop=one_crop)


def pick_middle_frame(
    num_frames: int, rng: random.Random, fps: float, *, pick: Callable[..., list[View]]
) -> list[View]:
    """Of each view that `pick` picks only the frame that the assigner looks at."""
    views = pick(num_frames, rng, fps)
    return [replace(view, frames=(view.frames[len(view.frames) // 2],)) for view in views]


def train_dataset(
    config: Config,
    samples: Sequence[VideoSample],
    *,
    one_frame: bool = False,
    flip_labels: dict | None = None,
) -> VideoDataset:
    """Random clips with augmentation; with `one_frame` only what the assigner sees of them."""
    data = config.data
    pick = partial(pick_train_view, picker=frame_picker(data))
    return VideoDataset(
        samples,
        pick_views=partial(pick_middle_frame, pick=pick) if one_frame else pick,
        transform=TrainTransform(
            data.crop,
            jitter=data.train_jitter,
            flip=data.flip,
            flip_labels=flip_labels,
            rule=data.sampling_rule,
        ),
        decoder=data.decoder,
        cache=data.cache == "memory",
        seed=config.seed,
    )


def eval_job(
    config: Config,
    samples: Sequence[VideoSample],
    run: Device | None,
    *,
    clips: int = 1,
    crops: int = 1,
    one_crop: str = "centre",
    one_frame: bool = False,
    max_unreadable: float = 1.0,
) -> EvalJob:
    """A pass over a list with fixed views."""
    data = config.data
    picker = frame_picker(data)
    pick = partial(pick_test_views, picker=picker, clips=clips, crops=crops, one_crop=one_crop)
    dataset = VideoDataset(
        samples,
        pick_views=partial(pick_middle_frame, pick=pick) if one_frame else pick,
        transform=EvalTransform(data.crop, short_side=data.test_short_side),
        decoder=data.decoder,
    )
    per_batch = max(1, config.test.batch_size // (clips * crops))
    return EvalJob(
        dataset,
        run,
        per_batch,
        config.test.batch_size,
        num_workers=data.num_workers,
        max_unreadable=max_unreadable,
    )


def file_dataset(config: Config, *samples: VideoSample) -> VideoDataset:
    """Files outside any list, with the test views of the config."""
    return eval_job(config, samples, None, **view_settings(config)).dataset


def view_settings(config: Config) -> dict:
    """How `eval_job` is to look at a test video."""
    test = config.test
    return {
        "clips": test.num_ensemble_views,
        "crops": test.num_spatial_crops,
        "one_crop": test.one_crop,
    }
