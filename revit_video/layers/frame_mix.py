"""The second half of trajectory attention (arXiv:2106.05392, section 3.2): along the trajectory of a token.

A token i that went through every frame f has a summary t[i, f] of each, D wide. Its heads a ask which frames
to read:

    score[i, a, f] = q[i, a] . (W_k[a] t[i, f])  =  (W_k[a]^T q[i, a]) . t[i, f]  =  u[i, a] . t[i, f]
    out[i, a]      = sum over f of softmax_f(score)[i, a, f] * t[i, f, a]        (head a's own part of t), or
                     W_v[a] (sum over f of softmax_f(score)[i, a, f] * t[i, f])  (with a value weight)

The left form of the score projects every summary, F * D * D multiply-adds per token; the right one projects
the query, D * D + A * F * D. Same numbers. u is A * D wide per token, so it is made for a few tokens at a
time, and made again on the way back instead of being kept.
"""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_BYTES = {"cpu": 4 << 20}  # of u: stays in the cache, and below what malloc gives back to the system
ANY_DEVICE = 256 << 20


def mix_frames(
    q: Tensor, seen: Sequence[Tensor], key_weight: Tensor, value_weight: Tensor | None = None
) -> Tensor:
    """The weighted sum over frames, heads merged: (M, D).

    Args:
        q: scaled queries (M, A, d) of M tokens.
        seen: their summaries t, (M, D) of every frame, heads merged.
        key_weight: W_k (D, D), rows split among the heads.
        value_weight: W_v (D, D) likewise, or None to sum the summaries themselves.
    """
    heads, size = q.shape[1:]
    kind, device = seen[0].dtype, seen[0].device.type
    q = q.to(kind)
    weights = [key_weight, value_weight] if value_weight is not None else [key_weight]
    weights = [weight.to(kind).unflatten(0, (heads, size)) for weight in weights]  # (A, d, D)
    key, value = (*weights, None)[:2]
    has_autocast = torch.amp.is_autocast_available(device)  # the meta device has none
    with torch.autocast(device, enabled=False) if has_autocast else nullcontext():
        if torch.is_grad_enabled() and any(one.requires_grad for one in (q, *seen, *weights)):
            return FrameMix.apply(q, key, value, *seen)
        return _mix(q, seen, key, value)


def _mix(q: Tensor, seen: Sequence[Tensor], key_weight: Tensor, value_weight: Tensor | None) -> Tensor:
    rows = chunk_rows(q)
    chunks = zip(q.split(rows), *(one.split(rows) for one in seen), strict=True)
    return torch.cat([_mix_chunk(one, some, key_weight, value_weight) for one, *some in chunks])


def _mix_chunk(q: Tensor, seen: Sequence[Tensor], key_weight: Tensor, value_weight: Tensor | None) -> Tensor:
    t = torch.stack(seen, dim=1)  # (m, F, D); of all tokens it would leave the cache
    weights, _ = _frame_weights(q, t, key_weight)
    if value_weight is not None:
        return _per_head(weights @ t, value_weight.transpose(1, 2)).flatten(1)
    out = torch.zeros_like(q)
    for frame, one in enumerate(seen):
        out = torch.addcmul(out, weights[:, :, frame, None], one.unflatten(-1, q.shape[1:]))
    return out.flatten(1)


def _frame_weights(q: Tensor, t: Tensor, key_weight: Tensor) -> tuple[Tensor, Tensor]:
    """softmax_f(u . t) as (m, A, F), and u (m, A, D)."""
    u = _per_head(q, key_weight)
    return (u @ t.transpose(1, 2)).softmax(dim=-1), u


def _per_head(x: Tensor, weight: Tensor) -> Tensor:
    """x (m, A, i) times each head's weight (A, i, o): (m, A, o)."""
    return (x.transpose(0, 1) @ weight).transpose(0, 1)


def chunk_rows(q: Tensor) -> int:
    """How many tokens at a time."""
    heads, size = q.shape[1:]
    bytes_per_token = heads * heads * size * q.element_size()
    rows = CHUNK_BYTES.get(q.device.type, ANY_DEVICE) // bytes_per_token
    return max(1, rows // 32 * 32 or rows)  # whole tiles of the matrix units


class FrameMix(torch.autograd.Function):
    """`mix_frames` for training: keeps its inputs alone; the rest is computed again, chunk by chunk.

    Autograd over the same lines keeps u of all tokens, 58 MB per block of Motionformer-B in float32, and is
    slower: 1.1 to 1.4 times as long (float32 and bfloat16, forward and backward, one core of a Xeon).
    """

    @staticmethod
    def forward(ctx, q: Tensor, key_weight: Tensor, value_weight: Tensor | None, *seen: Tensor) -> Tensor:
        ctx.save_for_backward(q, key_weight, value_weight, *seen)
        return _mix(q, seen, key_weight, value_weight)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        q, key_weight, value_weight, *seen = ctx.saved_tensors
        grad = grad.unflatten(-1, q.shape[1:])  # (M, A, d)
        wide = torch.promote_types(q.dtype, torch.float32)  # sums over chunks
        d_q, d_seen = torch.empty_like(q), [torch.empty_like(one) for one in seen]
        d_key = torch.zeros_like(key_weight, dtype=wide)
        d_value = None if value_weight is None else torch.zeros_like(value_weight, dtype=wide)
        rows = chunk_rows(q)
        for start in range(0, len(q), rows):
            part = slice(start, start + rows)
            t = torch.stack([one[part] for one in seen], dim=1)  # (m, F, D)
            weights, u = _frame_weights(q[part], t, key_weight)
            if value_weight is None:
                d_weights = _pair_heads(grad[part], t)
            else:
                back = _per_head(grad[part], value_weight)  # (m, A, D)
                d_weights = back @ t.transpose(1, 2)
                d_value += _weight_grad(grad[part], weights @ t)
            d_scores = weights * (d_weights - (weights * d_weights).sum(-1, keepdim=True))
            d_u = d_scores @ t  # (m, A, D)
            d_q[part] = _per_head(d_u, key_weight.transpose(1, 2))
            d_key += _weight_grad(q[part], d_u)
            d_t = d_scores.transpose(1, 2) @ u  # (m, F, D)
            if value_weight is None:
                by_head = d_t.unflatten(-1, q.shape[1:])
                for frame in range(len(seen)):
                    by_head[:, frame].addcmul_(weights[:, :, frame, None], grad[part])
            else:
                d_t += weights.transpose(1, 2) @ back
            for frame, one in enumerate(d_seen):
                one[part] = d_t[:, frame]
        d_value = None if d_value is None else d_value.to(q.dtype)
        return d_q, d_key.to(q.dtype), d_value, *d_seen


def _pair_heads(x: Tensor, t: Tensor) -> Tensor:
    """x (m, A, d) dot head a's part of t (m, F, D): (m, A, F)."""
    by_head = t.unflatten(-1, x.shape[1:])
    return torch.stack([(x * by_head[:, frame]).sum(-1) for frame in range(t.shape[1])], dim=-1)


def _weight_grad(x: Tensor, grad: Tensor) -> Tensor:
    """Gradient of each head's weight from its input (m, A, i) and output (m, A, o): (A, i, o)."""
    return x.permute(1, 2, 0) @ grad.transpose(0, 1)
