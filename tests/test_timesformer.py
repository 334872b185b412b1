"""The core against TimeSformer (arXiv:2102.05095): written out plainly, its official outputs, its cost."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from revit_video.backbones.core import ReViT
from revit_video.backbones.costs import cost_rows
from revit_video.backbones.zoo import create_model
from revit_video.report.macs import count_macs, count_macs_torch, image_vit_macs, timesformer_macs

PARITY = Path(__file__).parents[2] / "shared" / "parity" / "video"
OFFICIAL = ["ts_divided", "ts_divided_T6", "ts_divided_T8", "ts_divided_p16_d96", "ts_divided_p16_d96_res32"]
OFFICIAL += ["ts_divided_res24", "ts_divided_res48", "ts_joint"]
ATTENTION = {"divided_space_time": "divided", "joint_space_time": "joint"}


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


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("frames", [2, 5])
def test_divided_attention_is_the_papers_written_out_plainly(tiny, clips, frames, level):
    model = tiny(num_frames=frames, depth=3, distill_token=False)
    batch = clips(frames=frames)
    plain = divided_timesformer(batch, model.state_dict(), level=level, depth=3, heads=2)
    torch.testing.assert_close(model(batch, level), plain, rtol=1e-10, atol=1e-11)


def nearest(table: Tensor, size: tuple[int, ...]) -> Tensor:
    """A (t, D) or (h, w, D) table at another size, each place from the official rule floor(i * old / new)."""
    for axis, new in enumerate(size):
        table = table.index_select(axis, torch.arange(new) * table.shape[axis] // new)
    return table


def official_weights(state: dict[str, Tensor], *, grid: int, frames: int) -> dict[str, Tensor]:
    """The official state dict in our names, with its tables resized as the official model does on the way."""
    old = round((state["pos_embed"].shape[1] - 1) ** 0.5)
    table = nearest(state["pos_embed"][0, 1:].unflatten(0, (old, old)), (grid, grid)).flatten(0, 1)
    ours = {
        "class_token": state["cls_token"].flatten(),
        "pos_tables.0": torch.cat([state["pos_embed"][0, :1], table]),
        "time_table": nearest(state["time_embed"][0], (frames,)),
    }
    names = {"patch_embed.": "patch_embeds.0.", "temporal_norm1": "time.norm", "temporal_": "time."}
    for name, tensor in state.items():
        if name not in ("cls_token", "pos_embed", "time_embed"):
            for theirs, new in names.items():
                name = name.replace(theirs, new)
            if "norm" in name:
                name, tensor = name.replace("weight", "scale").replace("bias", "shift"), tensor[None]
            ours[name] = tensor
    return ours


@pytest.mark.shared
@pytest.mark.skipif(not PARITY.is_dir(), reason="the official outputs are not here")
@pytest.mark.parametrize("class_token_only", [False, True])
@pytest.mark.parametrize("name", OFFICIAL)
def test_the_official_model_gives_the_same_logits(name, class_token_only):
    path = PARITY / f"{name}.safetensors"
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["config"])
    saved = load_file(path)
    if not any(key.startswith("state.") for key in saved):
        base = {"ts_divided_p16_d96_res32": "ts_divided_p16_d96"}.get(name, "ts_divided")
        saved |= {
            k: v for k, v in load_file(PARITY / f"{base}.safetensors").items() if k.startswith("state.")
        }
    clips = saved["input"]
    grid, frames = clips.shape[-1] // config["patch_size"], clips.shape[2]
    model = ReViT(
        num_classes=config["num_classes"],
        token_lengths=(grid,),
        num_frames=frames,
        crop=clips.shape[-1],
        dim=config["embed_dim"],
        depth=config["depth"],
        heads=config["num_heads"],
        attention=ATTENTION[config["attention_type"]],
        distill_token=False,
        class_token_only=class_token_only,
    ).eval()
    state = {key.removeprefix("state."): tensor for key, tensor in saved.items() if key.startswith("state.")}
    model.load_state_dict(official_weights(state, grid=grid, frames=frames))
    with torch.inference_mode():
        torch.testing.assert_close(model(clips), saved["logits"], rtol=0, atol=1e-5)
        logits = model.double()(clips.double())
        torch.testing.assert_close(logits, saved["logits_f64"], rtol=0, atol=1e-10)
        if not class_token_only:
            tokens, _ = model.embed(clips.double(), model.grids[0])
            assert_same_tokens(tokens, saved["tokens"], frames)
            assert_same_tokens(model.blocks[0](tokens, model.grids[0], prefix=1), saved["block0_out"], frames)


def assert_same_tokens(ours: Tensor, theirs: Tensor, frames: int) -> None:
    """Ours run frame by frame, theirs place by place; theirs are float32."""
    patches = rearrange(theirs[:, 1:], "b (n t) d -> b (t n) d", t=frames)
    theirs = torch.cat([theirs[:, :1], patches], dim=1).double()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize("class_token_only", [False, True])
@pytest.mark.parametrize("distill_token", [False, True])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_the_counted_cost_is_the_closed_form_of_what_the_level_runs(
    tiny, level, distill_token, class_token_only
):
    changes = {"distill_token": distill_token, "class_token_only": class_token_only, "dtype": torch.float32}
    model, joint = tiny(**changes), tiny(**changes, attention="joint")
    side, patch = model.grids[level].height, model.patch_embeds[level].proj.kernel_size[0]
    shape = {"dim": 16, "depth": 2, "heads": 2, "num_classes": 5, "patch_in_features": 3 * patch**2}
    shape |= {"prefix_tokens": 2 if distill_token and level else 1, "cls_only_last_block": class_token_only}
    clip = torch.zeros(1, 3, 3, 32, 32)
    assert count_macs(model, clip, level=level) == timesformer_macs(**shape, frames=3, grid=side)
    assert count_macs(joint, clip, level=level) == image_vit_macs(**shape, grid=(3 * side, side))


def test_the_cost_table_names_what_a_plain_model_of_that_grid_has_not():
    small = {
        "dim": 24,
        "depth": 2,
        "heads": 2,
        "num_classes": 5,
        "crop": 32,
        "num_frames": 2,
        "token_lengths": (4, 3),
    }
    rows = cost_rows("timesformer_base", **small)
    shape = {"dim": 24, "depth": 2, "heads": 2, "num_classes": 5, "frames": 2}
    for row, grid, patch in zip(rows, (4, 3), (8, 12), strict=True):
        bare = timesformer_macs(**shape, grid=grid, patch_macs=0)
        assert row["patch_embed_gmacs"] * 1e9 == pytest.approx(2 * grid**2 * 3 * patch**2 * 24)
        assert row["gmacs"] - row["patch_embed_gmacs"] - row["distill_token_gmacs"] == pytest.approx(
            bare / 1e9
        )
        assert (row["length"], row["tokens"]) == (grid, 2 * grid**2)
    assert rows[0]["distill_token_gmacs"] == 0 < rows[1]["distill_token_gmacs"]


def test_timesformer_base_costs_what_is_published_but_for_its_patches_and_distillation_token():
    with torch.device("meta"):
        models = [create_model("timesformer_base", distill_token=token) for token in (False, True)]
        clip = torch.zeros(1, 3, 8, 224, 224)
    published, tokens = (195.83, 98.64, 48.11), (0, 0.313, 0.298)
    for level, grid in enumerate((14, 10, 7)):
        bare, whole = (count_macs_torch(model, clip, level=level) / 1e9 for model in models)
        patches = count_macs_torch(models[0].patch_embeds[level], clip) / 1e9
        small_patches = 8 * grid**2 * 3 * 16**2 * 768 / 1e9  # of a frame resized to 16 px per token
        assert bare - patches + small_patches == pytest.approx(published[level], abs=0.005)
        assert whole - bare == pytest.approx(tokens[level], abs=5e-4)
