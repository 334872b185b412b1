"""TimeSformer and Motionformer written as their papers' equations read, to be measured against.

Every step in the papers' order and layout, by matrix products, einsum and softmax: what a good programmer
writes first, with nothing fused, skipped or reordered. The functions take the state dict of a `ReViT` without
a distillation token, so that both sides share their weights; the results are equal but for rounding. Facts
from the papers (arXiv:2102.05095, arXiv:2106.05392) and official outputs; own code.
"""

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

State = dict[str, Tensor]
EPS = 1e-6  # of every norm


class Plain(nn.Module):
    """The equations as a module `module(clips, level)` with own copies of a ReViT's weights.

    Args:
        state: the ReViT's state dict.
        family: a key of FAMILIES.
        heads: of every attention, A.
    """

    def __init__(self, state: State, *, family: str, heads: int) -> None:
        super().__init__()
        self.equations, self.heads = FAMILIES[family], heads
        copies = {name: tensor.detach().clone() for name, tensor in state.items()}
        if family == "motionformer":
            add_dead_weights(copies)
        self.state = {name: nn.Parameter(copy) for name, copy in copies.items()}
        self.weights = nn.ParameterList(self.state.values())  # so that `to` and `parameters` find them

    def forward(self, clips: Tensor, level: int = 0) -> Tensor:
        return self.equations(clips, self.state, level=level, heads=self.heads)


def timesformer(clips: Tensor, state: State, *, level: int, heads: int) -> Tensor:
    """Divided space-time attention: clips (B, C, T, H, W) to logits (B, K).

    Tokens are (B, 1 + S*T, D), time fastest, as in the paper's code; S patches of a frame, T frames.
    """
    patches = embed(clips, state, level)  # (B, T, S, D)
    positions, frames = state[f"pos_tables.{level}"], clips.shape[2]
    first = (state["class_token"] + positions[0]).expand(len(clips), 1, -1)
    x = rearrange(patches + positions[1:], "b t s d -> (b s) t d") + state["time_table"]
    x = torch.cat([first.to(x.dtype), rearrange(x, "(b s) t d -> b (s t) d", b=len(clips))], dim=1)
    for block in blocks(state):
        x = divided_block(x, state, block, level=level, heads=heads, frames=frames)
    return linear(norm(x, state, "norm", level)[:, 0], state, "head")


def divided_block(x: Tensor, state: State, block: str, *, level: int, heads: int, frames: int) -> Tensor:
    """Time attention of the patches, space attention with the class token in every frame, MLP."""
    batch = len(x)
    first, patches = x[:, :1], x[:, 1:]
    y = rearrange(patches, "b (s t) d -> (b s) t d", t=frames)
    y = self_attention(norm(y, state, f"{block}.time.norm", level), state, f"{block}.time.attn", heads)
    y = linear(rearrange(y, "(b s) t d -> b (s t) d", b=batch), state, f"{block}.time.fc")
    patches = patches + y

    y = rearrange(patches, "b (s t) d -> (b t) s d", t=frames)
    y = torch.cat([repeat(first, "b 1 d -> (b t) 1 d", t=frames), y], dim=1)
    y = self_attention(norm(y, state, f"{block}.norm1", level), state, f"{block}.attn", heads)
    seen = rearrange(y[:, 0], "(b t) d -> b t d", t=frames).mean(dim=1, keepdim=True)
    y = rearrange(y[:, 1:], "(b t) s d -> b (s t) d", t=frames)
    x = torch.cat([first, patches], dim=1) + torch.cat([seen, y], dim=1)
    return x + mlp(norm(x, state, f"{block}.norm2", level), state, f"{block}.mlp")


def self_attention(
    x: Tensor, state: State, name: str, heads: int, *, allowed: Tensor | None = None
) -> Tensor:
    """Multi-head attention over the middle axis of x (M, N, D); `allowed` (N, N) bool: who asks whom."""
    qkv = linear(x, state, f"{name}.qkv")
    q, k, v = rearrange(qkv, "m n (three a d) -> three m a n d", three=3, a=heads)
    scores = q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)
    if allowed is not None:
        scores = scores.masked_fill(~allowed, float("-inf"))
    return linear(rearrange(scores.softmax(dim=-1) @ v, "m a n d -> m n (a d)"), state, f"{name}.proj")


