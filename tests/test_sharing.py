"""What lengths may share for the ablation: patch kernel, position table, norms; and how much they own."""

import pytest
import torch
import torch.nn.functional as F

from revit_video.backbones.costs import closed_form_macs
from revit_video.backbones.parameters import PARTS, parameter_parts
from revit_video.backbones.zoo import create_model
from revit_video.convert import convert_state_dict, to_official
from revit_video.layers.length_norm import LengthNorm
from revit_video.report.macs import count_macs, count_macs_torch
from revit_video.train.optim import build_optimizers, grow_moments
from revit_video.types import InputError

KERNEL, PADDED, BICUBIC = {"patch_embed": "shared"}, {"positions": "shared"}, {"positions": "shared_bicubic"}
NORMS = {"norms": "shared"}
ALL = {**KERNEL, **BICUBIC, **NORMS}
OPTIONS = [KERNEL, PADDED, BICUBIC, NORMS, ALL]
SMALL = {"dim": 24, "depth": 2, "heads": 2, "num_classes": 5, "crop": 32, "token_lengths": (4, 3, 2)}


def stacked(frames, grid):
    """Rows of a table as pictures (t, D, h, w)."""
    return frames.unflatten(0, (-1, grid.height, grid.width)).permute(0, 3, 1, 2)


# the patch kernel


@pytest.mark.parametrize("crop", [(32, 32), (37, 50)])
@pytest.mark.parametrize("tubelet", [1, 2])
def test_each_length_takes_the_middle_of_one_kernel(tiny, clips, crop, tubelet):
    shared = tiny(crop=crop, num_frames=4, tubelet=tubelet, **KERNEL)
    apart = tiny(crop=crop, num_frames=4, tubelet=tubelet)
    assert len(shared.patch_embeds) == 1
    whole = shared.patch_embeds[0].proj
    for embed in apart.patch_embeds:  # the same patches and padding; the kernels are cut out by hand
        rows, columns = embed.proj.kernel_size[-2:]
        top, left = (whole.kernel_size[-2] - rows) // 2, (whole.kernel_size[-1] - columns) // 2
        embed.proj.weight.data = whole.weight[..., top : top + rows, left : left + columns].detach().clone()
        embed.proj.bias.data = whole.bias.detach().clone()
    apart.load_state_dict({**apart.state_dict(), **without_stems(shared)})
    x = clips(frames=4, height=crop[0], width=crop[1])
    for level in range(3):
        torch.testing.assert_close(shared(x, level), apart(x, level), rtol=1e-12, atol=1e-12)


def without_stems(model):
    return {key: value for key, value in model.state_dict().items() if not key.startswith("patch_embeds")}


def test_at_224_px_these_are_the_middle_16_and_24_of_32_pixels():
    with torch.device("meta"):
        embed = create_model("deit_tiny", **KERNEL).patch_embeds[0]
    assert tuple(embed.proj.weight.shape) == (192, 3, 32, 32)
    assert [tuple(embed.kernel(level).shape[-2:]) for level in range(3)] == [(16, 16), (24, 24), (32, 32)]
    assert [embed.kernel(level).storage_offset() for level in range(3)] == [8 * 32 + 8, 4 * 32 + 4, 0]


def test_a_short_patch_teaches_the_middle_of_the_kernel_alone(tiny, clips):
    model = tiny(**KERNEL)
    model(clips(), 0).sum().backward()
    taught = model.patch_embeds[0].proj.weight.grad.abs().amax(dim=(0, 1)) > 0
    assert taught[4:12, 4:12].all() and taught.sum() == 64


# the position table


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize(("options", "level"), [(PADDED, 2), (BICUBIC, 0)])
def test_one_table_serves_all_lengths(tiny, clips, options, level, joint):
    model = tiny(crop=(32, 48), joint_positions=joint, **options)
    own, (table,) = model.grids[level], model.pos_tables
    assert len(table) == 1 + (3 if joint else 1) * own.per_frame
    apart = tiny(crop=(32, 48), joint_positions=joint)
    state = without_tables(model)
    for grid in model.grids:
        pictures = stacked(table[1:].detach(), own)
        if options == PADDED:
            larger = pictures.new_zeros(len(pictures), 16, grid.height, grid.width)
            top, left = (grid.height - own.height) // 2, (grid.width - own.width) // 2
            larger[..., top : top + own.height, left : left + own.width] = pictures
        else:
            size = (grid.height, grid.width)
            larger = F.interpolate(pictures.float(), size, mode="bicubic", antialias=True).double()
        rows = larger.permute(0, 2, 3, 1).flatten(0, 2)
        state[f"pos_tables.{grid.level}"] = torch.cat([table[:1].detach(), rows])
    apart.load_state_dict(state)
    for grid in model.grids:
        torch.testing.assert_close(model(clips(width=48), grid.level), apart(clips(width=48), grid.level))


