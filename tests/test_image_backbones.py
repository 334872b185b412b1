"""DeiT, LV-ViT and T2T-ViT against their official outputs; their levels; what they cost."""

import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from revit_video.backbones.costs import cost_rows
from revit_video.backbones.image_vit import image_vit
from revit_video.backbones.lvvit import lvvit
from revit_video.backbones.t2t_vit import t2t_vit
from revit_video.backbones.zoo import create_model
from revit_video.layers.length_norm import LengthNorm
from revit_video.layers.lv_stem import LVStem
from revit_video.layers.t2t import T2TStem, windows
from revit_video.report.macs import count_macs, count_macs_torch
from revit_video.types import TokenGrid

FOLDERS = (
    Path(__file__).parent / "data" / "parity",
    Path(__file__).parents[2] / "shared" / "parity" / "image",
)


def official(name: str) -> tuple[dict, dict[str, Tensor], dict[str, Tensor]]:
    """Constructor arguments, state dict and all else of a fixture; skips where it is not there."""
    paths = [folder / f"{name}.safetensors" for folder in FOLDERS]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        pytest.skip("the official outputs are not here")
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["config"])
    saved = load_file(path)
    state = {key.removeprefix("state."): saved.pop(key) for key in list(saved) if key.startswith("state.")}
    return config, state, saved


def part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights of one module, with the performer's MLP in our names."""
    names = {"mlp.0.": "mlp.fc1.", "mlp.2.": "mlp.fc2."}
    ours = {}
    for key, tensor in state.items():
        if key.startswith(prefix):
            name = key.removeprefix(prefix)
            for theirs, new in names.items():
                name = name.replace(theirs, new)
            ours[name] = tensor
    return ours


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# the stems against official outputs


def test_the_stem_of_lv_vit_gives_the_official_tokens():
    config, state, saved = official("lvvit_dense_skip2")
    stem = LVStem(config["embed_dim"], TokenGrid(1, 5, 5), (80, 80)).eval()
    stem.load_state_dict(part(state, "patch_embed."))
    with torch.inference_mode():
        tokens = stem(saved["input"][:, :, None])
    torch.testing.assert_close(tokens[:, 0], saved["patch_embed"].flatten(2).mT, rtol=0, atol=1e-5)


def test_the_stem_of_t2t_vit_gives_the_official_tokens():
    config, state, saved = official("t2t_performer")
    stem = T2TStem(config["embed_dim"], TokenGrid(1, 4, 4), (64, 64), token_dim=config["token_dim"]).eval()
    stem.load_state_dict(part(state, "tokens_to_token."))
    with torch.inference_mode():
        first = stem.attention1(windows(saved["input"], stem.kernel, stem.stride, stem.padding))
        tokens = stem(saved["input"][:, :, None])
    torch.testing.assert_close(first, saved["attention1.out"], rtol=0, atol=1e-5)
    torch.testing.assert_close(tokens[:, 0], saved["t2t_tokens"], rtol=0, atol=1e-5)


@pytest.mark.shared
@pytest.mark.parametrize("name, tokens", [("normal_token", 14), ("less_token", 10), ("less_less_token", 7)])
def test_the_stem_of_t2t_vit_gives_the_tokens_of_dvt_at_every_length(name, tokens):
    config, state, saved = official("dvt_t2t_performer_f0r0")
    grid = TokenGrid(1, tokens, tokens)
    stem = T2TStem(config["embed_dim"], grid, (224, 224), token_dim=config["token_dim"]).eval()
    stem.load_state_dict(part(state, f"{name}.tokens_to_token."))
    with torch.inference_mode():
        ours = stem(saved["input_f16"].float()[:, :, None])[:, 0] + state[f"{name}.pos_embed"][:, 1:]
    torch.testing.assert_close(ours, saved[f"{name}.tokens_in"][:, 1:], rtol=0, atol=1e-5)


# whole networks against official outputs


def official_weights(state: dict[str, Tensor], stem: str) -> dict[str, Tensor]:
    """The official state dict in our names; `stem` is the official name of the patch embedding."""
    table = state["pos_embed"][0]
    prefix = 2 if "dist_token" in state else 1
    ours = {
        "class_token": state["cls_token"].flatten(),
        "pos_tables.0": torch.cat([table[:1], table[prefix:]]),
    }
    if prefix == 2:  # ours has no row of the table for the distillation token: it is part of the token
        ours["distill_tokens"] = state["dist_token"][0] + table[1:2]
    for name, tensor in part(state, "").items():
        if name not in ("cls_token", "dist_token", "pos_embed"):
            if "norm" in name and not name.startswith(stem):
                name, tensor = name.replace("weight", "scale").replace("bias", "shift"), tensor[None]
            ours[name.replace(f"{stem}.", "patch_embeds.0.").replace("head_dist", "head_distill")] = tensor
    return ours


