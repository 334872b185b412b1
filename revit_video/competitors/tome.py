"""ToMe: the most similar tokens merge (Token Merging, arXiv:2210.09461, section 3). Facts from the paper and
official outputs; own code.

Tokens are dealt alternately into two sets, the class token first. Every token of the first set (but the class
token) proposes its most similar one of the second (but a distillation token); the r best proposals merge.
Similar are keys, averaged over the heads. A merged token is the mean of what it stands for, and proportional
attention counts it as often: log(size) is added to the scores of its key.

In video with joint attention tokens of all frames merge with each other, as published. Divided and trajectory
attention need a grid, so whole tubes merge, the tokens of a place in all frames: every frame keeps the same
places. There log(size) matters in space alone: along time all keys of a tube have one size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from revit_video.layers.reduce import (
    TOKENS,
    TUBES,
    AttentionInfo,
    TokenReducer,
    TokenState,
    follow,
    take_rows,
    unit_rows,
)
from revit_video.types import InputError


@torch.no_grad()
def match(features: Tensor, r: int, *, first: int) -> tuple[Tensor, Tensor, Tensor]:
    """Bipartite soft matching of units by features (B, U, d).

    first: where the first set starts; with a prefix of P tokens in front of the units that is P % 2, as the
        sets are dealt over all tokens.

    Returns:
        Units that merge (B, r), the unit each merges into (B, r), and those that do not merge (B, U - r): the
        rest of the first set in its order, then the second set.
    """
    unit = F.normalize(features, dim=-1)
    ours, theirs = unit[:, first::2], unit[:, 1 - first :: 2]
    best, mate = (ours @ theirs.transpose(1, 2)).max(dim=-1)  # (B, U/2)
    order = best.argsort(dim=-1, descending=True)
    merging, staying = order[:, :r], order[:, r:].sort(dim=-1).values
    second = torch.arange(theirs.shape[1], device=unit.device).expand(len(unit), -1)
    left = torch.cat([2 * staying + first, 2 * second + 1 - first], dim=1)
    return 2 * merging + first, 2 * mate.gather(1, merging) + 1 - first, left


def most(units: int) -> int:
    """How many of so many units can merge at once: half of them."""
    return units // 2


@dataclass(frozen=True)
class Merge:
    """ToMe in one block."""

    r: int
    proportional: bool = True

    def __call__(self, x: Tensor, seen: AttentionInfo, kept: TokenState) -> tuple[Tensor, TokenState]:
        r = min(self.r, most(kept.units))
        if r == 0:
            return x, kept
        features = seen.features(kept.prefix, kept.planes)
        source, target, left = match(features, r, first=kept.prefix % 2)
        return merge(x, kept, source, target, left, proportional=self.proportional)

    def left(self, units: int) -> int:
        return units - min(self.r, most(units))

    def products(self, units: int, *, prefix: int, planes: int, dim: int, heads: int) -> int:
        """The similarities of the two sets."""
        if min(self.r, most(units)) == 0:
            return 0
        return (units // 2) * (units - units // 2) * planes * dim // heads


def merge(
    x: Tensor, kept: TokenState, source: Tensor, target: Tensor, left: Tensor, *, proportional: bool = True
) -> tuple[Tensor, TokenState]:
    """The tokens with the units `source` (B, r) merged into `target` (B, r): means weighted by sizes, in the
    order of `left` (B, U - r), which holds every unit but those of `source`.
    """
    sizes = kept.sizes if kept.sizes is not None else x.new_ones(len(x), kept.units, dtype=torch.float32)
    place = torch.zeros_like(kept.owner[:, :1]).expand(-1, kept.units)
    here = torch.arange(left.shape[1], device=x.device).expand_as(left)
    place = place.scatter(1, left, here)  # where a unit is now
    goal = place.gather(1, target)
    state = replace(
        kept,
        units=left.shape[1],
        owner=follow(kept.owner, place.scatter(1, source, goal)),
        sizes=sizes.gather(1, left).scatter_add(1, goal, sizes.gather(1, source)),
        proportional=proportional,
        fused=None if kept.fused is None else kept.fused.gather(1, left),
    )
    shares = sizes.gather(1, left) / state.sizes  # of the old token in the new one
    parts = sizes.gather(1, source) / state.sizes.gather(1, goal)
    shares, parts = (one.to(x.dtype).repeat(1, kept.planes) for one in (shares, parts))
    weights = torch.cat([x.new_ones(len(x), kept.prefix), shares], dim=1)
    out = take_rows(x, unit_rows(left, kept)) * weights[..., None]
    more = take_rows(x, unit_rows(source, kept)[:, kept.prefix :]) * parts[..., None]
    rows = unit_rows(goal, state)[:, kept.prefix :]
    rows = rows + torch.arange(len(x), device=x.device)[:, None] * out.shape[1]
    merged = out.flatten(0, 1).index_add(0, rows.flatten(), more.flatten(0, 1))
    return merged.unflatten(0, out.shape[:2]), state


@dataclass(frozen=True)
class ToMe:
    """Token merging.

    r: units that merge in every block; or one number per block.
    inflect: r grows (1) or falls (-1) by block from or to 0, with the same mean; 0: the same everywhere.
    proportional: off for models that were trained without labels (the paper's MAE).
    """

    r: int | Sequence[int] = 13
    inflect: float = 0.0
    proportional: bool = True

    reduces: ClassVar = (TOKENS, TUBES)

    def schedule(self, depth: int) -> tuple[int, ...]:
        """r of each block.

        Raises:
            InputError: a number is negative, there is not one per block, or `inflect` is not in [-1, 1].
        """
        many = isinstance(self.r, Sequence)
        numbers = tuple(self.r) if many else (self.r,)
        if not all(isinstance(r, int) and r >= 0 for r in numbers):
            raise InputError(
                f"ToMe's r is {self.r!r}, but must be a whole number of at least 0, or one per block"
            )
        if not -1 <= self.inflect <= 1 or (many and self.inflect):
            raise InputError(
                f"ToMe's inflect is {self.inflect}, but must be in [-1, 1], and 0 with an r per block"
            )
        if many:
            if len(numbers) != depth:
                raise InputError(f"ToMe has {len(numbers)} values of r for {depth} blocks; give one for each")
            return numbers
        low = int(self.r * (1 - self.inflect))
        step = (2 * self.r - 2 * low) / max(1, depth - 1)
        return tuple(int(low + step * block) for block in range(depth))

    def per_block(self, depth: int) -> tuple[TokenReducer | None, ...]:
        return tuple(Merge(r, self.proportional) if r else None for r in self.schedule(depth))

    def check(self, units: int, *, depth: int, prefix: int) -> None:
        largest = max(self.schedule(depth))
        if largest > units:
            raise InputError(
                f"ToMe's r is {largest}, more than the {units} tokens (or tubes) there are at one of the "
                f"model's token lengths; a block merges at most half of them, {most(units)}"
            )
