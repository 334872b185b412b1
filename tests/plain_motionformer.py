"""Motionformer's attentions as their equations read, for tests and benchmarks: no tricks, nothing reordered.

Tokens are (B, P + F*N, D), frame by frame. `state` holds the weights under the official names.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def official_state(block: nn.Module, leaves: dict[str, Tensor], level: int = 0) -> dict[str, Tensor]:
    """Our weights `leaves` of a block (its named parameters, or copies) under the official names.

    What we do not have is made up: the bias of proj_kv's keys, and all of its values in mode "original".
    """
    state = {}
    for name, leaf in leaves.items():
        name = name.replace("time_norm", "norm3").replace("time_attn", "timeattn")
        state[name.replace("scale", "weight").replace("shift", "bias")] = (
            leaf[level] if "norm" in name else leaf
        )
    if "attn.proj_k.weight" in state:
        keys = state.pop("attn.proj_k.weight")
        values = state.pop("attn.proj_v.weight", keys.detach().flip(0))
        bias = state.pop("attn.proj_v.bias", keys.detach()[0])
        state["attn.proj_kv.weight"] = torch.cat([keys, values])
        state["attn.proj_kv.bias"] = torch.cat([keys.detach()[1], bias])
    return state


def trajectory_block(x: Tensor, state: dict[str, Tensor], *, heads: int, frames: int, prefix: int, mode: str):
    y = trajectory_attention(
        _norm(x, state, "norm1"), state, heads=heads, frames=frames, prefix=prefix, mode=mode
    )
    return _mlp(x + y, state)


def divided_block(x: Tensor, state: dict[str, Tensor], *, heads: int, frames: int, prefix: int):
    """Time, then space; in both, the prefix sees all tokens and is a key of every patch."""
    for name, norm, over_time in (("timeattn", "norm3", True), ("attn", "norm1", False)):
        total = x.shape[1] - prefix
        token = torch.arange(total)
        group = token % (total // frames) if over_time else token // (total // frames)
        allowed = torch.ones(total + prefix, total + prefix, dtype=torch.bool)
        allowed[prefix:, prefix:] = group[:, None] == group
        q, k, v = _split(_linear(_norm(x, state, norm), state, f"{name}.qkv"), 3, heads)
        scores = torch.einsum("bqad,bkad->baqk", q, k) / q.shape[-1] ** 0.5
        seen = scores.masked_fill(~allowed, float("-inf")).softmax(-1)
        y = torch.einsum("baqk,bkad->bqad", seen, v).flatten(2)
        x = x + _linear(y, state, f"{name}.proj")
    return _mlp(x, state)


def trajectory_attention(
    x: Tensor, state: dict[str, Tensor], *, heads: int, frames: int, prefix: int, mode: str
) -> Tensor:
    q, k, v = _split(_linear(x, state, "attn.qkv"), 3, heads)  # (B, P + F*N, A, d)
    scale = q.shape[-1] ** -0.5
    seen = torch.einsum("bpad,bkad->bapk", q[:, :prefix] * scale, k).softmax(-1)
    head = torch.einsum("bapk,bkad->bpad", seen, v).flatten(2)

    q, k, v = q[:, prefix:] * scale, k[:, prefix:], v[:, prefix:]
    k, v = k.unflatten(1, (frames, -1)), v.unflatten(1, (frames, -1))  # (B, F, N, A, d)
    seen = torch.einsum("bsad,bfnad->basfn", q, k).softmax(-1)
    t = torch.einsum("basfn,bfnad->bsfad", seen, v).flatten(-2)  # (B, S, F, D)

    frame_of = torch.arange(frames).repeat_interleave(t.shape[1] // frames)
    own = t[:, torch.arange(t.shape[1]), frame_of]  # (B, S, D)
    q2 = _linear(own, state, "attn.proj_q").unflatten(-1, (heads, -1)) * scale
    k2, v2 = _split(_linear(t, state, "attn.proj_kv"), 2, heads)  # (B, S, F, A, d)
    along = torch.einsum("bsad,bsfad->basf", q2, k2).softmax(-1)
    summed = t.unflatten(-1, (heads, -1)) if mode == "original" else v2
    out = torch.einsum("basf,bsfad->bsad", along, summed).flatten(2)
    return _linear(torch.cat([head, out], 1), state, "attn.proj")


def _split(x: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """(..., parts * D) to `parts` tensors (..., A, d)."""
    return x.unflatten(-1, (parts, heads, -1)).unbind(-3)


def _mlp(x: Tensor, state: dict[str, Tensor]) -> Tensor:
    y = F.gelu(_linear(_norm(x, state, "norm2"), state, "mlp.fc1"))
    return x + _linear(y, state, "mlp.fc2")


def _norm(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)


def _linear(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))
