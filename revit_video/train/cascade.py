"""Stage 1 of a cascade: all exits learn from the labels at once (DVT, arXiv:2105.15075, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from revit_video.evaluate.heads import Heads
from revit_video.train.lengths import pieces_of
from revit_video.train.losses import class_loss, right_rows
from revit_video.train.parallel import Exchange
from revit_video.train.revit import Together


def cascade_loss(
    logits: Sequence[Tensor], loss: Callable[[Tensor, Tensor], Tensor], targets: Tensor
) -> Tensor:
    """The plain sum over the exits of `loss(logits, targets)` (section 3.3); gradients flow into the exits
    before through what is reused.
    """
    return torch.stack([loss(one, targets) for one in logits]).sum()


def cascade_step(
    model: nn.Module | Exchange,
    clips: Tensor,
    labels: Tensor,
    *,
    levels: Sequence[int],
    targets: Tensor | None = None,
    smoothing: float = 0.0,
    heads: Heads = (),
    micro_batch: int = 0,
    weight: float = 1.0,
    autocast: Callable[[], AbstractContextManager] = nullcontext,
    backward: Callable[[Tensor], None] = Tensor.backward,
    together: Together | None = None,
) -> dict[str, Tensor]:
    """Backward through images (B, 3, 1, H, W) at all exits of a cascade; arguments and result are those of
    `train.revit.revit_step`. No exit learns from another, and `levels` are all of them.

    `loss` is the sum over the exits; loss/level0 is the last exit's.
    """
    exchange = model if isinstance(model, Exchange) else Exchange(model)
    together = together or Together(levels)
    targets = labels if targets is None else targets
    sums: dict[str, Tensor] = {"clips": torch.tensor(float(len(labels)), device=labels.device)}
    measure = partial(class_loss, smoothing=smoothing, heads=heads)
    pieces = pieces_of(range(len(labels)), micro_batch)
    if not pieces:
        exchange.take_part(backward)
    for rows in pieces:
        piece = slice(rows[0], rows[-1] + 1)
        last = rows is pieces[-1]
        with exchange.one_pass(last=last):
            with autocast():
                logits = exchange(clips[piece], 0, all_exits=True)
            loss = cascade_loss(logits, measure, targets[piece])
            part = loss * (weight * len(rows) / len(labels))
            backward(exchange.closed(part) if last else part)
        for name, value in exit_sums(logits, labels[piece], targets[piece], measure, heads).items():
            sums[name] = sums.get(name, 0.0) + value
    exchange.finish(together.levels, complete=together.complete)
    return sums


@torch.no_grad()
def exit_sums(
    logits: Sequence[Tensor],
    labels: Tensor,
    targets: Tensor,
    measure: Callable[[Tensor, Tensor], Tensor],
    heads: Heads,
) -> dict[str, Tensor]:
    """What is logged of the exits (level 0 is the last), summed over the images."""
    sums: dict[str, Tensor] = {}
    for level, one in enumerate(reversed(logits)):
        loss = measure(one, targets) * len(labels)
        sums[f"loss/level{level}"] = loss
        for name, right in right_rows(one, labels, heads=heads).items():
            sums[f"{name}/level{level}"] = 100.0 * right.float().sum()
        sums["loss"] = sums.get("loss", 0.0) + loss
    return sums