def without_tables(model):
    return {key: value for key, value in model.state_dict().items() if not key.startswith("pos_tables")}


@pytest.mark.parametrize(("options", "reached"), [(PADDED, 5), (BICUBIC, 17)])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_every_length_teaches_the_whole_table(tiny, clips, options, reached, level):
    model = tiny(**options)
    model(clips(), level).sum().backward()
    assert (model.pos_tables[0].grad.abs().amax(dim=1) > 0).sum() == reached


# the norms


def test_shared_norms_are_plain_ones(tiny, clips):
    shared, apart = tiny(**NORMS), tiny()
    norms = [module for module in shared.modules() if isinstance(module, LengthNorm)]
    assert all(norm.scale.shape == norm.shift.shape == (1, 16) for norm in norms)
    state = shared.state_dict()
    rows = {key: value for key, value in state.items() if key.endswith((".scale", ".shift"))}
    apart.load_state_dict({**state, **{key: value.expand(3, -1) for key, value in rows.items()}})
    for level in range(3):
        assert torch.equal(shared(clips(), level), apart(clips(), level))


# all of them


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_growing_leaves_what_is_shared_and_grows_the_rest(tiny, clips, options):
    model = tiny(**options)
    logits, before = model(clips(), 2), {key: value.clone() for key, value in model.state_dict().items()}
    model.grow(2)
    assert torch.equal(model(clips(), 2), logits)
    grown = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    own = {"patch_embeds": KERNEL, "pos_tables": None, "scale": NORMS}
    for part, option in own.items():
        shared = "positions" in options if option is None else option.items() <= options.items()
        assert any(part in name for name in grown) != shared
    assert "distill_tokens" in grown


def test_the_optimizers_memory_of_a_shared_row_stays_when_a_model_grows(tiny, clips):
    model = tiny(**ALL)
    optimizers = build_optimizers(model, "adamw", lr=0.01, weight_decay=0.0)
    model(clips(), 2).square().sum().backward()
    optimizers[0].step()
    moment = optimizers[0].state[model.norm.scale]["exp_avg"].clone()
    grow_moments(optimizers, model, 2)
    assert moment.abs().amin() > 0
    assert torch.equal(optimizers[0].state[model.norm.scale]["exp_avg"], moment)


@pytest.mark.parametrize("options", [KERNEL, PADDED, ALL], ids=str)
@pytest.mark.parametrize("name", ["deit_tiny", "motionformer_base"])
def test_sharing_costs_nothing_and_three_counts_agree(name, options):
    frames = {"num_frames": 4, "joint_positions": True} if name == "motionformer_base" else {}
    model = create_model(name, **SMALL, **frames, **options).eval()
    plain = create_model(name, **SMALL, **frames)
    clip = torch.zeros(1, 3, model.num_frames, 32, 32)
    for level in range(3):
        macs = closed_form_macs(model, level)
        assert macs == closed_form_macs(plain, level)
        assert count_macs_torch(model, clip, level=level) == macs.total
    if name == "deit_tiny" and options == ALL:  # a trace takes a second
        assert count_macs(model, clip, level=1) == closed_form_macs(model, 1).total


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions": "bicubic"}, "positions is 'bicubic', but must be one of: separate, shared, shared_b"),
        ({"norms": "none"}, "norms is 'none', but must be one of: separate, shared"),
        ({**PADDED, "pos_init": "sine_1d"}, "positions='shared' shares a table that is learned"),
        ({**KERNEL, "patch_embed_options": {"width": 3}}, "'shared' has no option 'width'; it has: .*even"),
    ],
)
def test_what_cannot_be_shared_is_refused(tiny, changes, message):
    with pytest.raises(InputError, match=message):
        tiny(**changes)


# weights of other projects


def one_length(**changes):
    """A plain ViT of 4x4 patches, all of it random, and its official names."""
    from conftest import randomize

    model = create_model("deit_tiny", **{**SMALL, "token_lengths": (4,), **changes}).double()
    model = randomize(model, seed=3).eval()
    return model, to_official(model, "timm_vit")


