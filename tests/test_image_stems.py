"""The stems of LV-ViT and T2T-ViT: written out plainly, their grids, gradients and growth."""

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import randomize
from torch import Tensor, nn

from revit_video.layers.lv_stem import LVStem
from revit_video.layers.t2t import Performer, T2TStem, first_split
from revit_video.types import InputError, TokenGrid

KINDS = ("performer", "transformer")
LEVELS_224 = [(14, (7, 4, 2, 56)), (10, (11, 6, 5, 38)), (7, (14, 8, 3, 28))]  # DVT's


def square(tokens: int) -> TokenGrid:
    return TokenGrid(1, tokens, tokens)


def build(stem: str, dim: int, tokens: int, crop: int, **options) -> nn.Module:
    if stem == "lv":
        return LVStem(dim, square(tokens), (crop, crop), **options)
    return T2TStem(dim, square(tokens), (crop, crop), kind=stem, **options)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# tokens to tokens, written out plainly


def plain_windows(maps: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """(M, C, H, W) to (M, N, C*k*k), one window after the other."""
    maps = F.pad(maps, (padding,) * 4)
    spots = [range(0, side - kernel + 1, stride) for side in maps.shape[-2:]]
    cut = [maps[:, :, y : y + kernel, x : x + kernel].flatten(1) for y in spots[0] for x in spots[1]]
    return torch.stack(cut, dim=1)


def plain_norm(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    x = x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-5)
    return x * state[f"{name}.weight"] + state[f"{name}.bias"]


def plain_attention(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    """Attention between soft splits, every pair of tokens explicit; the residual starts from the values."""
    inputs, y = x.shape[-1], plain_norm(x, state, f"{name}.norm1")
    if f"{name}.w" in state:
        k, q, v = (y @ state[f"{name}.kqv.weight"].T + state[f"{name}.kqv.bias"]).chunk(3, dim=-1)
        w = state[f"{name}.w"]  # (m, width)
        from_q = torch.exp(q @ w.T - (q * q).sum(-1, keepdim=True) / 2) / len(w) ** 0.5
        from_k = torch.exp(k @ w.T - (k * k).sum(-1, keepdim=True) / 2) / len(w) ** 0.5
        pairs, proj = from_q @ from_k.mT, f"{name}.proj"  # (M, N, N)
        seen = pairs @ v / (pairs.sum(-1, keepdim=True) + 1e-8)
    else:
        q, k, v = (y @ state[f"{name}.attn.qkv.weight"].T).chunk(3, dim=-1)
        pairs, proj = torch.exp(q @ k.mT / inputs**0.5), f"{name}.attn.proj"
        seen = pairs @ v / pairs.sum(-1, keepdim=True)
    x = v + seen @ state[f"{proj}.weight"].T + state[f"{proj}.bias"]
    y = (
        plain_norm(x, state, f"{name}.norm2") @ state[f"{name}.mlp.fc1.weight"].T
        + state[f"{name}.mlp.fc1.bias"]
    )
    y = y * (1 + torch.erf(y / 2**0.5)) / 2
    return x + y @ state[f"{name}.mlp.fc2.weight"].T + state[f"{name}.mlp.fc2.bias"]


def plain_t2t(frames: Tensor, state: dict[str, Tensor], kernel: int, stride: int, padding: int) -> Tensor:
    x = plain_windows(frames, kernel, stride, padding)
    for name in ("attention1", "attention2"):
        x = plain_attention(x, state, name)
        side = math.isqrt(x.shape[1])
        x = plain_windows(x.mT.unflatten(2, (side, side)), 3, 2, 1)
    return x @ state["project.weight"].T + state["project.bias"]


@pytest.mark.parametrize("tokens, split", [(4, (4, 2, 1)), (3, (6, 3, 2)), (2, (7, 4, 2))])
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_to_token_is_the_papers_written_out_plainly(kind, tokens, split):
    stem = randomize(build(kind, 12, tokens, 32, token_dim=8).double(), seed=0).eval()
    clips = noise(2, 3, 2, 32, 32)  # two frames: each is embedded by itself
    plain = plain_t2t(clips.transpose(1, 2).flatten(0, 1), stem.state_dict(), *split)
    torch.testing.assert_close(stem(clips), plain.unflatten(0, (2, 2)), rtol=1e-10, atol=1e-11)


# grids


@pytest.mark.parametrize("tokens, split", LEVELS_224)
def test_the_first_split_at_224_px_is_that_of_the_official_models(tokens, split):
    assert first_split(224, tokens) == split


@pytest.mark.parametrize(
    "crop, tokens, kernel, padding", [(224, 14, 8, 0), (224, 10, 12, 4), (224, 7, 16, 0), (33, 4, 5, 0)]
)
def test_the_projection_of_lv_vit_covers_the_half_resolution_map(crop, tokens, kernel, padding):
    proj = build("lv", 8, tokens, crop).proj  # of 33 px, 17 are left: padded by hand, as 1 and 2
    assert (proj.kernel_size, proj.stride, proj.padding) == ((kernel,) * 2, (kernel,) * 2, (padding,) * 2)


@pytest.mark.parametrize("crop", [64, 96, 112, 160, 224, 225, 288, 384])
def test_whatever_the_first_split_accepts_gives_the_number_of_tokens_and_no_empty_window(crop):
    accepted = []
    for tokens in range(1, crop // 4 + 1):
        try:
            kernel, stride, padding, side = first_split(crop, tokens)
        except InputError:
            continue
        accepted.append(tokens)
        assert (crop + 2 * padding - kernel) // stride + 1 == side
        assert ((side + 1) // 2 + 1) // 2 == tokens
        assert padding < kernel and (side - 1) * stride - padding < crop
    assert accepted[:4] == [1, 2, 3, 4]


GRIDS = [("lv", crop, tokens) for crop in (224, 112) for tokens in (14, 10, 7)]
GRIDS += [("lv", 96, 10), ("lv", 96, 7), ("lv", 64, 8), ("lv", 64, 7)]
GRIDS += [(kind, crop, tokens) for kind in KINDS for crop in (224, 112) for tokens in (14, 10, 7)]
GRIDS += [
    ("performer", 96, 12),
    ("performer", 96, 7),
    ("performer", 64, 8),
    ("performer", 64, 5),
    ("lv", 75, 10),
]


@pytest.mark.parametrize("stem, crop, tokens", GRIDS)
def test_a_stem_has_exactly_its_grid(stem, crop, tokens):
    with torch.device("meta"):
        assert build(stem, 8, tokens, crop)(torch.zeros(2, 3, 1, crop, crop)).shape == (2, 1, tokens**2, 8)


@pytest.mark.parametrize("stem", [LVStem, T2TStem])
def test_a_stem_of_a_wide_crop_runs_row_by_row(stem):
    """Ink in one patch changes the tokens of that row and column most."""
    module = randomize(stem(8, TokenGrid(1, 2, 4), (32, 64)).double(), seed=0).eval()
    blank, clip = torch.zeros(2, 1, 3, 1, 32, 64, dtype=torch.float64)
    clip[..., 20:28, 36:44] = 3.0  # row 1, column 2
    change = (module(clip) - module(blank)).norm(dim=-1)[0, 0]
    assert change.shape == (8,) and change.argmax() == 1 * 4 + 2


def test_a_grid_that_a_stem_cannot_make_is_refused_with_those_it_can():
    with pytest.raises(
        InputError, match=r"T2T-ViT cannot make 7 tokens of 64 px; it can make 1, 2, .*, 6, 8, 9;"
    ):
        build("performer", 8, 7, 64)
    with pytest.raises(
        InputError, match=r"LV-ViT cannot make 10 tokens of 64 px; it can make 1, .*, 9, 11, 12, 16"
    ):
        build("lv", 8, 10, 64)
    with pytest.raises(InputError, match="kind is 'linear', but must be one of: performer, transformer"):
        build("linear", 8, 4, 64)


# training


@pytest.mark.parametrize("stem", ["lv", *KINDS])
def test_the_gradient_reaches_every_parameter_of_a_stem(stem):
    module = randomize(build(stem, 8, 4, 32).double(), seed=0)
    module(noise(2, 3, 1, 32, 32)).square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().amax() > 0, name


def test_random_features_are_saved_orthogonal_and_not_trained():
    performer = Performer(12, 16)
    assert "w" in performer.state_dict() and "w" not in dict(performer.named_parameters())
    torch.testing.assert_close(performer.w @ performer.w.T, 8 * torch.eye(8), rtol=0, atol=1e-5)


@pytest.mark.parametrize("silent", ["proj", "mlp.fc2"])
def test_the_performer_drops_from_both_residuals_in_training_only(silent):
    performer, x = randomize(Performer(12, 16).double(), seed=0), noise(2, 9, 12)
    linear = performer.get_submodule(silent)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    assert not torch.equal(performer(x), performer(x))
    assert torch.equal(performer.eval()(x), performer(x))


def test_the_transformer_drops_nothing_in_training():
    stem, clip = build("transformer", 8, 4, 32).double(), noise(1, 3, 1, 32, 32)
    assert torch.equal(stem(clip), stem.eval()(clip))


def test_random_features_are_computed_in_float32_under_autocast():
    performer = Performer(12, 16).eval()
    q, k, v = noise(3, 2, 9, 16).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(
            performer.attend(q, k, v), performer.attend(q.float(), k.float(), v.float())
        )


# growth


@pytest.mark.parametrize("stem", ["lv", *KINDS])
def test_a_stem_grown_from_one_of_the_same_windows_gives_the_same_tokens(stem):
    source, target = (randomize(build(stem, 8, 4, 32).double(), seed=seed) for seed in (0, 1))
    source(noise(4, 3, 1, 32, 32))  # moves the running statistics of BatchNorm
    target.grow_from(source)
    clip = noise(2, 3, 1, 32, 32, seed=3)
    assert torch.equal(target.eval()(clip), source.eval()(clip))


def test_larger_patches_of_lv_vit_grown_from_small_ones_give_the_same_token_on_a_blank_frame():
    small, large = (randomize(build("lv", 8, n, 96).double(), seed=n).eval() for n in (6, 3))
    blank = torch.full((1, 3, 1, 96, 96), 0.7, dtype=torch.float64)
    large.grow_from(small)
    inside = small(blank)[0, 0].unflatten(0, (6, 6))[2, 2]  # the border of a convolution is not blank
    torch.testing.assert_close(large(blank)[0, 0, 4], inside, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_larger_windows_of_t2t_grown_from_small_ones_give_the_same_keys_queries_and_values_on_a_blank_frame(
    kind,
):
    small, large = (randomize(build(kind, 8, n, 96, token_dim=8).double(), seed=n).eval() for n in (6, 3))
    large.grow_from(small)
    colours = torch.tensor([0.7, -0.2, 1.1], dtype=torch.float64).view(1, 3, 1, 1)
    seen = []
    for stem in (small, large):
        window = colours.expand(1, 3, *stem.kernel).flatten(1)
        first = stem.attention1
        linear = first.kqv if kind == "performer" else first.attn.qkv
        seen.append(linear(first.norm1(window)))
    assert small.kernel != large.kernel
    torch.testing.assert_close(seen[1], seen[0], rtol=1e-5, atol=1e-5)
