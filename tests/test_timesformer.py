"""The core against TimeSformer (arXiv:2102.05095), written out plainly."""

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor


def attention(x: Tensor, state: dict[str, Tensor], name: str, heads: int) -> Tensor:
    """Self-attention over the middle axis of x (M, N, D), one head after the other."""
    dim = x.shape[-1]
    q, k, v = (x @ state[f"{name}.qkv.weight"].T + state[f"{name}.qkv.bias"]).split(dim, dim=-1)
    seen, size = [], dim // heads
    for i in range(0, dim, size):
        scores = q[..., i : i + size] @ k[..., i : i + size].transpose(1, 2) / size**0.5
        seen.append(torch.exp(scores) / torch.exp(scores).sum(-1, keepdim=True) @ v[..., i : i + size])
    return torch.cat(seen, -1) @ state[f"{name}.proj.weight"].T + state[f"{name}.proj.bias"]


def norm(x: Tensor, state: dict[str, Tensor], name: str, level: int) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    x = x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6)
    return x * state[f"{name}.scale"][level] + state[f"{name}.shift"][level]


def linear(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def divided_timesformer(
    clips: Tensor, state: dict[str, Tensor], *, level: int, depth: int, heads: int
) -> Tensor:
    """The official recipe without a distillation token; tokens run over time fastest, as the authors' do."""
    frames = clips.shape[2]
    kernel = state[f"patch_embeds.{level}.proj.weight"]
    pictures = rearrange(clips, "b c t h w -> (b t) c h w")
    side, tokens = kernel.shape[-1], round((len(state[f"pos_tables.{level}"]) - 1) ** 0.5)
    margin = (side * tokens - clips.shape[-1]) // 2
    pictures = F.pad(pictures, (margin,) * 4)
    patches = rearrange(pictures, "m c (h p) (w q) -> m (h w) (c p q)", p=side, q=side)
    x = (
        patches @ kernel.flatten(1).T
        + state[f"patch_embeds.{level}.proj.bias"]
        + state[f"pos_tables.{level}"][1:]
    )
    x = rearrange(x, "(b t) n d -> (b n) t d", t=frames) + state["time_table"]
    x = rearrange(x, "(b n) t d -> b (n t) d", b=len(clips))
    first = (state["class_token"] + state[f"pos_tables.{level}"][0]).expand(len(clips), 1, -1)
    for i in range(depth):
        name = f"blocks.{i}"
        y = rearrange(x, "b (n t) d -> (b n) t d", t=frames)
        y = attention(norm(y, state, f"{name}.time.norm", level), state, f"{name}.time.attn", heads)
        x = x + linear(rearrange(y, "(b n) t d -> b (n t) d", b=len(clips)), state, f"{name}.time.fc")
        y = torch.cat(
            [repeat(first, "b 1 d -> (b t) 1 d", t=frames), rearrange(x, "b (n t) d -> (b t) n d", t=frames)],
            1,
        )
        y = attention(norm(y, state, f"{name}.norm1", level), state, f"{name}.attn", heads)
        y = rearrange(y, "(b t) n d -> b t n d", t=frames)
        x = torch.cat([first, x], 1)
        x = x + torch.cat([y[:, :, :1].mean(1), rearrange(y[:, :, 1:], "b t n d -> b (n t) d")], 1)
        y = linear(norm(x, state, f"{name}.norm2", level), state, f"{name}.mlp.fc1")
        x = x + linear(y * (1 + torch.erf(y / 2**0.5)) / 2, state, f"{name}.mlp.fc2")
        first, x = x[:, :1], x[:, 1:]
    return linear(norm(first[:, 0], state, "norm", level), state, "head")


def test_stochastic_depth_drops_a_place_of_time_attention_and_leaves_the_bias_behind_it(tiny):
    model = tiny(depth=1, crop=64, token_lengths=(8,))
    block, grid = model.blocks[0].train(), model.grids[0]
    block.time.drop_path_rate = 0.5
    torch.manual_seed(0)
    patches = torch.randn(4, 3, 64, 16, dtype=torch.float64)
    inputs = []
    block.time.fc.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    residual = block.time(patches, grid)
    whole = block.time.attn.over_time(block.time.norm(patches, 0))
    kept = inputs[0].abs().amax(dim=(1, 3)) > 0  # (B, S)
    assert 0.35 < kept.double().mean() < 0.65 and kept.any(dim=1).all()
    torch.testing.assert_close(inputs[0], whole * kept[:, None, :, None] / 0.5)
    dropped = residual.transpose(1, 2)[~kept]  # of a dropped place the bias of `fc` is left
    assert torch.equal(dropped, block.time.fc.bias.expand_as(dropped))


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("frames", [2, 5])
def test_divided_attention_is_the_papers_written_out_plainly(tiny, clips, frames, level):
    model = tiny(num_frames=frames, depth=3, distill_token=False)
    batch = clips(frames=frames)
    plain = divided_timesformer(batch, model.state_dict(), level=level, depth=3, heads=2)
    torch.testing.assert_close(model(batch, level), plain, rtol=1e-10, atol=1e-11)
