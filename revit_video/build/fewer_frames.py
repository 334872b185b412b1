"""The plain way to make a clip cheaper: the same weights at the longest length, on fewer of its frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from revit_video.backbones.core import ReViT
from revit_video.backbones.costs import level_gmacs
from revit_video.build.networks import build_model
from revit_video.build.passes import eval_job, view_settings
from revit_video.config import Config
from revit_video.convert.resize import resize_time
from revit_video.stages.fewer_frames import FewerFrames
from revit_video.stages.job import Device
from revit_video.train.checkpoint import load_weights
from revit_video.types import InputError, VideoSample


def fewer_frames(
    config: Config,
    weights: dict[str, Tensor],
    model: ReViT,
    samples: Sequence[VideoSample],
    run: Device,
    *,
    source: Path,
) -> list[FewerFrames]:
    """A model and a pass over the list for each of `test.fewer_frames`. Clips span the same time; the time
    table is interpolated, and nothing is trained for it.
    """
    made = []
    for frames in config.test.fewer_frames:
        smaller = with_frames(config, frames)
        network = build_model(smaller, model.num_classes)
        load_weights(network, fitted(weights, network, frames), source=source)
        network = network.eval().to(run.device, run.dtype)
        evaluation = eval_job(smaller, samples, run, **view_settings(smaller))
        made.append(FewerFrames(frames, network, evaluation, level_gmacs(network)[0]))
    return made


def with_frames(config: Config, frames: int) -> Config:
    """The same clips with fewer frames, farther apart."""
    data = config.data
    if frames >= data.num_frames:
        raise InputError(
            f"test.fewer_frames holds {frames}, but a clip has {data.num_frames} frames; give smaller numbers"
        )
    rate = data.sampling_rate
    if data.sampling == "dense":
        rate = max(1, round(rate * data.num_frames / frames))
    return replace(config, data=replace(data, num_frames=frames, sampling_rate=rate))


def fitted(weights: dict[str, Tensor], network: ReViT, frames: int) -> dict[str, Tensor]:
    """The weights with the time table of fewer frames.

    Raises:
        InputError: the model has other parameters that depend on the number of frames.
    """
    kept, fresh = dict(weights), network.state_dict()
    if network.time_table is not None:
        kept["time_table"] = resize_time(kept["time_table"], network.grids[0].frames, resize="bicubic")
    other = sorted(key for key in kept if key not in fresh or kept[key].shape != fresh[key].shape)
    if other:
        raise InputError(
            f"test.fewer_frames={frames}: {other[0]} of this model is for a fixed number of frames; give "
            "test.fewer_frames=[]"
        )
    return kept
