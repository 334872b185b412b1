"""Multi-head self-attention and the choice of its kernel."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from revit_video.layers.reduce import AttentionInfo
from revit_video.types import InputError

SHORT_SEQUENCE = 12  # keys; up to here two matrix products beat the fused kernel in bfloat16 on a CPU


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v for q (..., A, Nq, d) and k, v (..., A, Nk, d): (..., A, Nq, d).

    bias: (..., A, Nq, Nk) with all axes, each of its size or of 1; None adds nothing.

    The kernel follows device and shape, by measurement (docs/performance.md): in bfloat16 on a CPU the fused
    kernel has a slow backward, and loses to two matrix products on short sequences (time attention).
    """
    bias = None if bias is None else bias.to(q.dtype)
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        training = q.requires_grad and torch.is_grad_enabled()
        if training or k.shape[-2] <= SHORT_SEQUENCE:
            scores = q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)
            return (scores if bias is None else scores + bias).softmax(dim=-1) @ v
    # torch's fused kernels take exactly four axes; else it takes plain products, 3 to 5 times slower here.
    batch = q.shape[:-2]
    if bias is not None and bias.ndim > 4:
        bias = bias.expand(*batch[:-1], *bias.shape[-3:]).flatten(0, -4)
    mask = {} if bias is None else {"attn_mask": bias}
    q, k, v = (x.reshape(-1, *x.shape[-3:]) if x.ndim > 3 else x[(None,) * (4 - x.ndim)] for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, **mask).reshape(*batch, *q.shape[-2:])


class Attention(nn.Module):
    """Self-attention over the second to last axis; all axes before it are batch.

    Shape: x is (..., N, D). With `queries=n` only the first n tokens ask (all N are keys): (..., n, D).
    """

    def __init__(self, dim: int, heads: int, *, qkv_bias: bool = True) -> None:
        super().__init__()
        if dim % heads:
            raise InputError(
                f"dim={dim} is no multiple of heads={heads}; each head takes an equal part of it"
            )
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, *, queries: int | None = None) -> Tensor:
        q, k, v = self.project(x, queries=queries)
        return self.proj(attend(q, k, v).transpose(-3, -2).flatten(-2))

    def with_info(
        self, x: Tensor, *, queries: int | None = None, key_bias: Tensor | None = None
    ) -> tuple[Tensor, AttentionInfo]:
        """`forward` with what a reducer reads of it. `key_bias` (B, N), which may lack axes of x between its
        first and its last two, is added to the scores of each key.
        """
        q, k, v = self.project(x, queries=queries)
        if key_bias is not None:
            key_bias = key_bias.reshape(len(x), *(1,) * (x.ndim - 1), -1)
        return self.proj(attend(q, k, v, key_bias).transpose(-3, -2).flatten(-2)), AttentionInfo(q, k)

    def over_time(self, x: Tensor) -> Tensor:
        """Self-attention over the frames of x (B, T, S, D), every place apart; the result is (B, T, S, D).

        The linear layers see the tokens as they lie in memory. A transposed input costs a copy at best; where
        the weights need no gradient (bfloat16 autocast without training) torch copies them for every place.
        """
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # (B, T, S, 3, A, d)
        q, k, v = qkv.permute(3, 0, 2, 4, 1, 5)  # (B, S, A, T, d) each
        return self.proj(attend(q, k, v).permute(0, 3, 1, 2, 4).flatten(-2))

    def project(self, x: Tensor, *, queries: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (..., A, n, d), keys and values (..., A, N, d)."""
        if queries is None:
            qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # (..., N, 3, A, d)
            q, k, v = qkv.unbind(-3)
        else:
            dim = x.shape[-1]
            weight, bias = self.qkv.weight, self.qkv.bias
            q = F.linear(x[..., :queries, :], weight[:dim], None if bias is None else bias[:dim])
            kv = F.linear(x, weight[dim:], None if bias is None else bias[dim:])
            q = q.unflatten(-1, (self.heads, -1))
            k, v = kv.unflatten(-1, (2, self.heads, -1)).unbind(-3)
        return q.transpose(-3, -2), k.transpose(-3, -2), v.transpose(-3, -2)

    def looks(self, x: Tensor, *, prefix: int) -> Tensor:
        """How the first token's attention spreads over the tokens after the prefix: (..., A, N - prefix)."""
        q, k, _ = self.project(x, queries=1)
        return self.rows(q, k)[..., 0, prefix:]

    @staticmethod
    def rows(q: Tensor, k: Tensor) -> Tensor:
        """The attention of queries (..., A, n, d) over keys (..., A, N, d) as numbers: (..., A, n, N)."""
        return (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1)
