"""Random token drop: patches go by lot. What every method that chooses them has to beat."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from revit_video.competitors.evit import keep_rates
from revit_video.layers.reduce import TOKENS, TUBES, AttentionInfo, TokenReducer, TokenState, keep_units


@dataclass(frozen=True)
class DropByLot:
    """Random drop in one block."""

    keep: float
    seed: int

    def __call__(self, x: Tensor, seen: AttentionInfo, kept: TokenState) -> tuple[Tensor, TokenState]:
        k = math.ceil(self.keep * kept.units)
        if k == kept.units:
            return x, kept
        if torch.is_grad_enabled() and x.requires_grad:  # training: new lots for every clip
            lots = torch.rand(len(x), kept.units, device=x.device)
        else:
            generator = torch.Generator().manual_seed(self.seed)
            lots = torch.rand(kept.units, generator=generator, device="cpu").to(x.device).expand(len(x), -1)
        return keep_units(x, kept, lots.topk(k, dim=1).indices.sort(dim=1).values)

    def left(self, units: int) -> int:
        return math.ceil(self.keep * units)

    def products(self, units: int, *, prefix: int, planes: int, dim: int, heads: int) -> int:
        return 0


@dataclass(frozen=True)
class RandomDrop:
    """Random drop of tokens, or of whole tubes where attention needs the grid.

    Without gradients the lots depend on `seed` and the block alone, so that a prediction does not depend on
    the batch; with gradients every clip draws its own, from torch's generator.

    keep, blocks: as of EViT.
    """

    keep: float | Sequence[float] = 0.7
    blocks: Sequence[int] = ()
    seed: int = 0

    reduces: ClassVar = (TOKENS, TUBES)

    def per_block(self, depth: int) -> tuple[TokenReducer | None, ...]:
        rates = keep_rates(self.keep, self.blocks, depth)
        return tuple(
            None if rate == 1 else DropByLot(rate, self.seed * depth + i) for i, rate in enumerate(rates)
        )

    def check(self, units: int, *, depth: int, prefix: int) -> None:
        keep_rates(self.keep, self.blocks, depth)
