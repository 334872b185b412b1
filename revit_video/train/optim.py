"""Which parameter is stepped by what, and how the learning rate moves.

Grouping and schedules are closed forms of our own. timm's factories were tried against them and left out:
its rule for weight decay goes by a parameter's axes, and would decay LengthNorm rows, tokens and tables; its
layer decay writes `lr_scale`, which torch's optimizers do not read; its schedules count epochs or updates in
a state of their own, and have no relative steps.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn

from revit_video.backbones.core import ReViT
from revit_video.layers.length_norm import LengthNorm
from revit_video.types import InputError

IN_BLOCK = re.compile(r"(.*\.)?blocks\.(\d+)\.")  # of a backbone, or of a backbone in a cascade


def no_decay(name: str, parameter: nn.Parameter) -> bool:
    """Biases, tokens, position tables and norm rows: rows of lengths that did not run must not be moved by
    decay.
    """
    owner = name.rsplit(".", 1)[-1]
    return (
        parameter.ndim < 2 or owner in ("scale", "shift") or any(part in name for part in ("token", "table"))
    )


def layer_of(name: str, *, depth: int) -> int:
    """How far from the input a parameter is: 0 for embeddings, tokens, tables, 1 to `depth` for the blocks,
    depth + 1 for the last norm and the heads.
    """
    block = re.match(r"blocks\.(\d+)\.", name)
    if block:
        return int(block[1]) + 1
    early = name.startswith(("patch_embeds.", "pos_tables.", "time_table", "class_token", "distill_tokens"))
    return 0 if early else depth + 1


def build_optimizers(
    model: nn.Module,
    kind: str,
    *,
    lr: float,
    weight_decay: float,
    momentum: float = 0.9,
    muon_lr: float = 0.02,
    layer_decay: float = 1.0,
) -> list[torch.optim.Optimizer]:
    """SGD (nesterov), AdamW, or Muon for the 2-D weights of `blocks` with AdamW for all else (two
    optimizers).

    layer_decay: the rate of a layer is `layer_decay` times that of the one after it; the heads, and the last
        norm, have `lr` itself (BEiT, arXiv:2106.08254, section A; 1: off). A block is a layer, and so are
        all embeddings, tokens and tables together.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    depth = len(model.blocks) if layer_decay != 1 else 0

    def rate(name: str) -> float:
        return layer_decay ** (depth + 1 - layer_of(name, depth=depth)) if layer_decay != 1 else 1.0

    optimizers: list[torch.optim.Optimizer] = []
    if kind == "muon":
        matrices = {
            name: p for name, p in named if IN_BLOCK.match(name) and p.ndim == 2 and not no_decay(name, p)
        }
        if matrices:
            groups = grouped(matrices.items(), rate, lr=muon_lr, weight_decay=weight_decay)
            optimizers.append(torch.optim.Muon(groups, momentum=0.95))
        named = [(name, p) for name, p in named if name not in matrices]
    groups = grouped(named, rate, lr=lr, weight_decay=weight_decay)
    if kind == "sgd":
        optimizers.append(torch.optim.SGD(groups, momentum=momentum, nesterov=momentum > 0))
    elif kind in ("adamw", "muon"):
        betas = (0.9, 0.95) if kind == "muon" else (0.9, 0.999)
        optimizers.append(torch.optim.AdamW(groups, betas=betas))
    else:
        raise InputError(f"solver.optimizer is {kind!r}, but must be one of: sgd, adamw, muon")
    return optimizers


def grouped(
    named: Iterable[tuple[str, nn.Parameter]],
    rate: Callable[[str], float],
    *,
    lr: float,
    weight_decay: float,
) -> list[dict]:
    """Parameter groups, one for each learning rate (fastest first) with and without decay."""
    groups: dict[tuple[float, bool], dict] = {}
    for name, parameter in named:
        free = no_decay(name, parameter)
        own = {"params": [], "lr": lr * rate(name), "weight_decay": 0.0 if free else weight_decay}
        groups.setdefault((-own["lr"], free), own)["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


@torch.no_grad()
def grow_moments(optimizers: Iterable[torch.optim.Optimizer], model: ReViT, source: int) -> None:
    """What the optimizers know of the rows that `model.grow(source)` copies is copied with them.

    A LengthNorm is one parameter for all levels. The rows of those that did not run have moments of zero, but
    the parameter has taken all its steps: AdamW would no longer correct for that, and move them several times
    too far. Parameters that a level has for itself have no moments yet, and start with a correction of their
    own.
    """
    rows = {}
    for module in model.modules():
        if isinstance(module, LengthNorm):
            rows |= {module.scale: module.row(source), module.shift: module.row(source)}
    if model.distill_tokens is not None and source >= model.first_distilled:
        rows[model.distill_tokens] = source - model.first_distilled
    for optimizer in optimizers:
        for parameter in rows.keys() & optimizer.state.keys():
            for moment in optimizer.state[parameter].values():
                if isinstance(moment, torch.Tensor) and moment.shape == parameter.shape:
                    moment.copy_(moment[rows[parameter]].clone().expand_as(moment))


def cosine_factor(step: int, total: int, *, warmup: int, start: float = 0.0, end: float = 0.0) -> float:
    """`start` -> 1 linearly over `warmup` steps, then half a cosine down to `end` at `total`, as the official
    recipes do it (SlowFast's WARMUP_START_LR and COSINE_END_LR with COSINE_AFTER_WARMUP; timm's min_lr).

    Step 0 has the rate `start`; from 0 it already has the first share of the rise, or it would do nothing.
    """
    if step < warmup:
        risen = step / warmup if start else (step + 1) / warmup
        return start + (1 - start) * risen
    fallen = 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))
    return end + (1 - end) * fallen


def relative_factor(
    step: int, steps_per_epoch: int, *, epochs: Sequence[int], factors: Sequence[float]
) -> float:
    """The official recipes' `steps_with_relative_lrs`: factor i holds from epoch epochs[i] on."""
    epoch = step / steps_per_epoch
    return [factor for start, factor in zip(epochs, factors, strict=True) if epoch >= start][-1]


def build_schedules(
    optimizers: Iterable[torch.optim.Optimizer], factor: Callable[[int], float]
) -> list[torch.optim.lr_scheduler.LambdaLR]:
    """One schedule per optimizer; `factor(step)` multiplies each group's own learning rate."""
    return [torch.optim.lr_scheduler.LambdaLR(optimizer, factor) for optimizer in optimizers]
