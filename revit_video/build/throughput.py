"""What `tools/throughput.py` times, from a checkpoint or from the name of a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from revit_video.backbones.costs import level_gmacs
from revit_video.build.device import build_device
from revit_video.build.jobs import checkpoint_config, test_job
from revit_video.competitors.zoo import create_model
from revit_video.config import Config, load_config
from revit_video.report.macs import count_macs
from revit_video.report.provenance import provenance
from revit_video.routing.assigner import Assigner
from revit_video.routing.forced import Forced, dealt, marked_clips, shares_for
from revit_video.routing.router import Router
from revit_video.routing.rule import assigner_rule
from revit_video.stages.test import router_of
from revit_video.stages.throughput import SpeedJob
from revit_video.stages.timing import each_clip, first_clips
from revit_video.types import InputError


def asked_speed_job(
    *,
    checkpoint: Path | None,
    model: str | None,
    token_lengths: Sequence[int] | None,
    cost: float | None,
    decode: bool,
    overrides: Sequence[str],
    **numbers: int,
) -> SpeedJob:
    """What a command line asks for: one of `checkpoint` and `model`, and nothing that the other wants."""
    for name, value in numbers.items():
        if value < 1:
            raise InputError(f"--{name.replace('_', '-')} is {value}, but must be at least 1")
    if (checkpoint is None) == (model is None):
        raise InputError("give either --checkpoint, a trained recognizer, or --model, a name of the zoo")
    if checkpoint is not None:
        if token_lengths or cost is not None:
            raise InputError("--token-lengths and --cost go with --model; a checkpoint has its own")
        return trained_speed_job(checkpoint, overrides, decode=decode, **numbers)
    if decode:
        raise InputError("--decode needs --checkpoint: a model with random weights has no videos to decode")
    given = dict(text.partition("=")[::2] for text in overrides)
    if unknown := given.keys() - {"device", "dtype"}:
        raise InputError(f"--model takes device= and dtype= alone, not {', '.join(sorted(unknown))}")
    config = load_config(None, ["data.root=none", *overrides])
    changes = {"token_lengths": tuple(token_lengths)} if token_lengths else {}
    where = {"device": config.device, "dtype": config.dtype}
    return random_speed_job(model, cost=0.5 if cost is None else cost, **numbers, **where, **changes)


def trained_speed_job(
    checkpoint: Path, overrides: Sequence[str], *, clips: int, batch_size: int, repeats: int, decode: bool
) -> SpeedJob:
    """A trained recognizer on the first clips of its test list."""
    config = checkpoint_config(checkpoint, overrides)
    job = test_job(config, checkpoint, build_device(config))
    run = job.evaluation.run
    views = {"num_crops": job.num_crops, "limit": clips}

    def decoded() -> Iterator[Tensor]:
        for clip in each_clip(job.evaluation, **views):
            yield run.to_clips(clip[None], dtype=run.dtype)[0]

    there = None if decode else first_clips(job.evaluation, **views)
    protocol = job.protocol if decode else job.protocol | {"decoder": None}
    return SpeedJob(
        job.model,
        router_of(job) if job.assigner is not None else None,
        job.costs,
        decoded if decode else partial(iter, there),
        batch_size,
        range(job.model.num_levels),
        repeats=repeats,
        protocol={"model": config.model.name, "decode": decode, **protocol},
    )


def random_speed_job(
    name: str,
    *,
    cost: float,
    clips: int,
    batch_size: int,
    repeats: int,
    device: str = "auto",
    dtype: str = "auto",
    levels: Sequence[int] | None = None,
    assigner: dict | None = None,
    **changes,
) -> SpeedJob:
    """A model of the zoo with random weights and an assigner whose answers are forced, so that clips cost
    `cost` of the longest length on average.

    levels: fixed lengths to time beside it; None: all. assigner: arguments of Assigner. changes: of
    `create_model`.
    """
    run = build_device(Config(device=device, dtype=dtype))
    torch.manual_seed(0)
    model = create_model(name, num_classes=10, **changes).eval()
    costs, count = level_gmacs(model), model.num_levels
    router, marks = None, torch.zeros(clips, dtype=torch.long)
    if count > 1:
        looking = Assigner(count, **(assigner or {})).eval()
        look = count_macs(looking, torch.zeros(1, 3, 1, *model.crop)) / 1e9
        marks = dealt(shares_for(cost, costs, look), clips)
        looking = Forced(looking.fold_norms()).to(run.device)
        router = Router(model, looking, costs=costs, rule=assigner_rule(0.0, count), look=look)
    model.to(run.device, run.dtype)
    noise = marked_clips(marks, num_frames=model.num_frames, crop=model.crop).to(run.device, run.dtype)
    said = provenance(device=run.device, dtype=run.dtype, seed=0)
    return SpeedJob(
        model,
        router,
        costs,
        partial(iter, noise),
        batch_size,
        range(count) if levels is None else levels,
        repeats=repeats,
        protocol={"model": name, "decode": False, **said},
    )
