"""The job of stage 1 from the settings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from revit_video.build.lists import build_split, flip_map
from revit_video.build.networks import build_model, identity, start_from
from revit_video.build.passes import train_dataset
from revit_video.config import Config
from revit_video.stages.job import Device
from revit_video.stages.revit import RevitJob
from revit_video.train.losses import Distillation
from revit_video.train.optim import build_optimizers, cosine_factor, relative_factor
from revit_video.types import InputError


def revit_job(config: Config, run: Device) -> RevitJob:
    """Stage 1 from the config; `model.init_from` gives the weights it starts from."""
    solver, revit = config.solver, config.revit
    split = build_split(config, "train")
    torch.manual_seed(config.seed)
    model = build_model(config, len(split.class_names))
    notes: tuple[str, ...] = ()
    if config.model.init_from:
        if revit.grow_share:
            raise InputError(
                "model.init_from gives all lengths their weights, and revit.grow_share would overwrite the "
                "longer ones; set revit.grow_share=0"
            )
        notes = start_from(model, config.model.init_from, split.class_names)
    dataset = train_dataset(
        config, split.samples, flip_labels=flip_map(config.data.flip_labels, split.class_names)
    )
    steps_per_epoch = max(1, len(dataset) // solver.batch_size)
    total = solver.max_steps or solver.max_epoch * steps_per_epoch
    return RevitJob(
        model=model,
        dataset=dataset,
        optimizers=build_optimizers(
            model,
            solver.optimizer,
            lr=solver.base_lr,
            weight_decay=solver.weight_decay,
            momentum=solver.momentum,
            muon_lr=solver.muon_lr,
        ),
        lr_factor=lr_factor(config, total, steps_per_epoch),
        total_steps=total,
        grow_at=round(total * revit.grow_share),
        batch_size=solver.batch_size,
        distillation=Distillation(
            weight=revit.distill_weight,
            temperature=revit.temperature,
            hard=revit.hard,
            kl_order=revit.kl_order,
            feature_weight=revit.feature_transfer,
            attention_weight=revit.attention_transfer,
        ),
        run=run,
        smoothing=solver.label_smoothing,
        clip_grad=solver.clip_grad,
        ema_decay=solver.ema,
        seed=config.seed,
        num_workers=config.data.num_workers,
        max_unreadable=config.data.max_unreadable,
        log_period=solver.log_period,
        checkpoint_period=solver.checkpoint_period,
        identity=identity(config, split.class_names),
        notes=notes,
    )


def lr_factor(config: Config, total: int, steps_per_epoch: int) -> Callable[[int], float]:
    """The learning rate over `total` steps as a share of its peak."""
    solver = config.solver
    if solver.schedule == "constant":
        return lambda step: 1.0
    if solver.schedule == "relative_steps":
        return lambda step: relative_factor(step, steps_per_epoch, epochs=solver.steps, factors=solver.lrs)
    return partial(cosine_factor, total=total, warmup=max(1, round(total * solver.warmup_share)))
