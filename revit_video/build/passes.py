"""Data sets and passes over them, from the settings."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from revit_video.config import Config
from revit_video.data.dataset import VideoDataset
from revit_video.data.label_maps import LabelMaps
from revit_video.routing.assigner import looked_at
from revit_video.sample.views import FramePicker, test_views, train_view
from revit_video.settings import AugmentConfig, DataConfig
from revit_video.settings.augment import filled, recipe
from revit_video.stages.job import Device, EvalJob
from revit_video.train.world import World
from revit_video.transform import (
    ColorJitter,
    EvalTransform,
    Grayscale,
    Mix,
    MixToken,
    RandAugment,
    RandomErasing,
    ResizedCrop,
    TrainTransform,
)
from revit_video.transform.clip import Step
from revit_video.types import InputError, VideoSample, View


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


def pick_looked_at(
    num_frames: int, rng: random.Random, fps: float, *, pick: Callable[..., list[View]], frames: int
) -> list[View]:
    """Of each view that `pick` picks only the frames that the assigner looks at."""
    views = pick(num_frames, rng, fps)
    return [
        replace(view, frames=tuple(view.frames[i] for i in looked_at(len(view.frames), frames)))
        for view in views
    ]


def train_dataset(
    config: Config,
    samples: Sequence[VideoSample],
    *,
    one_frame: bool = False,
    flip_labels: dict | None = None,
    label_maps: LabelMaps | None = None,
) -> VideoDataset:
    """Random clips with augmentation; with `one_frame` only what the assigner sees of them.

    Of the augmentation the assigner gets the flip and the short-side jitter alone. Its labels were found on
    plain frames: a frame of which a part is cut out, enlarged, erased or blackened is harder or easier than
    its label says, and it will never have to judge such a one.
    """
    augment = augmentation(config)
    if one_frame:
        augment = filled(AugmentConfig(jitter=augment.jitter), {})
    pick = partial(pick_train_view, picker=frame_picker(config.data))
    if one_frame:
        pick = partial(pick_looked_at, pick=pick, frames=config.assigner.frames)
    return random_clips(
        config.data,
        augment,
        samples,
        pick_views=pick,
        flip_labels=flip_labels,
        seed=config.seed,
        label_maps=label_maps,
    )


def random_clips(
    data: DataConfig,
    augment: AugmentConfig,
    samples: Sequence[VideoSample],
    *,
    pick_views: Callable[..., list[View]],
    flip_labels: dict | None,
    seed: int,
    label_maps: LabelMaps | None = None,
) -> VideoDataset:
    """`augment` has no null left, here and below."""
    return VideoDataset(
        samples,
        pick_views=pick_views,
        transform=train_transform(data, augment, flip_labels=flip_labels),
        decoder=data.decoder,
        cache=data.cache == "memory",
        seed=seed,
        repeats=augment.repeats,
        label_maps=label_maps,
    )


def augmentation(config: Config) -> AugmentConfig:
    """`config.augment` with what its preset and the defaults say where it is null."""
    return filled(config.augment, recipe(config.augment.preset, config.data.dataset))


def train_transform(
    data: DataConfig, augment: AugmentConfig, *, flip_labels: dict | None = None
) -> TrainTransform:
    """Frames to a training clip."""
    resized = None
    if augment.resized_crop:
        resized = ResizedCrop(tuple(augment.resized_crop), tuple(augment.resized_aspect))
    return TrainTransform(
        data.crop,
        jitter=data.train_jitter,
        flip=data.flip,
        flip_labels=flip_labels,
        rule=data.sampling_rule,
        jitter_rule=augment.jitter,
        resized_crop=resized,
        steps=pixel_steps(data, augment),
    )


def pixel_steps(data: DataConfig, augment: AugmentConfig) -> list[Step]:
    """What is done to the pixels of a crop, in the order of timm's recipes; nothing that is off."""
    steps: list[Step] = []
    if augment.rand_ops:
        steps.append(
            RandAugment(
                augment.rand_ops,
                magnitude=augment.rand_magnitude,
                std=augment.rand_std,
                prob=augment.rand_prob,
                fill=tuple(float(min(255, round(255 * x))) for x in data.mean),
            )
        )
    if any(augment.color_jitter):
        steps.append(ColorJitter(*augment.color_jitter, prob=augment.color_prob))
    if augment.grayscale:
        steps.append(Grayscale(augment.grayscale))
    if augment.erase_prob:
        box = tuple(augment.erase_share)
        steps.append(RandomErasing(augment.erase_prob, box, mean=tuple(data.mean), std=tuple(data.std)))
    return steps


def build_mix(config: Config, num_classes: int) -> Mix | None:
    """Mixup and cutmix of the training batches; None where both are off."""
    return mix_of(augmentation(config), num_classes, seed=config.seed)


def mix_of(augment: AugmentConfig, num_classes: int, *, seed: int) -> Mix | None:
    if not augment.mixup and not augment.cutmix:
        return None
    return Mix(
        augment.mixup,
        augment.cutmix,
        num_classes,
        prob=augment.mix_prob,
        switch_prob=augment.switch_prob,
        seed=seed,
    )


def build_mix_token(config: Config) -> MixToken | None:
    """MixToken of the training passes; None where it is off."""
    alpha = token_mixing(augmentation(config))
    if alpha and config.solver.micro_batch_size == 1:
        raise InputError(
            f"augment.mix_token={alpha:g} mixes the clips of a pass, but solver.micro_batch_size=1 leaves "
            "each alone; give 2 or more"
        )
    return MixToken(alpha, config.seed) if alpha else None


def token_mixing(augment: AugmentConfig) -> float:
    """MixToken's alpha; 0: off."""
    return augment.mix_token


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
        pick_views=partial(pick_looked_at, pick=pick, frames=config.assigner.frames) if one_frame else pick,
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
        prefetch=data.prefetch,
        max_unreadable=max_unreadable,
        **shared_by(run),
    )


def shared_by(run: Device | None) -> dict:
    """How the processes share a pass over a list."""
    world = run.world if run else World()
    return {"part": world.rank, "parts": world.size, "gather": world.gather}


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
