"""Fewer tokens on the way through the blocks: the one place where EViT, ToMe and random drop plug in.

Between attention and MLP a block calls its reducer, a `TokenReducer`, with the tokens, with what attention
saw, and with a `TokenState` that says what each token stands for; it gets fewer tokens and their state back.
Nothing is remembered between calls.

What is reduced are units. With joint attention a unit is a token. Divided and trajectory attention need every
frame to keep the same places, so there a unit is a tube: the tokens of one place in all frames, and a state
has as many planes of units as the clip has planes of tokens. Tokens lie as everywhere: P prefix tokens, then
plane by plane U units: (B, P + planes * U, D). Prefix tokens are never reduced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from revit_video.types import InputError

TOKENS, TUBES = "tokens", "tubes"  # what a block can spare one by one


@dataclass(frozen=True)
class AttentionInfo:
    """What attention worked with.

    q: (B, A, n, d) of the tokens that ask, the prefix first. k: keys (B, A, P + U, d) of tokens;
    (B, T, A, P + U, d), or (B, A, P + T * U, d), of tubes.
    """

    q: Tensor
    k: Tensor

    def class_row(self, prefix: int) -> Tensor:
        """How the class token's attention spreads over the units, a mean over the heads: (B, U).

        One row of the softmax, so that the kernel of all the others can stay fused. The prefix keeps its
        share, so a row adds up to less than 1.
        """
        q = self.q[:, :, :1] * self.q.shape[-1] ** -0.5
        return (q @ self.k.transpose(-2, -1)).softmax(dim=-1)[:, :, 0, prefix:].mean(dim=1)

    def features(self, prefix: int, planes: int) -> Tensor:
        """What a unit is: its keys, a mean over the heads, those of a tube side by side: (B, U, planes *
        d).
        """
        keys = self.k.mean(dim=-3)[..., prefix:, :]  # (B, [T,] U, d)
        if planes == 1:
            return keys
        if keys.ndim == 3:  # (B, T*U, d)
            keys = keys.unflatten(1, (planes, -1))
        return keys.transpose(1, 2).flatten(2)


@dataclass(frozen=True)
class TokenState:
    """What the tokens of a batch stand for.

    prefix: tokens in front (class, distillation).
    units: U, how many there are now.
    owner: (B, U0), for every unit there was at first the one it is part of now; -1: it was dropped.
    planes: of units, see above; 1 for tokens.
    sizes: (B, U), how many of the first units each one stands for; None: nothing was merged, all are 1.
    proportional: attention counts a unit as often as its size says (ToMe, arXiv:2210.09461, section 3).
    fused: (B, U), units that are sums of dropped ones and stand for no place (EViT); None: there are none.
    """

    prefix: int
    units: int
    owner: Tensor
    planes: int = 1
    sizes: Tensor | None = None
    proportional: bool = False
    fused: Tensor | None = None

    @staticmethod
    def start(x: Tensor, *, prefix: int, planes: int = 1) -> TokenState:
        """Of tokens (B, P + planes * U, D) that nobody has reduced yet."""
        units = (x.shape[1] - prefix) // planes
        owner = torch.arange(units, device=x.device).expand(len(x), -1)
        return TokenState(prefix, units, owner, planes)

    def key_bias(self) -> Tensor | None:
        """What proportional attention adds to the scores, log(size): (B, P + U); None: nothing."""
        if self.sizes is None or not self.proportional:
            return None
        return F.pad(self.sizes.log(), (self.prefix, 0))

    def places(self) -> Tensor:
        """(B, U), for every unit the first of the places it stands for; -1 for those that are `fused`."""
        there = torch.where(self.owner < 0, self.units, self.owner)  # the dropped: a column that is cut off
        first = torch.arange(there.shape[1], device=there.device).expand_as(there)
        found = there.new_full((len(there), self.units + 1), -1)
        found = found.scatter_reduce(1, there, first, "amin", include_self=False)[:, :-1]
        return found if self.fused is None else found.masked_fill(self.fused, -1)


class TokenReducer(Protocol):
    """What one block does with its tokens."""

    def __call__(self, x: Tensor, seen: AttentionInfo, kept: TokenState) -> tuple[Tensor, TokenState]:
        """Fewer of the tokens (B, P + planes * U, D), and what they stand for now."""
        ...

    def left(self, units: int) -> int:
        """How many of so many units are left."""
        ...

    def products(self, units: int, *, prefix: int, planes: int, dim: int, heads: int) -> int:
        """The multiply-adds it takes itself, for one clip."""
        ...


class Reduction(Protocol):
    """A way to reduce tokens, for a whole model: a small frozen object that a forward pass may be given
    too.
    """

    reduces: ClassVar[Sequence[str]]  # TOKENS, TUBES: what it can choose among

    def per_block(self, depth: int) -> tuple[TokenReducer | None, ...]:
        """The reducer of each of `depth` blocks; None leaves the tokens as they are."""
        ...

    def check(self, units: int, *, depth: int, prefix: int) -> None:
        """Raises InputError where a model with so many units, blocks and prefix tokens cannot be reduced
        so.
        """
        ...


def reduced_units(blocks: Sequence, reduction: Reduction) -> str:
    """TOKENS or TUBES: what all blocks of a model can spare and the reduction can choose among.

    Raises:
        InputError: there is nothing of the kind.
    """
    kind = getattr(blocks[0], "reduces", None)
    if kind not in reduction.reduces:
        name, block = type(reduction).__name__, type(blocks[0]).__name__
        can = "no fewer tokens" if kind is None else f"whole {kind} only"
        raise InputError(
            f"{name} chooses among {' or '.join(reduction.reduces)}, but a {block} can spare {can}; use a "
            "model with joint attention, or one of docs/rivals.md that goes with it"
        )
    return kind


def take_rows(x: Tensor, rows: Tensor) -> Tensor:
    """Rows (B, M) of x (B, N, D): (B, M, D). Whole rows of memory are copied, which `gather` would not do."""
    start = torch.arange(len(x), device=x.device)[:, None] * x.shape[1]
    return x.reshape(-1, x.shape[2]).index_select(0, (rows + start).flatten()).unflatten(0, rows.shape)


def unit_rows(index: Tensor, kept: TokenState) -> Tensor:
    """Where the prefix and the units `index` (B, M) lie among the tokens, plane by plane:
    (B, P + planes * M).
    """
    planes = torch.arange(kept.planes, device=index.device)[:, None] * kept.units + kept.prefix
    rows = (index[:, None] + planes).flatten(1)
    prefix = torch.arange(kept.prefix, device=index.device).expand(len(index), -1)
    return torch.cat([prefix, rows], dim=1)


def keep_units(x: Tensor, kept: TokenState, index: Tensor) -> tuple[Tensor, TokenState]:
    """The tokens with the units `index` (B, M) only, in that order; the others are gone (owner -1)."""
    left = index.shape[1]
    became = index.new_full((len(index), kept.units), -1)
    became = became.scatter(1, index, torch.arange(left, device=index.device).expand_as(index))
    pick = {name: getattr(kept, name) for name in ("sizes", "fused")}
    pick = {name: None if one is None else one.gather(1, index) for name, one in pick.items()}
    state = replace(kept, units=left, owner=follow(kept.owner, became), **pick)
    return take_rows(x, unit_rows(index, kept)), state


def follow(owner: Tensor, became: Tensor) -> Tensor:
    """Owners (B, U0) after the units became others, (B, U); -1 stays -1."""
    return became.gather(1, owner.clamp_min(0)).masked_fill(owner < 0, -1)
