"""Divided attention as Motionformer has it (arXiv:2106.05392, its baseline "divided"); TimeSformer's differs.

Prefix tokens take part in both steps: they see every token of the clip and every patch sees them.
"""

import torch
from torch import Tensor, nn

from revit_video.layers.attention import Attention, attend
from revit_video.layers.block import Trunk, drop_path
from revit_video.types import TokenGrid


class GroupAttention(Attention):
    """Prefix tokens attend to all tokens; a patch to the prefix and to its group: the patches of its frame,
    or with `over_time` those of its place in all frames.

    Shape: x is (B, P + t*S, D), frame by frame; the result has the shape of x.
    """

    def __init__(self, dim: int, heads: int, *, qkv_bias: bool = True, over_time: bool) -> None:
        super().__init__(dim, heads, qkv_bias=qkv_bias)
        self.over_time = over_time

    def forward(self, x: Tensor, *, frames: int, prefix: int) -> Tensor:
        q, k, v = self.project(x)  # (B, A, P + t*S, d)
        head = attend(q[:, :, :prefix], k, v).transpose(1, 2).flatten(2)  # (B, P, D)
        queries = self._groups(q[:, :, prefix:], frames)  # (B, G, A, n, d)
        keys, values = (
            torch.cat([one[:, None, :, :prefix].expand(-1, queries.shape[1], -1, -1, -1), groups], dim=3)
            for one, groups in (
                (k, self._groups(k[:, :, prefix:], frames)),
                (v, self._groups(v[:, :, prefix:], frames)),
            )
        )
        # fused kernels take four axes
        seen = attend(*(one.flatten(0, 1) for one in (queries, keys, values)))  # (B*G, A, n, d)
        seen = seen.transpose(1, 2).flatten(2).unflatten(0, queries.shape[:2])  # (B, G, n, D)
        if self.over_time:
            seen = seen.transpose(1, 2)
        return self.proj(torch.cat([head, seen.flatten(1, 2)], dim=1))

    def _groups(self, x: Tensor, frames: int) -> Tensor:
        """Patches (B, A, t*S, d) by group: (B, t, A, S, d), over time (B, S, A, t, d)."""
        x = x.unflatten(2, (frames, -1))  # (B, A, t, S, d)
        return x.permute(0, 3, 1, 2, 4) if self.over_time else x.transpose(1, 2)


class MotionformerDividedBlock(nn.Module):
    """Time, space, MLP. Stochastic depth leaves the time step alone, as the official model does."""

    def __init__(self, trunk: Trunk, *, drop_path_rate: float, prefix_only: bool) -> None:
        super().__init__()
        self.drop_path_rate, self.prefix_only, self.scale = drop_path_rate, prefix_only, trunk.residual_scale
        self.time_norm = trunk.norm()
        self.time_attn = GroupAttention(trunk.dim, trunk.heads, qkv_bias=trunk.qkv_bias, over_time=True)
        self.norm1 = trunk.norm()
        self.attn = GroupAttention(trunk.dim, trunk.heads, qkv_bias=trunk.qkv_bias, over_time=False)
        self.norm2 = trunk.norm()
        self.mlp = trunk.mlp()

    def forward(
        self, x: Tensor, grid: TokenGrid, *, prefix: int, looks: list[Tensor] | None = None
    ) -> Tensor:
        seen = self.time_attn(self.time_norm(x, grid.level), frames=grid.frames, prefix=prefix)
        x = x + drop_path(seen, 0.0, training=self.training, scale=self.scale)
        tokens = self.norm1(x, grid.level)
        if looks is not None:
            spread = self.attn.looks(tokens, prefix=prefix)  # (B, A, t*S)
            looks.append(spread.unflatten(-1, (grid.frames, grid.height, grid.width)))
        if self.prefix_only:
            x = x[:, :prefix]
            seen = Attention.forward(self.attn, tokens, queries=prefix)
        else:
            seen = self.attn(tokens, frames=grid.frames, prefix=prefix)
        x = x + self._drop(seen)
        return x + self._drop(self.mlp(self.norm2(x, grid.level)))

    def _drop(self, x: Tensor) -> Tensor:
        return drop_path(x, self.drop_path_rate, training=self.training, scale=self.scale)
