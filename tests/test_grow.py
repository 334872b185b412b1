"""Growing: every other length starts from a trained one, for every family of the zoo."""

import pytest
import torch
import torch.nn.functional as F
from conftest import randomize

from revit_video.backbones.core import ReViT
from revit_video.backbones.zoo import MODELS, create_model
from revit_video.layers.length_norm import LengthNorm
from revit_video.layers.patch_embed import ConvPatchEmbed
from revit_video.layers.positions import resize_grid_table
from revit_video.layers.t2t import T2TStem
from revit_video.types import TokenGrid


def families() -> list[str]:
    """The first entry of the zoo of each kind: same builder, attention, stem and tokens."""
    found: dict[tuple, str] = {}
    for name, builder in MODELS.items():
        given = builder.keywords
        kind = (builder.func, given.get("attention"), given.get("tokens"), given.get("distilled"))
        found.setdefault(kind, name)
    return list(found.values())


FAMILIES = families()
ROWS_OF_WINDOWS = [name for name in FAMILIES if not name.startswith("t2t")]  # one patch, one token


def small(name: str, *, seed: int = 1, **changes) -> ReViT:
    """A model of three lengths in float64, all of it random."""
    frames = {"num_frames": 4} if "num_frames" in MODELS[name].keywords or "motion" in name else {}
    stem = {"t2t": {"token_dim": 8}, "lvv": {"width": 8}}.get(name[:3])
    options = {"patch_embed_options": stem} if stem else {}
    size = {"depth": 2, "dim": 24, "heads": 2, "crop": 112, "token_lengths": (14, 10, 7)}
    model = create_model(name, num_classes=3, **{**size, **frames, **options, **changes})
    return randomize(model.double(), seed=seed).eval()


