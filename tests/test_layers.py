"""The bricks against their definitions: norms per level, patch embeddings, attention, position tables."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from revit_video.layers.attention import Attention, attend
from revit_video.layers.block import drop_path
from revit_video.layers.length_norm import LengthNorm
from revit_video.layers.patch_embed import ConvPatchEmbed, ResizePatchEmbed, patch_and_padding
from revit_video.layers.positions import resize_grid_table, sine_grid
from revit_video.layers.stems import build_stem
from revit_video.types import InputError, TokenGrid

ODD_CROPS = [97, 111, 128, 160, 161, 225, 287]


def filled_norm(dim: int = 6, num_levels: int = 3) -> LengthNorm:
    norm = LengthNorm(dim, num_levels).double()
    torch.manual_seed(0)
    nn.init.normal_(norm.scale)
    nn.init.normal_(norm.shift)
    return norm


@pytest.mark.parametrize("level", [0, 1, 2])
def test_length_norm_is_layer_norm_with_the_row_of_its_level(level):
    norm, plain = filled_norm(), nn.LayerNorm(6, eps=1e-6).double()
    plain.weight.data, plain.bias.data = norm.scale[level].detach(), norm.shift[level].detach()
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(norm(x, level), plain(x), rtol=1e-12, atol=1e-12)


def test_rows_of_other_levels_get_a_gradient_of_zero():
    norm = filled_norm()
    norm(torch.randn(4, 6, dtype=torch.float64), 1).square().sum().backward()
    for grad in (norm.scale.grad, norm.shift.grad):
        assert grad[1].abs().min() > 0
        assert grad[[0, 2]].eq(0).all()


@pytest.mark.parametrize("tokens", [14, 10, 7])
@pytest.mark.parametrize("crop", [112, 224, 288, 384, 448, *ODD_CROPS])
def test_every_crop_gives_exactly_the_tokens_asked_for(crop, tokens):
    patch, before, after = patch_and_padding(crop, tokens)
    assert crop + before + after == patch * tokens
    assert 0 <= after - before <= 1
    assert after < patch, "a patch without any picture"
    embed = ConvPatchEmbed(2, TokenGrid(1, tokens, tokens), (crop, crop))
    assert embed(torch.zeros(1, 3, 1, crop, crop)).shape == (1, 1, tokens**2, 2)


def test_the_papers_patches_of_a_224_px_crop():
    assert [patch_and_padding(224, n) for n in (14, 10, 7)] == [(16, 0, 0), (24, 8, 8), (32, 0, 0)]
    assert [patch_and_padding(112, n) for n in (14, 10, 7)] == [(8, 0, 0), (12, 4, 4), (16, 0, 0)]


def test_a_crop_too_small_for_its_tokens_is_refused():
    with pytest.raises(InputError, match="a crop of 57 px cannot be split into 14 patches; use fewer tokens"):
        patch_and_padding(57, 14)


def as_clip(frames: torch.Tensor) -> torch.Tensor:
    """Frames (M, C, H, W) as one clip of them."""
    return frames.transpose(0, 1)[None]


@pytest.mark.parametrize(
    ("grid", "crop", "padding"),  # left, right, top, bottom
    [
        (TokenGrid(1, 4, 4), (32, 32), (0, 0, 0, 0)),
        (TokenGrid(1, 10, 10), (224, 224), (8, 8, 8, 8)),
        (TokenGrid(1, 3, 3), (32, 32), (2, 2, 2, 2)),
        (TokenGrid(1, 3, 3), (35, 35), (0, 1, 0, 1)),
        (TokenGrid(1, 3, 5), (32, 48), (1, 1, 2, 2)),
        (TokenGrid(1, 3, 5), (35, 48), (1, 1, 0, 1)),
        (TokenGrid(1, 5, 3), (48, 35), (0, 1, 1, 1)),
    ],
)
def test_a_conv_embedding_is_pad_then_one_matrix_product_per_patch(grid, crop, padding):
    embed = ConvPatchEmbed(4, grid, crop).double()
    frames = torch.randn(2, 3, *crop, dtype=torch.float64)
    rows, columns = embed.proj.kernel_size
    patches = F.pad(frames, padding).unfold(2, rows, rows).unfold(3, columns, columns)  # (M, C, h, w, ...)
    assert patches.shape[2:4] == (grid.height, grid.width)
    expected = torch.einsum("mchwij,dcij->mhwd", patches, embed.proj.weight) + embed.proj.bias
    torch.testing.assert_close(embed(as_clip(frames))[0], expected.flatten(1, 2), rtol=1e-10, atol=1e-12)


def test_a_resize_embedding_makes_the_frame_smaller_then_uses_the_longest_lengths_patch():
    longest, grid = TokenGrid(1, 4, 6), TokenGrid(1, 2, 3, level=1)
    embed = build_stem("resize", 4, grid, crop=(32, 48), longest=longest).double()
    assert isinstance(embed, ResizePatchEmbed) and embed.proj.kernel_size == (8, 8)
    frames = torch.randn(2, 3, 32, 48, dtype=torch.float64)
    small = F.interpolate(frames, (16, 24), mode="bilinear", antialias=True, align_corners=False)
    expected = F.conv2d(small, embed.proj.weight, embed.proj.bias, stride=8).flatten(2).transpose(1, 2)
    torch.testing.assert_close(embed(as_clip(frames))[0], expected)
    flat = embed(torch.full((1, 3, 1, 32, 48), 0.7, dtype=torch.float64))  # a colour survives the resize
    torch.testing.assert_close(flat, flat[:, :, :1].expand_as(flat))


def test_a_resize_embedding_works_in_bfloat16_on_a_cpu_and_resizes_in_float32():
    embed = build_stem("resize", 4, TokenGrid(1, 2, 2, 1), crop=(32, 32), longest=TokenGrid(1, 4, 4))
    frames = torch.randn(2, 3, 32, 32).bfloat16()
    exact = embed(as_clip(frames.float()))
    narrow = embed.bfloat16()(as_clip(frames))
    assert narrow.dtype == torch.bfloat16
    torch.testing.assert_close(narrow.float(), exact, rtol=0.02, atol=0.02)


def test_an_unknown_patch_embedding_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="patch_embed is 'cnov', but must be one of: conv, resize"):
        build_stem("cnov", 4, TokenGrid(1, 4, 4), crop=(32, 32), longest=TokenGrid(1, 4, 4))


@pytest.mark.parametrize("keys", [5, 40])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_the_kernel_follows_dtype_gradient_and_length_and_any_gives_the_formula(
    monkeypatch, keys, training, dtype, tolerance
):
    fused, calls = F.scaled_dot_product_attention, []
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *x: calls.append(x) or fused(*x))
    torch.manual_seed(0)
    shapes = [(2, 3, 4, 8), (2, 3, keys, 8), (2, 3, keys, 8)]
    exact = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    used = [x.detach().to(dtype).requires_grad_(training) for x in exact]
    seen = attend(*used)
    half, short = dtype == torch.bfloat16, keys == 5
    products = half and (training or short)
    assert len(calls) == (not products)
    q, k, v = exact
    formula = torch.softmax(torch.einsum("bhid,bhjd->bhij", q, k) / 8**0.5, -1) @ v
    torch.testing.assert_close(seen.double(), formula, rtol=tolerance, atol=tolerance)
    if training:
        ours = torch.autograd.grad(seen.float().square().sum(), used)
        true = torch.autograd.grad(formula.square().sum(), exact)
        for one, other in zip(ours, true, strict=True):
            torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("batch", [(), (2,), (2, 3), (2, 3, 2)])
def test_the_fused_kernel_gets_four_axes_whatever_the_batch(monkeypatch, batch):
    fused, axes = F.scaled_dot_product_attention, []
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda *x: axes.extend(y.ndim for y in x) or fused(*x)
    )
    q, k, v = (torch.randn(*batch, n, 8, dtype=torch.float64) for n in (4, 20, 20))
    formula = (q @ k.transpose(-2, -1) / 8**0.5).softmax(-1) @ v
    torch.testing.assert_close(attend(q, k, v), formula)
    assert set(axes) == {4}


@pytest.mark.parametrize("bias", [True, False])
def test_attention_of_n_queries_is_the_first_n_rows(bias):
    layer = Attention(12, 3, qkv_bias=bias).double()
    x = torch.randn(2, 4, 20, 12, dtype=torch.float64)
    torch.testing.assert_close(layer(x, queries=2), layer(x)[..., :2, :], rtol=1e-10, atol=1e-12)


def test_attention_rows_are_probabilities_that_give_the_attention():
    layer = Attention(12, 3).double()
    x = torch.randn(2, 20, 12, dtype=torch.float64)
    q, k, v = layer.project(x, queries=3)
    rows = layer.rows(q, k)
    torch.testing.assert_close(rows.sum(-1), torch.ones(2, 3, 3, dtype=torch.float64))
    torch.testing.assert_close(rows @ v, attend(q, k, v))


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(InputError, match="dim=10 is no multiple of heads=3"):
        Attention(10, 3)


def test_stochastic_depth_drops_whole_rows_and_keeps_the_mean():
    torch.manual_seed(0)
    x = torch.ones(400, 7, 3)
    kept = drop_path(x, 0.25, training=True, rows=(0,))
    assert kept.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert (kept == kept[:, :1, :1]).all(), "a row is dropped whole"
    assert kept.mean().item() == pytest.approx(1.0, abs=0.08)
    assert (drop_path(x, 0.25, training=True, rows=(0, 1)).std(dim=1) > 0).any(), (
        "each (clip, frame) for itself"
    )
    assert drop_path(x, 0.25, training=False, rows=(0,)) is x


def test_a_table_is_resized_bicubically_in_rows_and_columns_and_its_prefix_stays():
    table = torch.randn(1 + 4 * 6, 5)
    resized = resize_grid_table(table, TokenGrid(1, 4, 6), TokenGrid(1, 2, 3))
    picture = table[1:].view(4, 6, 5).permute(2, 0, 1)[None]
    by_hand = F.interpolate(picture, (2, 3), mode="bicubic", antialias=True)[0].permute(1, 2, 0)
    torch.testing.assert_close(resized, torch.cat([table[:1], by_hand.flatten(0, 1)]))


def test_sine_codes_say_the_same_of_the_same_place_at_every_length():
    fine, coarse = (sine_grid(TokenGrid(1, n, n), 16).view(n, n, 16) for n in (9, 3))
    torch.testing.assert_close(
        fine[1::3, 1::3], coarse
    )  # centres of 3x3 fine patches are centres of coarse ones
    torch.testing.assert_close(fine[:, 0, :8], fine[:, 5, :8])  # one half tells the row alone
    torch.testing.assert_close(fine[0, :, 8:], fine[5, :, 8:])  # the other the column alone
    codes = fine.flatten(0, 1)
    assert torch.cdist(codes, codes).fill_diagonal_(1).min() > 0.1
