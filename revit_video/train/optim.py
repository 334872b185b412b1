"""Which parameter is stepped by what, and how the learning rate moves."""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn

from revit_video.types import InputError


def no_decay(name: str, parameter: nn.Parameter) -> bool:
    """Biases, tokens, position tables and norm rows: rows of lengths that did not run must not be moved by
    decay.
    """
    owner = name.rsplit(".", 1)[-1]
    return (
        parameter.ndim < 2 or owner in ("scale", "shift") or any(part in name for part in ("token", "table"))
    )


def build_optimizers(
    model: nn.Module,
    kind: str,
    *,
    lr: float,
    weight_decay: float,
    momentum: float = 0.9,
    muon_lr: float = 0.02,
) -> list[torch.optim.Optimizer]:
    """SGD (nesterov), AdamW, or Muon for the 2-D weights of `blocks` with AdamW for all else (two
    optimizers).
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    optimizers: list[torch.optim.Optimizer] = []
    if kind == "muon":
        matrices = [
            p for name, p in named if name.startswith("blocks.") and p.ndim == 2 and not no_decay(name, p)
        ]
        if matrices:
            optimizers.append(
                torch.optim.Muon(matrices, lr=muon_lr, momentum=0.95, weight_decay=weight_decay)
            )
        taken = {id(p) for p in matrices}
        named = [(name, p) for name, p in named if id(p) not in taken]
    groups = [
        {"params": [p for name, p in named if not no_decay(name, p)], "weight_decay": weight_decay},
        {"params": [p for name, p in named if no_decay(name, p)], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if kind == "sgd":
        optimizers.append(torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=True))
    elif kind in ("adamw", "muon"):
        betas = (0.9, 0.95) if kind == "muon" else (0.9, 0.999)
        optimizers.append(torch.optim.AdamW(groups, lr=lr, betas=betas))
    else:
        raise InputError(f"solver.optimizer is {kind!r}, but must be one of: sgd, adamw, muon")
    return optimizers


def cosine_factor(step: int, total: int, *, warmup: int) -> float:
    """0 -> 1 linearly over `warmup` steps, then half a cosine down to 0 at `total`."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))


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