@pytest.mark.parametrize("options", [KERNEL, BICUBIC, NORMS, ALL], ids=str)
def test_a_fixed_length_becomes_the_longest_of_a_model_that_shares(options):
    plain, official = one_length()
    model = create_model("deit_tiny", **SMALL, **options).double().eval()
    state, rows = convert_state_dict(official, target=model)
    model.load_state_dict(state)
    x = torch.randn(2, 3, 1, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(model(x), plain(x), rtol=0, atol=1e-6)  # kernels are fitted in float32
    if options == KERNEL:
        assert any("the middle of the shared kernel" in str(row) for row in rows)
        outside = model.patch_embeds[0].proj.weight.detach().clone()
        outside[..., 4:12, 4:12] = 0
        assert not outside.any()


def test_a_padded_table_takes_positions_of_its_own_grid_and_no_others():
    official = one_length()[1]
    model = create_model("deit_tiny", **SMALL, **PADDED).double()
    with pytest.raises(InputError, match=r"positions of 4x4 patches, which a shared table of 2x2 with zeros"):
        convert_state_dict(official, target=model)
    same = create_model("deit_tiny", **{**SMALL, "token_lengths": (4,)}, **PADDED).double()
    assert torch.equal(convert_state_dict(official, target=same)[0]["pos_tables.0"], official["pos_embed"][0])


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("level", [0, 2])
def test_a_length_of_a_model_that_shares_goes_back_to_the_official_names(tiny, clips, options, level):
    model = tiny(num_frames=1, attention="joint", distill_token=False, **options)
    official = to_official(model, "timm_vit", level)
    length = model.token_lengths[level]
    alone = tiny(num_frames=1, attention="joint", token_lengths=(length,))
    alone.load_state_dict(convert_state_dict(official, target=alone)[0])
    x = clips(frames=1)
    torch.testing.assert_close(alone(x), model(x, level), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("options", [KERNEL, PADDED, NORMS], ids=str)
def test_a_state_whose_lengths_share_does_not_say_how_and_is_refused(tiny, options):
    model = tiny(num_frames=1, attention="joint", distill_token=False, **options)
    with pytest.raises(InputError, match=r"of a model whose lengths share some of them; give the model"):
        to_official(model.state_dict(), "timm_vit", 0)


# how many parameters that makes


def parts(**changes):
    with torch.device("meta"):
        model = create_model(changes.pop("name", "deit_small"), **changes)
    counted = parameter_parts(model)
    assert sum(counted.values()) == sum(parameter.numel() for parameter in model.parameters())
    assert list(counted) == list(PARTS)
    return counted


PATCHES, GRIDS, DIM = (16, 24, 32), (14, 10, 7), 384


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"patch embeddings": sum(3 * p * p * DIM + DIM for p in PATCHES)}),
        ({}, {"position tables": sum(1 + g * g for g in GRIDS) * DIM, "norms": 25 * 2 * 3 * DIM}),
        ({}, {"distillation": 2 * DIM + 1000 * DIM + 1000}),
        ({"patch_embed": "resize"}, {"patch embeddings": 3 * (3 * 16 * 16 * DIM + DIM)}),
        (KERNEL, {"patch embeddings": 3 * 32 * 32 * DIM + DIM}),
        (PADDED, {"position tables": 50 * DIM}),
        (BICUBIC, {"position tables": 197 * DIM}),
        (NORMS, {"norms": 25 * 2 * DIM}),
        (
            {"patch_embed": "conv_stem"},
            {
                "patch embeddings": sum(
                    9 * (3 * 48 + 48 * 96 + 96 * 192) + 2 * (48 + 96 + 192) + 192 * k * k * DIM + DIM
                    for k in (2, 3, 4)
                )
            },
        ),
    ],
    ids=str,
)
def test_parameters_of_each_part_are_those_of_the_formula(options, expected):
    counted = parts(**options)
    assert {part: counted[part] for part in expected} == expected


def test_three_lengths_of_deit_small_have_less_than_a_tenth_more_parameters_than_one():
    plain, revit = parts(token_lengths=(14,)), parts(distill_token=False)
    assert revit["shared"] == plain["shared"]
    grown = sum(revit.values()) / sum(plain.values()) - 1
    assert grown == pytest.approx(0.088, abs=5e-4)
    assert sum(parts().values()) / sum(plain.values()) - 1 == pytest.approx(0.1055, abs=5e-4)  # and a head


def test_lv_vit_small_stays_below_a_tenth_with_plain_patches_and_not_with_its_own_stem():
    plain = sum(parts(name="lvvit_small", token_lengths=(14,)).values())
    conv = parts(name="lvvit_small", patch_embed="conv", distill_token=False)
    flat = sum(parts(name="lvvit_small", patch_embed="conv", token_lengths=(14,)).values())
    assert sum(conv.values()) / flat - 1 < 0.1
    own = sum(parts(name="lvvit_small", distill_token=False).values())
    assert own / plain - 1 == pytest.approx(0.386, abs=2e-3)
