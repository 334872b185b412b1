"""Early convolutions as patch embedding: written out plainly, their grids, norms, growth and cost."""

import pytest
import torch
import torch.nn.functional as F
from conftest import randomize
from torch import Tensor

from revit_video.backbones.costs import closed_form_macs, patch_embed_macs
from revit_video.backbones.zoo import create_model
from revit_video.layers.conv_stem import ConvStem
from revit_video.report.macs import count_macs, count_macs_torch
from revit_video.settings import ModelConfig
from revit_video.types import InputError, TokenGrid

SMALL = {"dim": 16, "depth": 1, "heads": 2, "num_classes": 3, "crop": 32, "token_lengths": (4, 3, 2)}
WIDTHS = {"patch_embed": "conv_stem", "patch_embed_options": {"widths": (4, 6)}}


def stem(tokens: int, crop: int = 32, *, seed: int = 0, dim: int = 16, **options) -> ConvStem:
    made = ConvStem(dim, TokenGrid(1, tokens, tokens), (crop, crop), **options).double()
    for norm in made.norms:  # statistics that are no identity
        norm.running_mean.normal_(generator=torch.Generator().manual_seed(seed))
        norm.running_var.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(seed))
    return randomize(made, seed=seed).eval()


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain_stage(maps: Tensor, state: dict[str, Tensor], i: int) -> Tensor:
    """3x3 windows of every second pixel, BatchNorm by its running statistics, ReLU."""
    kernel = state[f"convs.{i}.weight"]
    maps = F.pad(maps, (1, 1, 1, 1))
    rows = []
    for y in range(0, maps.shape[2] - 2, 2):
        windows = [maps[:, :, y : y + 3, x : x + 3].flatten(1) for x in range(0, maps.shape[3] - 2, 2)]
        rows.append(torch.stack(windows, dim=1) @ kernel.flatten(1).T)
    maps = torch.stack(rows, dim=1)  # (M, h, w, width)
    mean, var = state[f"norms.{i}.running_mean"], state[f"norms.{i}.running_var"]
    maps = (maps - mean) / (var + 1e-5).sqrt() * state[f"norms.{i}.weight"] + state[f"norms.{i}.bias"]
    return maps.clamp(min=0).permute(0, 3, 1, 2)


@pytest.mark.parametrize("tokens, kernel, padding", [(4, 2, 0), (3, 3, 0), (2, 4, 0)])
def test_early_convolutions_are_the_papers_written_out_plainly(tokens, kernel, padding):
    made, clips = stem(tokens, widths=(4, 6)), noise(2, 3, 2, 32, 32)
    state, maps = made.state_dict(), clips.transpose(1, 2).flatten(0, 1)  # each frame by itself
    for i in range(2):
        maps = plain_stage(maps, state, i)
    side, split = maps.shape[-1], made.proj.kernel_size[0]
    assert (side, split) == (8, kernel)
    border = split * tokens - side
    maps = F.pad(maps, (border // 2, border - border // 2) * 2)
    patches = maps.unflatten(3, (tokens, split)).unflatten(2, (tokens, split)).permute(0, 2, 4, 1, 3, 5)
    tokens_by_hand = patches.flatten(3) @ state["proj.weight"].flatten(1).T + state["proj.bias"]
    by_hand = tokens_by_hand.flatten(1, 2).unflatten(0, (2, 2))
    torch.testing.assert_close(made(clips), by_hand, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("tokens, kernel, padding", [(14, 2, 0), (10, 3, 1), (7, 4, 0)])
def test_the_last_stage_at_224_px_sets_the_grid(tokens, kernel, padding):
    with torch.device("meta"):
        made = ConvStem(384, TokenGrid(1, tokens, tokens), (224, 224))
        assert made(torch.zeros(1, 3, 1, 224, 224)).shape == (1, 1, tokens**2, 384)
    assert [conv.out_channels for conv in made.convs] == [48, 96, 192]
    assert made.proj.kernel_size == made.proj.stride == (kernel,) * 2
    assert made.proj.padding == (padding,) * 2


@pytest.mark.parametrize("crop, tokens", [(288, (18, 12, 9)), (384, (24, 16, 12)), (97, (13, 7, 5))])
def test_other_crops_have_exactly_their_grids_too(crop, tokens):
    for length in tokens:
        with torch.device("meta"):
            made = ConvStem(16, TokenGrid(1, length, length), (crop, crop))
            assert made(torch.zeros(1, 3, 1, crop, crop)).shape[2] == length**2


def test_a_wide_crop_runs_row_by_row():
    made = randomize(ConvStem(8, TokenGrid(1, 2, 4), (32, 64), widths=(4, 4)).double(), seed=0).eval()
    blank, clip = torch.zeros(2, 1, 3, 1, 32, 64, dtype=torch.float64)
    clip[..., 20:28, 36:44] = 3.0  # row 1, column 2
    change = (made(clip) - made(blank)).norm(dim=-1)[0, 0]
    assert change.shape == (8,) and change.argmax() == 1 * 4 + 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"crop": 112, "token_lengths": (14, 10, 7), "patch_embed_options": {}},
            r"cannot make 10 tokens of 112 px; it can make 1, 2, .*, 7, 8, 14; choose one of these, or "
            r"another crop, or other widths than \[2, 4, 8\]",
        ),
        ({"patch_embed_options": {"widths": ()}}, r"widths of the conv_stem are \[\], but must be one or"),
        ({"patch_embed_options": {"widths": (4, 0)}}, r"are \[4, 0\], but must be one or more numbers"),
        ({"patch_embed_options": {"width": 4}}, "'conv_stem' has no option 'width'; it has: widths"),
        ({"num_frames": 4, "tubelet": 2}, "embeds single frames, not tubelets of 2 frames"),
    ],
)
def test_what_early_convolutions_cannot_do_is_refused(changes, message):
    name = "timesformer_base" if "num_frames" in changes else "deit_tiny"
    with pytest.raises(InputError, match=message):
        create_model(name, **{**SMALL, **WIDTHS, **changes})