def motionformer(clips: Tensor, state: State, *, level: int, heads: int) -> Tensor:
    """Trajectory attention: clips (B, C, T, H, W) to logits (B, K).

    Tokens are (B, 1 + F*S, D), frame by frame; F planes of tubelets, S patches of a plane.
    """
    patches = rearrange(embed(clips, state, level), "b f s d -> b (f s) d")
    positions, times = state[f"pos_tables.{level}"], state["time_table"]
    spatial = positions[1:].repeat(len(times), 1)
    temporal = times.repeat_interleave(len(positions) - 1, dim=0)
    first = (state["class_token"] + positions[0]).expand(len(clips), 1, -1)
    x = patches + spatial + temporal
    x = torch.cat([first.to(x.dtype), x], dim=1)
    for block in blocks(state):
        x = trajectory_block(x, state, block, level=level, heads=heads, frames=len(times))
    summary = norm(x, state, "norm", level)[:, 0]
    if "pre_logits.weight" in state:
        summary = torch.tanh(linear(summary, state, "pre_logits"))
    return linear(summary, state, "head")


def trajectory_block(
    x: Tensor, state: State, block: str, *, level: int, heads: int, frames: int, prefix: int = 1
) -> Tensor:
    """Trajectory attention, then the MLP: x is (B, P + F*S, D), P tokens in front of the patches."""
    y = norm(x, state, f"{block}.norm1", level)
    x = x + trajectory_attention(y, state, f"{block}.attn", heads=heads, frames=frames, prefix=prefix)
    return x + mlp(norm(x, state, f"{block}.norm2", level), state, f"{block}.mlp")


def trajectory_attention(
    x: Tensor, state: State, name: str, *, heads: int, frames: int, prefix: int = 1
) -> Tensor:
    """Section 3.2 of the paper: each query pools every frame by itself (its trajectory), then attends along.

    x is (B, P + F*S, D), S here the patches of one frame. Where the state has `proj_v`, values along the
    trajectory are projected ("fixed"), else they are the pooled tokens themselves, as in the released models.
    """
    qkv = linear(x, state, f"{name}.qkv")
    q, k, v = rearrange(qkv, "b n (three a d) -> three b a n d", three=3, a=heads)
    scale = q.shape[-1] ** -0.5
    q = q * scale
    summary = (q[:, :, :prefix] @ k.transpose(-2, -1)).softmax(dim=-1) @ v  # (B, A, P, d)

    q, k, v = q[:, :, prefix:], k[:, :, prefix:], v[:, :, prefix:]
    scores = q @ k.transpose(-2, -1)  # (B, A, F*S, F*S)
    spread = rearrange(scores, "b a q (f s) -> b a q f s", f=frames).softmax(dim=-1)
    pooled = torch.einsum("baqfs,bafsd->baqfd", spread, rearrange(v, "b a (f s) d -> b a f s d", f=frames))
    trajectories = rearrange(pooled, "b a q f d -> b q f (a d)")  # (B, F*S, F, D)

    own = rearrange(trajectories, "b (g s) f d -> b s d g f", g=frames).diagonal(dim1=-2, dim2=-1)
    own = rearrange(own, "b s d f -> b (f s) d")  # the token of the query's own frame
    q2 = rearrange(linear(own, state, f"{name}.proj_q"), "b q (a d) -> b a q d", a=heads)
    k2, v2 = linear(trajectories, state, f"{name}.proj_kv").chunk(2, dim=-1)
    k2 = rearrange(k2, "b q f (a d) -> b a q f d", a=heads)
    along = torch.einsum("baqd,baqfd->baqf", q2 * scale, k2).softmax(dim=-1)
    if f"{name}.proj_v.weight" in state:
        pooled = rearrange(v2, "b q f (a d) -> b a q f d", a=heads)
    seen = torch.einsum("baqf,baqfd->baqd", along, pooled)
    merged = rearrange(torch.cat([summary, seen], dim=2), "b a n d -> b n (a d)")
    return linear(merged, state, f"{name}.proj")


