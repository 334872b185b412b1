"""EViT: patches the class token looks at stay, the others are fused into one (arXiv:2202.07800, section 3).

    A_cls = mean over heads of softmax(q_cls K^T / sqrt(d))     attentiveness
    k = ceil(keep * patches), the k with the largest A_cls stay
    x_fused = sum over the others of A_cls[j] * x_j             not normalised: a small token

The fused token is an ordinary patch from then on: scored, kept, dropped or fused again. Facts from the paper
and official outputs; own code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from revit_video.layers.reduce import TOKENS, AttentionInfo, TokenReducer, TokenState, keep_units
from revit_video.types import InputError


def usual_blocks(depth: int) -> tuple[int, ...]:
    """The paper's three places: before the MLP of the 4th, 7th and 10th of 12 blocks, the 5th, 9th and 13th
    of LV-ViT-S's 16.
    """
    return tuple(sorted({i * depth // 4 for i in (1, 2, 3)}))


def keep_rates(keep: float | Sequence[float], blocks: Sequence[int], depth: int) -> tuple[float, ...]:
    """A keep rate for each of `depth` blocks: those given, or `keep` in `blocks` and 1 elsewhere.

    Raises:
        InputError: a rate is not in (0, 1], there is not one per block, or a block is not there.
    """
    rates = tuple(keep) if isinstance(keep, Sequence) else None
    for rate in rates or (keep,):
        if not (isinstance(rate, (int, float)) and 0 < rate <= 1):
            raise InputError(f"a keep rate is {rate!r}, but must be above 0 and at most 1, such as 0.7")
    if rates is not None:
        if len(rates) != depth:
            raise InputError(
                f"keep has {len(rates)} rates for {depth} blocks; give one for each, or one number"
            )
        return rates
    chosen = tuple(blocks) or usual_blocks(depth)
    if not all(isinstance(block, int) and 0 <= block < depth for block in chosen):
        raise InputError(f"blocks are {list(chosen)}, but the model's are numbered 0 to {depth - 1}")
    return tuple(float(keep) if block in chosen else 1.0 for block in range(depth))


@dataclass(frozen=True)
class KeepAttentive:
    """EViT in one block."""

    keep: float
    fuse: bool = True

    def __call__(self, x: Tensor, seen: AttentionInfo, kept: TokenState) -> tuple[Tensor, TokenState]:
        k = math.ceil(self.keep * kept.units)
        if k == kept.units:
            return x, kept
        scores = seen.class_row(kept.prefix)  # (B, U)
        index = scores.topk(k, dim=1).indices
        out, state = keep_units(x, kept, index)
        if not self.fuse:
            return out, state
        weights = scores.scatter(1, index, 0.0)  # of the dropped alone
        fused = weights[:, None].to(x.dtype) @ x[:, kept.prefix :]  # (B, 1, D)
        gone = (state.owner < 0) & (kept.owner >= 0)
        marks = torch.zeros_like(scores, dtype=torch.bool) if kept.fused is None else kept.fused
        return torch.cat([out, fused], dim=1), replace(
            state,
            units=k + 1,
            owner=state.owner.masked_fill(gone, k),
            fused=F.pad(marks.gather(1, index), (0, 1), value=True),
        )

    def left(self, units: int) -> int:
        k = math.ceil(self.keep * units)
        return k if k == units else k + self.fuse

    def products(self, units: int, *, prefix: int, planes: int, dim: int, heads: int) -> int:
        """The class token's row of scores, and the sum of the others."""
        if math.ceil(self.keep * units) == units:
            return 0
        return (prefix + units) * dim + self.fuse * units * dim


@dataclass(frozen=True)
class EViT:
    """EViT for models with joint attention.

    keep: the share of the patches that stays, at the paper's three places; or one per block (1: all stay).
    fuse: the others become one token; False drops them.
    blocks: other places for a single `keep`, counted from 0.
    """

    keep: float | Sequence[float] = 0.7
    fuse: bool = True
    blocks: Sequence[int] = ()

    reduces: ClassVar = (TOKENS,)

    def rates(self, depth: int) -> tuple[float, ...]:
        return keep_rates(self.keep, self.blocks, depth)

    def per_block(self, depth: int) -> tuple[TokenReducer | None, ...]:
        return tuple(None if rate == 1 else KeepAttentive(rate, self.fuse) for rate in self.rates(depth))

    def check(self, units: int, *, depth: int, prefix: int) -> None:
        if prefix < 1:
            raise InputError(
                "EViT keeps what the class token looks at, and this model has no class token; use ToMe "
                "or random drop"
            )
        self.rates(depth)

    def at_rate(self, rate: float, depth: int) -> EViT:
        """The same places with one rate for all, as during the warm-up (never a place that has rate 1)."""
        return replace(self, keep=tuple(1.0 if own == 1 else rate for own in self.rates(depth)), blocks=())


def keep_rate_at(
    step: int, base: float, *, steps_per_epoch: int, start_epoch: int = 10, shrink_epochs: int = 100
) -> float:
    """The warm-up of the keep rate (section 4.1 and its script): 1, then half a cosine down to `base`.

    A function of the optimizer step alone. The whole stretch is counted in steps, its ends in whole epochs.
    """
    epoch = step // steps_per_epoch
    if epoch < start_epoch:
        return 1.0
    if epoch >= start_epoch + shrink_epochs:
        return base
    part = (step - start_epoch * steps_per_epoch) / (shrink_epochs * steps_per_epoch)
    return base + (1 - base) * 0.5 * (1 + math.cos(math.pi * part))


@dataclass(frozen=True)
class KeepWarmup:
    """The reducer of every optimizer step of a training that begins with all patches: `keep_rate_at` for each
    block that drops some.

    start, shrink: steps before the rates begin to fall, and until they have fallen.
    """

    reducer: EViT
    depth: int
    start: int
    shrink: int

    def __call__(self, step: int) -> EViT | None:
        """None: the warm-up is over, the model's own reducer runs."""
        if step >= self.start + self.shrink:
            return None
        times = {"steps_per_epoch": 1, "start_epoch": self.start, "shrink_epochs": self.shrink}
        rates = (keep_rate_at(step, own, **times) for own in self.reducer.rates(self.depth))
        return replace(self.reducer, keep=tuple(rates), blocks=())
