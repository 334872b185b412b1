"""Lists, data sets and passes over them, from the settings."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from revit_video.config import Config
from revit_video.data.class_folders import class_folder_split
from revit_video.data.dataset import VideoDataset
from revit_video.data.demo import demo_split
from revit_video.data.kinetics import kinetics_split
from revit_video.data.ssv2 import ssv2_split
from revit_video.sample.temporal import random_start, segment_indices, strided_indices
from revit_video.sample.views import test_views
from revit_video.settings import DataConfig
from revit_video.stages.job import Device, EvalJob
from revit_video.transform import EvalTransform, TrainTransform
from revit_video.types import InputError, Split, VideoSample, View


def build_split(config: Config, split: str) -> Split:
    """The list called `split` (train, val or test) of the config's data set."""
    data = config.data
    name = {"train": data.train_split, "val": data.val_split, "test": data.test_split}[split]
    root = Path(data.root)
    if data.dataset == "demo":
        return demo_split(root, name)
    if data.dataset == "ssv2":
        return ssv2_split(root, name, path_prefix=data.path_prefix)
    if data.dataset == "class_folders":
        pattern = {"group_pattern": data.group_pattern} if data.group_pattern else {}
        return class_folder_split(root, name, shares=data.split_shares, **pattern)
    return kinetics_split(
        root / f"{name}.csv",
        root=data.path_prefix or root,
        separator=data.separator,
        num_classes=data.num_classes,
    )


def check_classes(split: Split, class_names: Sequence[str], *, source: str) -> None:
    """Refuse a list whose classes are not the model's, in the model's order."""
    if list(split.class_names) != list(class_names):
        ours, theirs = list(class_names), list(split.class_names)
        first = next(
            (
                f"class {i} is {b!r} in the data, {a!r} in the model"
                for i, (a, b) in enumerate(zip(ours, theirs, strict=False))
                if a != b
            ),
            "",
        )
        raise InputError(
            f"{source} has {len(ours)} classes, the data {len(theirs)}{'; ' * bool(first)}{first}; "
            "use the data it was trained on"
        )


def flip_map(pairs: Sequence[Sequence[str]], class_names: Sequence[str]) -> dict[int, int]:
    """Pairs of class names that swap under a flip, as labels in both directions."""
    swaps = {}
    for left, right in pairs:
        for name in (left, right):
            if name not in class_names:
                raise InputError(
                    f"data.flip_labels names the class {name!r}, which the data does not have: "
                    f"{list(class_names)[:20]}"
                )
        a, b = class_names.index(left), class_names.index(right)
        swaps |= {a: b, b: a}
    return swaps


def pick_train_view(num_frames: int, rng: random.Random, *, data: DataConfig) -> list[View]:
    """One random clip of a video, as `VideoDataset.pick_views` wants it."""
    if data.sampling == "segments":
        frames = segment_indices(num_frames, data.num_frames, rng)
    else:
        start = random_start(num_frames, data.num_frames, data.sampling_rate, rng)
        frames = strided_indices(num_frames, data.num_frames, data.sampling_rate, start)
    return [View(tuple(frames), 0, 1)]


def pick_test_views(
    num_frames: int, rng: random.Random, *, data: DataConfig, clips: int, crops: int
) -> list[View]:
    """The views of a test video; the same ones every time."""
    return test_views(num_frames, data.num_frames, data.sampling_rate, clips, crops, sampling=data.sampling)


def pick_middle_frame(num_frames: int, rng: random.Random, *, pick: Callable[..., list[View]]) -> list[View]:
    """Of each view that `pick` picks only the frame that the assigner looks at."""
    return [replace(view, frames=(view.frames[len(view.frames) // 2],)) for view in pick(num_frames, rng)]


def train_dataset(
    config: Config,
    samples: Sequence[VideoSample],
    *,
    one_frame: bool = False,
    flip_labels: dict | None = None,
) -> VideoDataset:
    """Random clips with augmentation; with `one_frame` only what the assigner sees of them."""
    data = config.data
    pick = partial(pick_train_view, data=data)
    return VideoDataset(
        samples,
        pick_views=partial(pick_middle_frame, pick=pick) if one_frame else pick,
        transform=TrainTransform(
            data.crop, jitter=data.train_jitter, flip=data.flip, flip_labels=flip_labels
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
    one_frame: bool = False,
    max_unreadable: float = 1.0,
) -> EvalJob:
    """A pass over a list with fixed views."""
    data = config.data
    pick = partial(pick_test_views, data=data, clips=clips, crops=crops)
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


def label_samples(config: Config) -> tuple[Split, tuple[VideoSample, ...]]:
    """The list that gets length labels, cut to `labels.max_videos` by a draw with the config's seed."""
    split = build_split(config, config.labels.split)
    samples = list(split.samples)
    if 0 < config.labels.max_videos < len(samples):
        samples = random.Random(config.seed).sample(samples, config.labels.max_videos)
    return split, tuple(samples)


def file_dataset(config: Config, *samples: VideoSample) -> VideoDataset:
    """Files outside any list, with the test views of the config."""
    test = config.test
    return eval_job(
        config, samples, None, clips=test.num_ensemble_views, crops=test.num_spatial_crops
    ).dataset
