"""What each further token length costs, in training and in parameters (ReViT, arXiv:2307.02092, Figure 7).

Four ways to have n lengths:

    ReViT, sequential        a step runs the lengths one after the other
    ReViT, length-parallel   n processes share the lengths out (train.team.split_levels); a step costs
                             what the slowest process has to do
    separate models          n models of one length each, trained one after the other
    DVT cascade              an exit for each length; a step runs them all
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial

import torch
from torch import nn

from revit_video.backbones.core import ReViT
from revit_video.backbones.costs import closed_form_macs, level_gmacs
from revit_video.backbones.zoo import create_model
from revit_video.competitors.dvt import DVT, can_be_exit
from revit_video.competitors.zoo import ODD_PATCHES
from revit_video.report.throughput import interleave
from revit_video.train.team import split_levels, time_of

SEQUENTIAL, PARALLEL = "ReViT, sequential", "ReViT, length-parallel"
SEPARATE, CASCADE = "separate models", "DVT cascade"
WAYS = (SEQUENTIAL, PARALLEL, SEPARATE, CASCADE)
STEP = 3  # multiply-adds of forward and backward over those of forward
COLUMNS = {  # of `scaling_rows`, for report.tables
    "way": ("training of", ""),
    "listed": ("lengths", ""),
    "train_gmacs": ("GMACs per clip and step", ".2f"),
    "params": ("parameters", ",d"),
    "step_ms": ("ms per clip and step", ".1f"),
}


def scaling_rows(name: str, lengths: Sequence[int], *, measure: int = 0, **changes) -> list[dict]:
    """A row for every way and every n: the first n of `lengths`, longest first, for n from 1 to all of them.

    Keys: way, lengths, listed (as words), train_gmacs and params, closed forms; with `measure`, the clips of
    a batch, also step_ms, the wall time of forward and backward here and now. Both are per clip. With one
    length all ways are the same plain model. Without the cascade where DVT does not take the backbone.

    Args:
        name: a backbone of the zoo. changes: more arguments of it.
    """
    device = torch.device("cpu" if measure else "meta")  # meta: sizes without numbers
    with device:
        make = cache(partial(build_one, name, **changes))
        ways = WAYS if can_be_exit(make(tuple(lengths[:1]))) else WAYS[:-1]
        gmacs, ms = cache(training_gmacs), cache(partial(training_ms, batch_size=measure))
        rows = []
        for n in range(1, len(lengths) + 1):
            used = tuple(lengths[:n])
            for way in ways:
                models = models_of(way, used, make)
                params = sum(parameter.numel() for model in models for parameter in model.parameters())
                row = {"way": way, "lengths": used, "listed": ", ".join(map(str, used))}
                row |= {"train_gmacs": step_cost(way, models, gmacs), "params": params}
                rows.append(row | ({"step_ms": step_cost(way, models, ms)} if measure else {}))
    return rows


def build_one(name: str, lengths: tuple[int, ...], *, cascade: bool = False, **changes) -> nn.Module:
    if not cascade:
        return create_model(name, token_lengths=lengths, **changes)
    odd = ODD_PATCHES if name.startswith("deit") else {}  # as competitors.zoo has them
    return DVT(name, token_lengths=lengths, **odd, **changes)


def models_of(way: str, lengths: tuple[int, ...], make: Callable[..., nn.Module]) -> list[nn.Module]:
    """What is trained to have these lengths."""
    if way in (SEQUENTIAL, PARALLEL):
        return [make(lengths)]
    if way == CASCADE and len(lengths) > 1:
        return [make(lengths, cascade=True)]
    return [make((length,)) for length in lengths]


def step_cost(
    way: str, models: Sequence[nn.Module], costs_of: Callable[[nn.Module], Sequence[float]]
) -> float:
    """Of a training step, from the costs of each model's own passes; of the slowest process where there are
    as many as lengths.
    """
    costs = [cost for model in models for cost in costs_of(model)]
    if way == PARALLEL:
        return max(time_of(group, costs) for group in split_levels(costs, len(costs)))
    return sum(costs)


def training_gmacs(model: nn.Module) -> list[float]:
    """GMACs of forward and backward of a clip: of every length, or of a cascade, whose last exit runs all."""
    forward = level_gmacs(model) if isinstance(model, ReViT) else [closed_form_macs(model).total / 1e9]
    return [STEP * cost for cost in forward]


def training_ms(model: nn.Module, *, batch_size: int) -> list[float]:
    """Milliseconds per clip of what `training_gmacs` counts, in the weights' dtype: median of 3, in turns."""
    clips = torch.rand(batch_size, 3, model.num_frames, *model.crop)
    levels = range(model.num_levels) if isinstance(model, ReViT) else (0,)

    def step(level: int) -> None:
        model(clips, level).sum().backward()
        model.zero_grad()

    functions = {level: partial(step, level) for level in levels}
    timings = interleave(functions, items=batch_size, warmup=1, repeats=3)
    return [timing.ms_median / batch_size for timing in timings.values()]