def coloured(model: ReViT) -> torch.Tensor:
    """Two clips of one colour each."""
    colours = torch.randn(2, 3, 1, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return colours.expand(-1, -1, model.num_frames, *model.crop)


@pytest.mark.parametrize("name", FAMILIES)
def test_all_lengths_of_every_family_start_from_the_shortest(name):
    model, last = small(name), 2
    clips = coloured(model) + 0.1 * torch.randn(2, 3, model.num_frames, 112, 112, dtype=torch.float64)
    before = model(clips, last)
    model.grow(last)
    assert torch.equal(model(clips, last), before)
    for level in range(2):
        assert model(clips, level).isfinite().all()
        ours, source = model.patch_embeds[level].state_dict(), model.patch_embeds[last].state_dict()
        alike = [key for key, value in ours.items() if value.shape == source[key].shape]
        assert alike and all(torch.equal(ours[key], source[key]) for key in alike)
        if model.pos_init != "sine_1d":
            assert torch.equal(model.pos_tables[level][0], model.pos_tables[last][0])
    for norm in (module for module in model.modules() if isinstance(module, LengthNorm)):
        assert torch.equal(norm.scale, norm.scale[last].expand_as(norm.scale))
        assert torch.equal(norm.shift, norm.shift[last].expand_as(norm.shift))
    if model.distill_tokens is not None:
        assert torch.equal(model.distill_tokens, model.distill_tokens[-1].expand_as(model.distill_tokens))


@torch.no_grad()
def smooth_kernels(model: ReViT) -> None:
    """Trained kernels are smooth; a kernel of noise has no smaller one that does the same."""
    for embed in model.patch_embeds:
        kernel = embed.proj.weight
        rows, columns = (torch.linspace(0.1, 3.0, n, dtype=kernel.dtype).sin() for n in kernel.shape[-2:])
        wave = rows[:, None] * columns
        kernel.copy_(kernel.sum(dim=(-2, -1), keepdim=True) * wave / wave.norm())


@pytest.mark.parametrize("name", ROWS_OF_WINDOWS)
def test_a_grown_length_says_of_a_plain_colour_what_the_shortest_says(name):
    model = small(name, distill_token=False, center_clips=False, crop=224)
    smooth_kernels(model)
    clips = coloured(model)

    def apart() -> list[float]:
        shortest = model(clips, 2)
        return [((model(clips, level) - shortest).norm() / shortest.norm()).item() for level in range(2)]

    before = apart()
    model.grow(2)
    assert max(apart()) < 0.2 < min(before)


@pytest.mark.parametrize("name", FAMILIES)
def test_an_embedding_of_the_same_size_grows_into_the_same(name):
    ours, theirs = small(name, seed=1), small(name, seed=2)
    clips = torch.randn(1, 3, ours.num_frames, 112, 112, dtype=torch.float64)
    for grid in ours.grids:
        embed, source = ours.patch_embeds[grid.level], theirs.patch_embeds[grid.level]
        assert not torch.equal(embed(clips), source(clips))
        embed.grow_from(source)
        assert torch.equal(embed(clips), source(clips))
        table = theirs.pos_tables[grid.level]
        assert torch.equal(resize_grid_table(table, grid, grid), table)


def test_a_tubelet_grows_slice_by_slice_and_an_enlarged_one_gives_the_same_token():
    small_patch, large = (ConvPatchEmbed(5, TokenGrid(2, n, n), (32, 32), tubelet=2).double() for n in (4, 2))
    large.grow_from(small_patch)
    assert large.proj.weight.shape == (5, 3, 2, 16, 16)
    for part in range(2):
        flat = [ConvPatchEmbed(5, TokenGrid(1, n, n), (32, 32)).double() for n in (4, 2)]
        with torch.no_grad():
            flat[0].proj.weight.copy_(small_patch.proj.weight[:, :, part])
        flat[1].grow_from(flat[0])
        assert torch.equal(large.proj.weight[:, :, part], flat[1].proj.weight)
    assert torch.equal(large.proj.bias, small_patch.proj.bias)
    patch = torch.randn(1, 3, 2, 8, 8, dtype=torch.float64)
    enlarged = F.interpolate(patch[0], (16, 16), mode="bicubic", antialias=True)[None]
    tokens = [embed.proj(clip) for embed, clip in ((small_patch, patch), (large, enlarged))]
    torch.testing.assert_close(tokens[1], tokens[0], rtol=1e-4, atol=1e-4)


def test_a_table_over_space_and_time_grows_frame_by_frame(tiny):
    model = tiny(joint_positions=True, crop=(32, 48))  # 3 frames; 4x6, 3x4 and 2x3 patches
    source = model.pos_tables[2].detach().clone()
    model.grow(2)
    for grid in model.grids[:2]:
        table = model.pos_tables[grid.level]
        assert torch.equal(table[0], source[0])
        for frame, rows in enumerate(table[1:].split(grid.per_frame)):
            picture = source[1:].unflatten(0, (3, 2, 3))[frame].movedim(-1, 0)[None].float()
            by_hand = F.interpolate(picture, (grid.height, grid.width), mode="bicubic", antialias=True)
            torch.testing.assert_close(rows, by_hand[0].flatten(1).T.double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("source", [0, 1, 2])
def test_growing_leaves_the_source_level_and_all_shared_weights_as_they_were(tiny, clips, source):
    model = tiny()
    logits = model(clips(), source)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.grow(source)
    assert torch.equal(model(clips(), source), logits)
    per_level = ("patch_embeds", "pos_tables", "distill_tokens")
    for name, tensor in model.state_dict().items():
        mine = name.startswith((f"patch_embeds.{source}", f"pos_tables.{source}"))
        shared = not name.startswith(per_level) and not name.endswith((".scale", ".shift"))
        assert torch.equal(tensor, before[name]) == (
            mine or shared or (name == "distill_tokens" and source == 0)
        ), name


@pytest.mark.parametrize("source", [0, 2])
def test_growing_copies_norms_and_tokens_and_resizes_tables(tiny, source):
    model = tiny(crop=(32, 48))
    model.grow(source)
    norms = [module for module in model.modules() if isinstance(module, LengthNorm)]
    assert len(norms) == 2 * 3 + 1
    for norm in norms:
        for rows in (norm.scale, norm.shift):
            assert torch.equal(rows, rows[source].expand_as(rows))
    if source:
        assert torch.equal(model.distill_tokens[0], model.distill_tokens[1])
    rows, columns = model.grids[source].height, model.grids[source].width
    picture = model.pos_tables[source][1:].view(rows, columns, 16).permute(2, 0, 1)[None].float()
    for grid in model.grids:
        table = model.pos_tables[grid.level]
        assert torch.equal(table[0], model.pos_tables[source][0])
        if grid.level != source:
            size = (grid.height, grid.width)
            expected = F.interpolate(picture, size, mode="bicubic", antialias=True)[0].flatten(1).T.double()
            torch.testing.assert_close(table[1:], expected, rtol=1e-5, atol=1e-6)


def test_a_grown_larger_kernel_gives_an_enlarged_patch_the_token_of_the_small_one(tiny, clips):
    model = tiny()
    model.grow(0)  # 8 px to 12 and 16 px
    patch = clips(frames=1, height=8, width=8)[:, :, 0]
    token = F.conv2d(patch, model.patch_embeds[0].proj.weight, model.patch_embeds[0].proj.bias)
    for level, side in ((1, 12), (2, 16)):
        enlarged = F.interpolate(patch, (side, side), mode="bicubic", antialias=True)
        grown = F.conv2d(enlarged, model.patch_embeds[level].proj.weight, model.patch_embeds[level].proj.bias)
        torch.testing.assert_close(grown, token, rtol=1e-4, atol=1e-4)


def test_a_plain_colour_keeps_its_token_when_a_smooth_kernel_shrinks(tiny):
    model = tiny()
    largest = model.patch_embeds[2].proj.weight
    with torch.no_grad():
        waves = torch.sin(torch.linspace(0.2, 2.8, 16, dtype=torch.float64))
        largest.copy_(largest[..., :1, :1] * waves[:, None] * waves)
    model.grow(2)
    colour = torch.full((1, 3, 1, 32, 32), 0.6, dtype=torch.float64)
    middle = [
        embed(colour).view(n, n, 16)[n // 2, n // 2]
        for embed, n in zip(model.patch_embeds, (4, 3, 2), strict=True)
    ]
    for token in middle[:2]:
        assert (token - middle[2]).norm() < 0.05 * middle[2].norm()


@pytest.mark.parametrize("kind", ["performer", "transformer"])
def test_smaller_windows_of_t2t_grown_from_large_ones_ask_and_answer_alike_on_a_blank_frame(kind):
    large, small_one = (
        randomize(T2TStem(8, TokenGrid(1, n, n), (224, 224), kind=kind, token_dim=8).double(), seed=n).eval()
        for n in (7, 14)
    )
    first = [stem.attention1 for stem in (large, small_one)]
    linear = [one.kqv if kind == "performer" else one.attn.qkv for one in first]
    with torch.no_grad():  # smooth, as trained ones are
        wave = torch.linspace(0.1, 3.0, 14, dtype=torch.float64).sin()
        weights = linear[0].weight.unflatten(1, (3, 14, 14))
        linear[0].weight.copy_((weights.mean(dim=(-2, -1), keepdim=True) * wave[:, None] * wave).flatten(1))
        for picture in (first[0].norm1.weight, first[0].norm1.bias):
            picture.copy_(picture.unflatten(0, (3, -1)).mean(-1, keepdim=True).expand(-1, 14 * 14).flatten())
    small_one.grow_from(large)
    colours = torch.tensor([0.7, -0.2, 1.1], dtype=torch.float64).view(1, 3, 1, 1)
    windows = [colours.expand(1, 3, *stem.kernel).flatten(1) for stem in (large, small_one)]
    seen = [layer(one.norm1(window)) for layer, one, window in zip(linear, first, windows, strict=True)]
    assert small_one.kernel == (7, 7)
    assert (seen[1] - seen[0]).norm() < 0.02 * seen[0].norm()
