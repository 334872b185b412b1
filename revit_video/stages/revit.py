"""Stage 1: train one backbone at all its token lengths (Algorithm 1 of arXiv:2307.02092)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from timm.utils import ModelEmaV3
from torch import Tensor

from revit_video.backbones.core import ReViT
from revit_video.data.dataset import Batch, UnreadableLimit, VideoDataset
from revit_video.data.loader import train_batches
from revit_video.stages.job import Device, RunFolder
from revit_video.train.checkpoint import save_checkpoint
from revit_video.train.log import RunLog
from revit_video.train.loop import fit
from revit_video.train.losses import Distillation
from revit_video.train.optim import build_schedules
from revit_video.train.progress import ProgressFolder, Training
from revit_video.train.revit import revit_step
from revit_video.train.world import Share, World


@dataclass
class RevitJob:
    """Stage 1. `identity` is what a checkpoint says of itself: config, class names, versions."""

    model: ReViT
    dataset: VideoDataset
    optimizers: Sequence[torch.optim.Optimizer]
    lr_factor: Callable[[int], float]
    total_steps: int
    grow_at: int  # first step of all lengths; before it the shortest alone is trained
    batch_size: int  # clips of one optimizer step, over all processes
    distillation: Distillation
    run: Device
    smoothing: float = 0.0
    clip_grad: float = 0.0
    ema_decay: float = 0.0
    seed: int = 0
    num_workers: int = 0
    max_unreadable: float = 0.01
    log_period: int = 10
    checkpoint_period: int = 500
    identity: dict = field(default_factory=dict)
    notes: Sequence[str] = ()  # for the user, before the first step


def train_revit(job: RevitJob, folder: RunFolder, log: RunLog, world: World | None = None) -> None:
    """Algorithm 1, with growing where asked; leaves the averaged weights in `folder.revit`."""
    for note in job.notes:
        log.say(note)
    world = world or World()
    model = job.model.to(job.run.device)
    share = Share(levels=tuple(range(model.num_levels)))
    ema = ModelEmaV3(model, decay=job.ema_decay, use_warmup=True) if job.ema_decay else None
    schedules = build_schedules(job.optimizers, job.lr_factor)
    training = Training(model, ema.module if ema else model, [*job.optimizers, *schedules])
    progress = ProgressFolder(folder.progress)
    start = progress.resume(training, log)
    limit = UnreadableLimit(len(job.dataset), max_share=job.max_unreadable, warn=log.say)
    last = model.num_levels - 1

    def step(number: int, batch: Batch) -> Mapping[str, Tensor | float]:
        limit.check(batch)
        if not len(batch.labels):
            return {"clips": 0.0}  # every video of the batch is unreadable: no gradients, so nothing moves
        if number == job.grow_at and number > 0:
            training.grow(last)
            log.say(f"step {number}: all lengths start from the shortest one ({model.token_lengths[last]})")
        return revit_step(
            model,
            job.run.to_clips(batch.clips.flatten(0, 1)),
            batch.labels.to(job.run.device),
            levels=[last] if number < job.grow_at else share.levels,
            distillation=job.distillation,
            smoothing=job.smoothing,
            autocast=job.run.autocast,
        )

    def after_step(done: int) -> None:
        if ema is not None:
            ema.update(model, step=done)
        if done % job.checkpoint_period == 0 and done < job.total_steps:
            progress.save(training, done)

    batches = train_batches(
        job.dataset,
        batch_size=job.batch_size,
        total_steps=job.total_steps,
        seed=job.seed,
        start_step=start,
        num_workers=job.num_workers,
    )
    fit(
        model,
        batches,
        step,
        optimizers=job.optimizers,
        schedules=schedules,
        total_steps=job.total_steps,
        start_step=start,
        clip_grad=job.clip_grad,
        after_step=after_step,
        name_batch=lambda batch: names_of(job.dataset, batch),
        world=world,
        log=log,
        stage="revit",
        log_period=job.log_period,
    )
    weights = {name: tensor.cpu() for name, tensor in training.averaged.state_dict().items()}
    save_checkpoint(
        {"kind": "revit", "model": weights, "step": job.total_steps, **job.identity}, folder.revit
    )
    progress.clear()


def names_of(dataset: VideoDataset, batch: Batch) -> str:
    """The files of a batch, for a message."""
    return ", ".join(dataset.samples[index].path for index in batch.indices.tolist())