def test_every_level_has_norms_of_its_own():
    model = create_model("deit_tiny", **SMALL, **WIDTHS).double().train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    model(noise(2, 3, 1, 32, 32), level=1)
    moved = {name for name, value in model.named_buffers() if not torch.equal(value, before[name])}
    assert {name.split(".")[1] for name in moved} == {"1"} and len(moved) == 2 * 3


def test_frames_of_a_clip_are_embedded_like_pictures():
    model = create_model("timesformer_base", num_frames=3, **SMALL, **WIDTHS)
    model = randomize(model.double(), seed=0).eval()
    clips = noise(2, 3, 3, 32, 32)
    together = model.patch_embeds[1](clips)
    alone = [model.patch_embeds[1](clips[:, :, i : i + 1])[:, 0] for i in range(3)]
    torch.testing.assert_close(together, torch.stack(alone, dim=1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("source", [4, 2])
def test_a_grown_stem_has_the_convolutions_and_statistics_and_resampled_patches(source):
    theirs, ours = stem(source, seed=1, widths=(4, 6)), stem(3, seed=2, widths=(4, 6))
    ours.grow_from(theirs)
    states = ours.state_dict(), theirs.state_dict()
    for name in states[0].keys() - {"proj.weight"}:
        assert torch.equal(states[0][name], states[1][name]), name
    assert ours.proj.weight.shape[-1] == 3 != theirs.proj.weight.shape[-1]
    same = stem(source, seed=3, widths=(4, 6))
    same.grow_from(theirs)
    clips = noise(1, 3, 1, 32, 32)
    assert torch.equal(same(clips), theirs(clips))


def test_larger_patches_of_the_map_grown_from_small_ones_keep_the_token_of_a_blank_frame():
    small, large = stem(12, 96, seed=1, widths=(4, 6)), stem(6, 96, seed=2, widths=(4, 6))
    large.grow_from(small)
    blank = torch.full((1, 3, 1, 96, 96), 0.7, dtype=torch.float64)
    inside = small(blank)[0, 0].unflatten(0, (12, 12))[6, 6]  # the border of a convolution is not blank
    torch.testing.assert_close(large(blank)[0, 0].unflatten(0, (6, 6))[3, 3], inside, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("deit_tiny", WIDTHS),
        ("deit_tiny", {**WIDTHS, "crop": (33, 44)}),
        ("lvvit_tiny", {"patch_embed": "conv_stem"}),
        ("timesformer_base", {**WIDTHS, "num_frames": 2}),
    ],
)
def test_three_counts_of_the_cost_are_one_number(name, changes):
    model = create_model(name, **{**SMALL, **changes}).eval()
    clip = torch.zeros(1, 3, model.num_frames, *model.crop)
    for level in range(3):
        assert count_macs_torch(model, clip, level=level) == closed_form_macs(model, level).total
    if name == "timesformer_base":  # a trace takes a second
        assert count_macs(model, clip, level=1) == closed_form_macs(model, 1).total


def test_early_convolutions_cost_a_third_of_a_gmac_at_every_length():
    with torch.device("meta"):
        model = create_model("deit_small", patch_embed="conv_stem")
    stages = 112**2 * 27 * 48 + 56**2 * 9 * 48 * 96 + 28**2 * 9 * 96 * 192
    for level, (tokens, kernel) in enumerate(((14, 2), (10, 3), (7, 4))):
        assert patch_embed_macs(model, level).total == stages + tokens**2 * kernel**2 * 192 * 384


def test_the_settings_know_the_names_and_no_others():
    assert ModelConfig(patch_embed="conv_stem").patch_embed == "conv_stem"
    with pytest.raises(InputError, match=r"model.patch_embed is 'convstem', but .* Did you mean conv_stem\?"):
        ModelConfig(patch_embed="convstem")