def motionformer_divided_block(
    x: Tensor, state: State, block: str, *, level: int, heads: int, frames: int, prefix: int = 1
) -> Tensor:
    """Motionformer's form of divided attention: time, then space, then the MLP. In both steps a token of the
    prefix asks all tokens, and a patch those of the prefix and of its own place, or of its own frame.
    """
    total = x.shape[1] - prefix
    token = torch.arange(total, device=x.device)
    for name, before, group in (
        ("time_attn", "time_norm", token % (total // frames)),
        ("attn", "norm1", token // (total // frames)),
    ):
        allowed = torch.ones(2 * [prefix + total], dtype=torch.bool, device=x.device)
        allowed[prefix:, prefix:] = group[:, None] == group
        y = norm(x, state, f"{block}.{before}", level)
        x = x + self_attention(y, state, f"{block}.{name}", heads, allowed=allowed)
    return x + mlp(norm(x, state, f"{block}.norm2", level), state, f"{block}.mlp")


def add_dead_weights(state: State) -> None:
    """Add what the equations compute and no logit depends on, at random, so that the check would see it.

    That is `proj_kv` where a ReViT has `proj_k` (and in mode `fixed` proj_v): the bias of the keys, which
    cancels in the softmax, and the values of mode `original`; and in a last block that computes the class
    token alone all three projections.
    """
    generator = torch.Generator().manual_seed(0)
    like = state[f"{blocks(state)[0]}.attn.qkv.weight"]
    dim = like.shape[1]

    def draw(*shape: int) -> Tensor:
        return (torch.randn(shape, generator=generator) * dim**-0.5).to(like)

    for block in blocks(state):
        name = f"{block}.attn"
        state.setdefault(f"{name}.proj_q.weight", draw(dim, dim))
        state.setdefault(f"{name}.proj_q.bias", draw(dim))
        parts = [state.pop(f"{name}.proj_k.weight", None), state.get(f"{name}.proj_v.weight")]
        parts = [draw(dim, dim) if part is None else part for part in parts]
        state[f"{name}.proj_kv.weight"] = torch.cat(parts)
        bias = state.get(f"{name}.proj_v.bias")
        state[f"{name}.proj_kv.bias"] = torch.cat([draw(dim), draw(dim) if bias is None else bias])


FAMILIES = {"timesformer": timesformer, "motionformer": motionformer}


def embed(clips: Tensor, state: State, level: int) -> Tensor:
    """Patches of every frame, or of every tubelet: (B, C, T, H, W) to (B, t, S, D)."""
    weight, bias = (state[f"patch_embeds.{level}.proj.{part}"] for part in ("weight", "bias"))
    side = round((len(state[f"pos_tables.{level}"]) - 1) ** 0.5)
    clips = pad(clips, side, weight.shape[-1])
    if weight.ndim == 5:
        x = F.conv3d(clips, weight, bias, stride=weight.shape[2:])
        return rearrange(x, "b d t h w -> b t (h w) d")
    x = F.conv2d(rearrange(clips, "b c t h w -> (b t) c h w"), weight, bias, stride=weight.shape[2:])
    return rearrange(x, "(b t) d h w -> b t (h w) d", b=len(clips))


def pad(pictures: Tensor, tokens: int, patch: int) -> Tensor:
    """Zeros around the pictures (..., H, W), so that `tokens` patches fit along each side."""
    margin = patch * tokens - pictures.shape[-1]
    before, after = margin // 2, margin - margin // 2
    return F.pad(pictures, (before, after, before, after)) if margin else pictures


def blocks(state: State) -> list[str]:
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    return [f"blocks.{i}" for i in range(depth)]


def linear(x: Tensor, state: State, name: str) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def norm(x: Tensor, state: State, name: str, level: int) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.scale"][level], state[f"{name}.shift"][level], EPS)


def mlp(x: Tensor, state: State, name: str) -> Tensor:
    return linear(F.gelu(linear(x, state, f"{name}.fc1")), state, f"{name}.fc2")
