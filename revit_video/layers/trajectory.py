"""Trajectory attention (Motionformer, arXiv:2106.05392, section 3.2), exactly, for half its multiply-adds.

For every patch i: (1) attention over the patches of each frame f alone gives t[i, f], what i became there;
(2) along the trajectory t[i, :], attention from i's own frame over the frames.

Facts from the paper and official outputs; own code.
"""

import torch
from torch import Tensor, nn

from revit_video.layers.attention import Attention, attend
from revit_video.layers.block import Trunk, drop_path
from revit_video.layers.frame_mix import mix_frames
from revit_video.layers.orthoformer import landmark_attend
from revit_video.layers.reduce import TUBES, AttentionInfo, TokenReducer, TokenState
from revit_video.types import InputError, TokenGrid

MODES = ("original", "fixed")


class TrajectoryAttention(Attention):
    """Trajectory attention among patches; prefix tokens see all tokens and are seen by prefix tokens only.

    Args:
        mode: "original" sums the summaries t themselves over the frames, as the released weights want it;
            "fixed" sums their values, W_v t. W_v comes after the sum here, which is the same, as it is linear
            and the weights of the frames add up to 1.
        landmarks: M of the orthoformer approximation of step 1, or None for exact attention.
        prefix_only: compute the prefix tokens alone; the weights of step 2 are not there then.

    Shape: x is (B, P + t*S, D), frame by frame; the result (B, P + t*S, D), or (B, P, D) with `prefix_only`.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        qkv_bias: bool = True,
        mode: str = "original",
        landmarks: int | None = None,
        prefix_only: bool = False,
    ) -> None:
        super().__init__(dim, heads, qkv_bias=qkv_bias)
        if mode not in MODES:
            raise InputError(f"trajectory mode is {mode!r}, but must be one of: {', '.join(MODES)}")
        whole = isinstance(landmarks, int) and not isinstance(landmarks, bool)
        if landmarks is not None and not (whole and landmarks > 0):
            raise InputError(
                f"landmarks is {landmarks!r}, but must be a number of at least 1 (the paper's is 128), "
                "or null for exact attention"
            )
        self.landmarks, self.prefix_only, self.proj_v = landmarks, prefix_only, None
        if not prefix_only:
            self.proj_q = nn.Linear(dim, dim, bias=qkv_bias)
            self.proj_k = nn.Linear(dim, dim, bias=False)  # a bias adds the same to every frame's score
            if mode == "fixed":
                self.proj_v = nn.Linear(dim, dim, bias=qkv_bias)

    def forward(self, x: Tensor, *, frames: int, prefix: int) -> Tensor:
        if self.prefix_only:
            return super().forward(x, queries=prefix)
        return self.with_tubes(x, frames=frames, prefix=prefix)[0]

    def with_tubes(
        self, x: Tensor, *, frames: int, prefix: int, key_bias: Tensor | None = None
    ) -> tuple[Tensor, AttentionInfo]:
        """`forward` with what a reducer reads of it. `key_bias` (B, P + S) is the same in all frames; along a
        trajectory it is the same for all keys, so it plays no part there.
        """
        bias = own = None
        if key_bias is not None:
            own = key_bias[:, None, None, prefix:]  # (B, 1, 1, S)
            bias = torch.cat([key_bias[:, None, None, :prefix], own.repeat(1, 1, 1, frames)], dim=3)
        if self.prefix_only:
            q, k, v = self.project(x, queries=prefix)
            return self.proj(attend(q, k, v, bias).transpose(1, 2).flatten(2)), AttentionInfo(q, k)
        q, k, v = self.project(x)  # (B, A, P + t*S, d)
        head = attend(q[:, :, :prefix], k, v, bias).transpose(1, 2).flatten(2)  # (B, P, D)
        t = self._through_frames(*(one[:, :, prefix:] for one in (q, k, v)), frames=frames, bias=own)
        patches = self._along(t)
        return self.proj(torch.cat([head, patches], dim=1)), AttentionInfo(q, k)

    def _through_frames(
        self, q: Tensor, k: Tensor, v: Tensor, *, frames: int, bias: Tensor | None = None
    ) -> list[Tensor]:
        """What every patch sees in each frame, heads merged: one (B, t*S, D) per frame.

        One call per target frame: the scores of all frames at once do not fit a CPU's caches and take 2 to 4
        times as long (docs/performance.md).
        """
        if self.landmarks is not None:
            seen = landmark_attend(q, k, v, frames=frames, landmarks=self.landmarks)
        else:
            pairs = zip(k.chunk(frames, dim=2), v.chunk(frames, dim=2), strict=True)
            seen = [attend(q, k_frame, v_frame, bias) for k_frame, v_frame in pairs]
        return [one.transpose(1, 2).flatten(2) for one in seen]

    def _along(self, seen: list[Tensor]) -> Tensor:
        """Attention along the trajectory, asked by what the patch sees in its own frame: (B, t*S, D)."""
        own = [frame.chunk(len(seen), dim=1)[i] for i, frame in enumerate(seen)]  # (B, S, D) each
        q = self.proj_q(torch.cat(own, dim=1)).unflatten(-1, (self.heads, -1))  # (B, t*S, A, d)
        value_weight = None if self.proj_v is None else self.proj_v.weight
        q = (q * q.shape[-1] ** -0.5).flatten(0, 1)
        t = [frame.flatten(0, 1) for frame in seen]  # (B*t*S, D) each
        out = mix_frames(q, t, self.proj_k.weight, value_weight)
        if self.proj_v is not None and self.proj_v.bias is not None:
            out = out + self.proj_v.bias.to(out.dtype)
        return out.unflatten(0, (len(seen[0]), -1))


class TrajectoryBlock(nn.Module):
    """Pre-norm block around trajectory attention."""

    def __init__(
        self,
        trunk: Trunk,
        *,
        drop_path_rate: float,
        prefix_only: bool,
        mode: str = "original",
        landmarks: int | None = None,
    ) -> None:
        super().__init__()
        self.drop_path_rate, self.prefix_only, self.scale = drop_path_rate, prefix_only, trunk.residual_scale
        self.norm1 = trunk.norm()
        self.attn = TrajectoryAttention(
            trunk.dim,
            trunk.heads,
            qkv_bias=trunk.qkv_bias,
            mode=mode,
            landmarks=landmarks,
            prefix_only=prefix_only,
        )
        self.norm2 = trunk.norm()
        self.mlp = trunk.mlp()

    @property
    def reduces(self) -> str | None:
        """Tubes, so that every frame keeps the same places; landmarks stand for tokens of one size."""
        return TUBES if self.attn.landmarks is None else None

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
        tokens = self.norm1(x, grid.level)
        if kept is not None:
            bias = kept.key_bias()
            seen, info = self.attn.with_tubes(tokens, frames=grid.frames, prefix=prefix, key_bias=bias)
            x = x[:, : seen.shape[1]] + self._drop(seen)
            if reducer is not None:
                x, kept = reducer(x, info, kept)
            return x + self._drop(self.mlp(self.norm2(x, grid.level))), kept
        if looks is not None:
            spread = self.attn.looks(tokens, prefix=prefix)  # (B, A, t*S)
            looks.append(spread.unflatten(-1, (grid.frames, grid.height, grid.width)))
        seen = self.attn(tokens, frames=grid.frames, prefix=prefix)
        x = x[:, : seen.shape[1]] + self._drop(seen)
        return x + self._drop(self.mlp(self.norm2(x, grid.level)))

    def _drop(self, x: Tensor) -> Tensor:
        return drop_path(x, self.drop_path_rate, training=self.training, scale=self.scale)
