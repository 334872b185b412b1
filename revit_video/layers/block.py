"""Transformer blocks. Tokens are (B, P + T*S, D): P prefix tokens (class, distillation), then the patches,
frame by frame.

A last block with `prefix_only=True` computes the prefix alone: the same class token, for fewer multiply-adds.
A block that is given a list `looks` adds to it where the class token looks, (B, A, T, h, w), for attention
transfer. A block that is given a `TokenState`, `kept`, calls its reducer between attention and MLP and
returns the state with the tokens (layers/reduce.py).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from revit_video.layers.attention import Attention
from revit_video.layers.length_norm import LengthNorm
from revit_video.layers.reduce import TOKENS, TUBES, AttentionInfo, TokenReducer, TokenState
from revit_video.types import InputError, TokenGrid


@dataclass(frozen=True)
class Trunk:
    """What all blocks of a backbone share."""

    dim: int  # width of a token, D
    heads: int
    num_levels: int  # rows of every LengthNorm
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    norm_eps: float = 1e-6
    residual_scale: float = 1.0  # of every residual branch; LV-ViT divides them by 2 or 3
    shared_norms: bool = False  # all levels have one row of every LengthNorm

    def norm(self, more: int = 0) -> LengthNorm:
        """Of a token; `more` channels may stand beside it."""
        return LengthNorm(self.dim + more, self.num_levels, eps=self.norm_eps, shared=self.shared_norms)

    def attention(self) -> Attention:
        return Attention(self.dim, self.heads, qkv_bias=self.qkv_bias)

    def mlp(self, more: int = 0) -> "Mlp":
        return Mlp(self.dim, int(self.dim * self.mlp_ratio), more=more)


def drop_path(
    x: Tensor, rate: float, *, training: bool, rows: tuple[int, ...] = (0,), scale: float = 1.0
) -> Tensor:
    """A residual branch, scaled. Stochastic depth: a row of the axes in `rows` is zeroed with probability
    `rate`, the rest scaled up.
    """
    if scale != 1.0:
        x = x * scale
    if rate == 0.0 or not training:
        return x
    shape = [x.shape[axis] if axis in rows else 1 for axis in range(x.ndim)]
    return x * (x.new_empty(shape).bernoulli_(1 - rate) / (1 - rate))


class Mlp(nn.Module):
    """Linear, GELU (exact), Linear over the last axis: (..., dim + more) to (..., dim)."""

    def __init__(self, dim: int, hidden: int, *, more: int = 0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim + more, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class JointBlock(nn.Module):
    """Pre-norm ViT block: every token sees every token of the clip (images: of the frame).

    With `context` channels more beside each token its MLP is wider; competitors/dvt.py runs such a block.
    """

    reduces = TOKENS

    def __init__(self, trunk: Trunk, *, drop_path_rate: float, prefix_only: bool, context: int = 0) -> None:
        super().__init__()
        self.drop_path_rate, self.prefix_only, self.scale = drop_path_rate, prefix_only, trunk.residual_scale
        self.norm1 = trunk.norm()
        self.attn = trunk.attention()
        self.norm2 = trunk.norm(context)
        self.mlp = trunk.mlp(context)

    def forward(
        self,
        x: Tensor,
        grid: TokenGrid,
        *,
        prefix: int,
        looks: list[Tensor] | None = None,
        kept: TokenState | None = None,
        reducer: TokenReducer | None = None,
    ) -> Tensor | tuple[Tensor, TokenState]:
        queries = prefix if self.prefix_only else None
        tokens = self.norm1(x, grid.level)
        if kept is not None:
            seen, info = self.attn.with_info(tokens, queries=queries, key_bias=kept.key_bias())
            x = x[:, :queries] + self._drop(seen)
            if reducer is not None:
                x, kept = reducer(x, info, kept)
            return x + self._drop(self.mlp(self.norm2(x, grid.level))), kept
        if looks is not None:
            spread = self.attn.looks(tokens, prefix=prefix)  # (B, A, T*S)
            looks.append(spread.unflatten(-1, (grid.frames, grid.height, grid.width)))
        x = x[:, :queries] + self._drop(self.attn(tokens, queries=queries))
        return x + self._drop(self.mlp(self.norm2(x, grid.level)))

    def _drop(self, x: Tensor) -> Tensor:
        return drop_path(x, self.drop_path_rate, training=self.training, scale=self.scale)


class TimeAttention(nn.Module):
    """The first half of a divided block: each patch attends to the same place in the other frames.

    Prefix tokens take no part. `fc` follows stochastic depth, as in the official model, so that its bias is
    added even where the path is dropped (arXiv:2102.05095, section 3; checked against the official outputs).

    Shape: patches (B, T, S, D) to the residual (B, T, S, D).
    """

    def __init__(self, trunk: Trunk, *, drop_path_rate: float) -> None:
        super().__init__()
        self.drop_path_rate = drop_path_rate
        self.norm = trunk.norm()
        self.attn = trunk.attention()
        self.fc = nn.Linear(trunk.dim, trunk.dim)

    def forward(self, patches: Tensor, grid: TokenGrid) -> Tensor:
        x = self.attn.over_time(self.norm(patches, grid.level))
        return self.fc(drop_path(x, self.drop_path_rate, training=self.training, rows=(0, 2)))


class DividedBlock(nn.Module):
    """Divided space-time attention (TimeSformer, arXiv:2102.05095, section 3): time, then space, then MLP.

    In the space step the prefix tokens stand in front of every frame; their residual is the mean over frames.
    """

    reduces = TUBES

    def __init__(self, trunk: Trunk, *, drop_path_rate: float, prefix_only: bool) -> None:
        super().__init__()
        if trunk.residual_scale != 1.0:
            raise InputError("divided attention has no scaled residuals; leave residual_scale at 1")
        self.drop_path_rate, self.prefix_only = drop_path_rate, prefix_only
        self.time = TimeAttention(trunk, drop_path_rate=drop_path_rate)
        self.norm1 = trunk.norm()
        self.attn = trunk.attention()
        self.norm2 = trunk.norm()
        self.mlp = trunk.mlp()

    def forward(
        self,
        x: Tensor,
        grid: TokenGrid,
        *,
        prefix: int,
        looks: list[Tensor] | None = None,
        kept: TokenState | None = None,
        reducer: TokenReducer | None = None,
    ) -> Tensor | tuple[Tensor, TokenState]:
        head = x[:, :prefix]  # (B, P, D)
        per_frame = grid.per_frame if kept is None else kept.units
        patches = x[:, prefix:].unflatten(1, (grid.frames, per_frame))  # (B, T, S, D)
        patches = patches + self.time(patches, grid)
        frames = torch.cat([head[:, None].expand(-1, grid.frames, -1, -1), patches], dim=2)  # (B, T, P+S, D)
        frames = self.norm1(frames, grid.level)
        if looks is not None:
            spread = self.attn.looks(frames, prefix=prefix).transpose(1, 2)  # (B, A, T, S)
            looks.append(spread.unflatten(-1, (grid.height, grid.width)))
        queries = prefix if self.prefix_only else None
        info: AttentionInfo | None = None
        if kept is None:
            seen = self.attn(frames, queries=queries)
        else:
            seen, info = self.attn.with_info(frames, queries=queries, key_bias=kept.key_bias())
        seen = self._drop(seen, rows=(0, 1))
        head = head + seen[:, :, :prefix].mean(dim=1)
        if self.prefix_only:
            x = head
        else:
            x = torch.cat([head, (patches + seen[:, :, prefix:]).flatten(1, 2)], dim=1)
        if reducer is not None:
            x, kept = reducer(x, info, kept)
        x = x + self._drop(self.mlp(self.norm2(x, grid.level)), rows=(0,))
        return x if kept is None else (x, kept)

    def _drop(self, x: Tensor, *, rows: tuple[int, ...]) -> Tensor:
        return drop_path(x, self.drop_path_rate, training=self.training, rows=rows)