@pytest.mark.parametrize(
    "name, stem, build_model, options",
    [
        pytest.param("deit_plain", "patch_embed", image_vit, {}, marks=pytest.mark.shared),
        ("deit_distilled", "patch_embed", image_vit, {"distilled": True}),
        ("lvvit_dense_skip2", "patch_embed", lvvit, {"skip_lam": 2.0}),
        ("t2t_performer", "tokens_to_token", t2t_vit, {"token_dim": 32, "mlp_ratio": 2.0}),
    ],
)
def test_the_official_model_gives_the_same_logits_and_tokens(name, stem, build_model, options):
    config, state, saved = official(name)
    trunk = {"dim": config["embed_dim"], "depth": config["depth"], "heads": config["num_heads"]}
    grid = math.isqrt(state["pos_embed"].shape[1])  # 25 + 1 or 2 rows, 16 + 1
    model = build_model(num_classes=10, crop=config["img_size"], token_lengths=(grid,), **trunk, **options)
    model.eval().load_state_dict(official_weights(state, stem))
    clips = saved["input"][:, :, None]
    with torch.inference_mode():
        out = model(clips, full_output=True)
        torch.testing.assert_close(model(clips), saved["logits"], rtol=0, atol=2e-5)
        x, prefix = model.embed(clips, model.grids[0])
        for i, block in enumerate(model.blocks):
            x = block(x, model.grids[0], prefix=prefix)
            torch.testing.assert_close(x, saved[f"block{i}.out"], rtol=0, atol=5e-5)
    heads = {"logits_cls": out.logits, "logits_aux": out.aux_logits}
    heads |= {"logits_head": out.logits, "logits_head_dist": out.distill_logits}
    for key in heads.keys() & saved.keys():
        torch.testing.assert_close(heads[key], saved[key], rtol=0, atol=2e-5)


# levels


def test_the_batch_norms_of_a_level_learn_nothing_from_another_level():
    model = lvvit(num_classes=3, token_lengths=(4, 2), crop=32, dim=8, depth=1, heads=2).train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    model(noise(2, 3, 1, 32, 32).float(), level=1)
    moved = {
        name.split(".")[1] for name, value in model.named_buffers() if not torch.equal(value, before[name])
    }
    assert moved == {"1"}


def test_the_position_tables_of_t2t_vit_are_sines_and_not_trained():
    model = t2t_vit(num_classes=3, token_lengths=(4, 3), crop=32, dim=8, depth=1, heads=2)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {"pos_tables.0", "pos_tables.1"}
    angles = torch.arange(10) / 10000 ** (2 / 8)  # of the second pair of channels
    torch.testing.assert_close(model.pos_tables[1][:, 2], angles.sin())
    torch.testing.assert_close(model.pos_tables[1][:, 3], angles.cos())


@pytest.mark.parametrize("builder", [lvvit, t2t_vit])
def test_growth_copies_what_two_levels_have_alike_and_resamples_the_rest(builder):
    model = builder(num_classes=3, token_lengths=(4, 3, 2), crop=32, dim=8, depth=1, heads=2)
    before = model.patch_embeds[1].state_dict()
    before = {name: tensor.clone() for name, tensor in before.items()}
    model.grow(2)
    source, grown = model.patch_embeds[2].state_dict(), model.patch_embeds[1].state_dict()
    for name, tensor in grown.items():
        if tensor.shape == source[name].shape:
            assert torch.equal(tensor, source[name]), name
        elif "norm" not in name:  # a new norm of equal weights looks like a resampled one
            assert not torch.equal(tensor, before[name]), name


# cost

PUBLISHED = {  # (parameters in millions, digits), (GMACs measured on the official code, digits)
    "deit_tiny": ((5.72, 2), (1.258, 3)),
    "deit_small": ((22.05, 2), (4.608, 3)),
    "deit_base": ((86.57, 2), (17.58, 2)),
    "deit_small_distilled": ((22.44, 2), (4.634, 3)),
    "lvvit_tiny": ((8.53, 2), (2.879, 3)),
    "lvvit_small": ((26.15, 2), (6.569, 3)),
    "lvvit_medium": ((55.8, 1), (12.70, 2)),
    "t2t_vit_7": ((4.3, 1), (1.156, 3)),
    "t2t_vit_10": ((5.9, 1), (1.527, 3)),
    "t2t_vit_12": ((6.9, 1), (1.775, 3)),
    "t2t_vit_14": ((21.5, 1), (4.800, 3)),
    "t2t_vit_19": ((39.2, 1), (8.503, 3)),
    "t2t_vit_24": ((64.1, 1), (13.692, 3)),
    "t2t_vit_t_14": ((21.5, 1), (6.106, 3)),
}
T2T_LENGTHS = {"t2t_vit_12": (1.775, 0.898, 0.472), "t2t_vit_14": (4.800, 2.405, 1.207)}


