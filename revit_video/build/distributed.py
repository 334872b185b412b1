"""The processes of a run, from the settings."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

from torch import nn

from revit_video.backbones.core import ReViT
from revit_video.backbones.costs import level_gmacs
from revit_video.build.device import device_name
from revit_video.config import Config
from revit_video.stages.job import Device
from revit_video.train.parallel import refuse_what_cannot_be_sharded, shard
from revit_video.train.world import World, start_world


def open_world(config: Config) -> AbstractContextManager[World]:
    """The processes that torchrun started, to be used in a `with`."""
    kind = device_name(config).partition(":")[0]
    return start_world(device_type=kind, timeout_s=config.distributed.timeout_s)


def length_costs(config: Config, model: ReViT) -> Sequence[float] | None:
    """By what length-parallel training parts the lengths: measured times where they are given, else GMACs.
    None: every process runs all lengths.
    """
    if config.distributed.lengths == "sequential":
        return None
    return config.distributed.length_costs or level_gmacs(model)


def spread_weights(config: Config, model: ReViT, run: Device) -> nn.Module:
    """The model as its processes hold it: whole in each, or cut into parts (before optimizers are made)."""
    if config.distributed.strategy == "ddp" or run.world.size == 1:
        return model
    solver, revit = config.solver, config.revit
    refuse_what_cannot_be_sharded(
        optimizer=solver.optimizer,
        ema=solver.ema,
        grow_share=revit.grow_share,
        eval_period=solver.eval_period,
    )
    return shard(model.to(run.device))