def gmacs_with_norms(model: nn.Module, level: int = 0) -> float:
    """Multiply-adds as fvcore counts them: 5 per element of a LayerNorm, 2 of a BatchNorm."""
    rates = {LengthNorm: 5, nn.LayerNorm: 5, nn.BatchNorm2d: 2}
    extra, hooks = [], []
    for module in model.modules():
        if rate := rates.get(type(module)):
            count = partial(lambda rate, module, inputs, out: extra.append(rate * out.numel()), rate)
            hooks.append(module.register_forward_hook(count))
    macs = count_macs_torch(model, torch.zeros(1, 3, 1, 224, 224, device="meta"), level=level)
    for hook in hooks:
        hook.remove()
    return (macs + sum(extra)) / 1e9


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_image_model_has_the_published_size_and_cost(name):
    (params, million_digits), (gmacs, giga_digits) = PUBLISHED[name]
    with torch.device("meta"):
        model = create_model(name, token_lengths=(14,))
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert millions == pytest.approx(params, abs=0.6 * 10**-million_digits)
    assert gmacs_with_norms(model) == pytest.approx(gmacs, abs=0.6 * 10**-giga_digits)


@pytest.mark.parametrize("name", T2T_LENGTHS)
def test_t2t_vit_costs_at_each_length_what_its_model_of_that_length_does(name):
    with torch.device("meta"):
        model = create_model(name, distill_token=False)
    for level, gmacs in enumerate(T2T_LENGTHS[name]):
        assert gmacs_with_norms(model, level) == pytest.approx(gmacs, abs=6e-4)


@pytest.mark.parametrize(("odd", "at_10"), [(True, 2.305), (False, 2.310)])
def test_deit_small_costs_at_each_length_what_its_model_of_that_length_does(odd, at_10):
    """The official count of length 10 is of DVT's patches, 23 px; the paper's 24 cost 0.0055 more."""
    with torch.device("meta"):
        embed = {"patch_embed_options": {"even": not odd}}
        model = create_model("deit_small", distill_token=False, **embed)
    for level, gmacs in enumerate((4.608, at_10, 1.145)):
        assert gmacs_with_norms(model, level) == pytest.approx(gmacs, abs=6e-4)


def test_the_distillation_token_of_deit_small_costs_two_hundredths_of_a_gmac():
    longest, middle, shortest = cost_rows(["deit_small"])
    assert longest["distill_token_gmacs"] == 0
    for row, tokens in ((middle, 101), (shortest, 50)):
        block = 12 * 384**2 + 2 * 384 * ((tokens + 1) ** 2 - tokens**2)  # linear layers; attention
        assert row["distill_token_gmacs"] * 1e9 == pytest.approx(12 * block + 384 * 1000, abs=1)
    assert (middle["distill_token_gmacs"], shortest["distill_token_gmacs"]) == (
        pytest.approx(0.0235, abs=5e-5),
        pytest.approx(0.0225, abs=5e-5),
    )


@pytest.mark.parametrize("level, trunk, patch", [(0, 5.125, 8), (1, 2.508, 12), (2, 1.210, 16)])
def test_lv_vit_small_costs_its_trunk_and_the_same_convolutions_at_every_length(level, trunk, patch):
    """`trunk` was counted by fvcore on the official blocks, without norms."""
    with torch.device("meta"):
        model = create_model("lvvit_small", distill_token=False)
    tokens = model.grids[level].per_frame
    convolutions = 112**2 * (7 * 7 * 3 * 64 + 2 * 9 * 64**2)
    stem_and_heads = convolutions + tokens * patch**2 * 64 * 384 + (1 + tokens) * 384 * 1000
    macs = count_macs_torch(model, torch.zeros(1, 3, 1, 224, 224, device="meta"), level=level)
    assert macs / 1e9 == pytest.approx(trunk + stem_and_heads / 1e9, abs=1e-3)


@pytest.mark.parametrize("tokens", ["lv", "performer", "transformer"])
def test_both_counters_agree_on_the_cost_of_every_stem(tokens):
    small = {"num_classes": 3, "token_lengths": (4, 3), "crop": 32, "dim": 8, "depth": 1, "heads": 2}
    model = lvvit(**small) if tokens == "lv" else t2t_vit(tokens=tokens, **small)
    for level in range(2):
        clip = torch.zeros(1, 3, 1, 32, 32)
        assert count_macs(model, clip, level=level) == count_macs_torch(model, clip, level=level)
