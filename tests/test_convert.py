"""Weights of other projects in our names, fitted to any geometry, and back."""

from pathlib import Path

import parity
import pytest
import torch

from revit_video.backbones.core import ReViT
from revit_video.convert import convert_state_dict, detect_source
from revit_video.convert.families import unwrapped
from revit_video.convert.resize import resize_positions, resize_time
from revit_video.types import InputError, TokenGrid

FIXTURES = Path(__file__).parent / "data" / "parity"
CASES = {
    "ts_divided": "timesformer",
    "ts_joint": "timesformer",
    "ts_space_only": "timm_vit",  # the very names of a plain ViT
    "mf_trajectory": "motionformer",
    "mf_trajectory_z1": "motionformer",
    "mf_trajectory_st_embed": "motionformer",
    "mf_trajectory_epic_heads": "motionformer",
    "mf_divided": "motionformer",
    "deit_distilled": "timm_vit",
    "lvvit_dense_skip2": "lvvit",
    "t2t_performer": "t2t_vit",
}


def weights(name: str) -> dict[str, torch.Tensor]:
    return parity.read_fixture(FIXTURES / f"{name}.safetensors").state


def model_like(name: str, *, seed: int = 0, **changes) -> ReViT:
    """A fresh ReViT of the fixture's sizes, but for the changes."""
    torch.manual_seed(seed)
    fixture = parity.read_fixture(FIXTURES / f"{name}.safetensors")
    return ReViT(**{**parity.settings(fixture, class_token_only=False), **changes}).eval()


def fates(rows: list[dict]) -> dict[str, set[str]]:
    """What became of each group of parameters."""
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row["what"], set()).add(row["became"])
    return found


@pytest.mark.parametrize(("name", "source"), CASES.items())
@pytest.mark.parametrize("prefix", ["", "model.", "module.model."])
def test_the_keys_tell_where_weights_come_from(name, source, prefix):
    state = {prefix + key: value for key, value in weights(name).items()}
    assert detect_source(unwrapped(state)) == source


def test_keys_of_no_known_layout_are_shown_with_the_known_ones():
    state = {"features.0.weight": torch.zeros(1), "classifier.1.bias": torch.zeros(1)}
    with pytest.raises(
        InputError, match=r"first keys are features\.0\.weight, classifier\.1\.bias; name the "
    ):
        convert_state_dict(state)
    with pytest.raises(
        InputError, match=r"timesformer .*motionformer .*hf_timesformer .*lvvit .*t2t_vit .*timm"
    ):
        convert_state_dict(state)


def test_keys_of_two_layouts_have_to_be_named():
    state = weights("ts_divided") | {"temp_embed": torch.zeros(1, 4, 48)}
    with pytest.raises(InputError, match="could be any of timesformer, motionformer"):
        convert_state_dict(state)


def test_our_own_names_need_no_conversion():
    with pytest.raises(InputError, match="own names already"):
        convert_state_dict(model_like("ts_divided").state_dict())


def test_a_source_that_does_not_exist_is_refused():
    with pytest.raises(InputError, match="source is 'vit', but must be one of: timesformer, motionformer"):
        convert_state_dict(weights("ts_joint"), "vit")


def test_keys_without_a_rule_are_all_listed():
    state = weights("ts_divided")
    state |= {f"blocks.{i}.ls1.gamma": torch.ones(48) for i in range(3)} | {"fc_norm.weight": torch.ones(48)}
    with pytest.raises(InputError, match=r"4 keys that .*: blocks\.\*\.ls1\.gamma \(3x\), fc_norm\.weight;"):
        convert_state_dict(state)


@pytest.mark.parametrize(
    ("gone", "named"),
    [
        ("blocks.1.temporal_attn.qkv.weight", "blocks.1.time.attn.qkv.weight"),
        ("blocks.2.mlp.fc1.bias", "blocks.2.mlp.fc1.bias"),
        ("pos_embed", "pos_tables.0"),
        ("head.weight", "head.weight"),
    ],
)
def test_a_missing_tensor_is_named_whoever_the_target_is(gone, named):
    state = {key: value for key, value in weights("ts_divided").items() if key != gone}
    for target in (None, model_like("ts_divided")):
        with pytest.raises(InputError, match=f"lacks 1 parameters .*: {named} "):
            convert_state_dict(state, target=target)


def test_a_parameter_without_a_source_is_listed():
    state = {key: value for key, value in weights("ts_divided").items() if key != "time_embed"}
    with pytest.raises(InputError, match=r"1 parameters of the model are not in it \(time_table\)"):
        convert_state_dict(state, target=model_like("ts_divided"))


def test_a_tensor_that_the_target_has_no_place_for_is_listed_by_their_name():
    with pytest.raises(
        InputError, match=r"no place for 24 of its tensors \(blocks\.\*\.temporal_attn\.proj\.bias \(3x"
    ):
        convert_state_dict(weights("ts_divided"), target=model_like("ts_joint"))


def test_another_width_and_depth_are_said_before_all_keys():
    target = model_like("ts_divided", dim=24, depth=2, heads=3)
    with pytest.raises(InputError, match=r"has dim 48 \(model: 24\), depth 3 \(model: 2\), MLP width 192 "):
        convert_state_dict(weights("ts_divided"), target=target)


def test_what_is_dead_in_a_motionformer_is_dropped_by_name_and_reported():
    _, rows = convert_state_dict(
        weights("mf_trajectory"), target=model_like("mf_trajectory", class_token_only=True)
    )
    dropped = {(what, fate) for what, became in fates(rows).items() for fate in became if "theirs" in what}
    alone, block = "dropped: the last block computes the class token alone", "theirs: blocks.*.attn."
    assert dropped == {
        ("theirs: patch_embed.proj", "dropped: tubelets of several frames"),
        (f"{block}proj_kv", "dropped: the same for every frame, cancels in the softmax"),
        (f"{block}proj_kv", "dropped: attention mode original"),
        (f"{block}proj_kv", alone),
        (f"{block}proj_q", alone),
    }


@pytest.mark.parametrize("name", [name for name in CASES if "st_embed" not in name and "t2t" not in name])
def test_a_fixed_length_becomes_the_revit_that_growing_makes_of_it(name):
    state = weights(name)
    length = model_like(name).token_lengths[0]
    several = {"token_lengths": (length, length - 1), "distill_token": "deit" in name}
    source = "timesformer" if name.startswith("ts") else None
    single, grown, fitted = model_like(name), model_like(name, **several), model_like(name, **several)
    single.load_state_dict(convert_state_dict(state, source, target=single)[0])
    theirs, _ = convert_state_dict(state, source, target=fitted)
    fitted.load_state_dict(theirs)
    grown.load_state_dict(theirs)
    with torch.no_grad():  # what growing has to make
        grown.pos_tables[1].zero_()
        for norm in (module for module in grown.modules() if hasattr(module, "copy_level")):
            norm.scale[1] = norm.shift[1] = 0
    grown.grow(0)
    for key, value in grown.state_dict().items():
        torch.testing.assert_close(fitted.state_dict()[key], value, rtol=0, atol=0)
    clip = parity.read_fixture(FIXTURES / f"{name}.safetensors").stored["input"]
    clip = clip if clip.ndim == 5 else clip[:, :, None]
    torch.testing.assert_close(fitted(clip), single(clip), rtol=0, atol=2e-6)


def test_tables_are_resized_in_two_dimensions_and_not_along_the_list():
    old, new = TokenGrid(1, 4, 4), TokenGrid(1, 6, 6)
    rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
    table = torch.cat([torch.tensor([[7.0, 7.0]]), torch.stack([rows, columns], -1).flatten(0, 1)])
    resized = {
        how: resize_positions(table, old, new, resize=how) for how in ("bicubic", "nearest", "flat_nearest")
    }
    assert all(torch.equal(one[0], table[0]) for one in resized.values()), "the class token's row stays"
    picture = {how: one[1:].unflatten(0, (6, 6)) for how, one in resized.items()}
    assert torch.equal(picture["nearest"][0, :, 1], torch.tensor([0.0, 0, 1, 2, 2, 3]))  # floor(i * 4 / 6)
    for how in ("bicubic", "nearest"):
        torch.testing.assert_close(picture[how][..., 1], picture[how][:1, :, 1].expand(6, 6))
        assert (picture[how].diff(dim=1)[..., 1] >= 0).all()
    assert (picture["flat_nearest"].diff(dim=1)[..., 1] < 0).any(), "rows run into each other"


def test_time_is_linear_between_frames_or_nearest():
    table = torch.tensor([[0.0], [4.0]])
    assert resize_time(table, 4, resize="nearest").flatten().tolist() == [0, 0, 4, 4]
    assert resize_time(table, 4, resize="bicubic").flatten().tolist() == [0, 1, 3, 4]
    assert resize_time(table, 2, resize="bicubic") is table


def test_an_unknown_resize_is_refused():
    with pytest.raises(
        InputError, match="resize is 'bilinear', but must be one of: bicubic, nearest, flat_near"
    ):
        convert_state_dict(weights("ts_joint"), target=model_like("ts_joint"), resize="bilinear")


VIT = "ts_space_only"  # as plain image weights


@pytest.mark.parametrize(
    "video",
    [
        {"attention": "divided", "num_frames": 3},
        {"attention": "space_only", "num_frames": 2},
    ],
)
def test_image_weights_make_a_video_model_that_says_of_a_still_clip_what_they_say_of_the_image(video):
    image = model_like(VIT, attention="joint", num_frames=1)
    image.load_state_dict(convert_state_dict(weights(VIT), target=image)[0])
    clip_model = model_like(VIT, **video)
    state, rows = convert_state_dict(weights(VIT), target=clip_model)
    clip_model.load_state_dict(state)
    picture = torch.randn(2, 3, 1, 32, 32, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        still = clip_model(picture.expand(-1, -1, video["num_frames"], -1, -1))
        torch.testing.assert_close(still, image(picture), rtol=0, atol=1e-5)
    became = fates(rows)
    if video["attention"] == "divided":
        assert became["blocks.*.time.fc"] == {"newly initialised: zero"} == became["time_table"]
        assert became["blocks.*.time.attn.qkv"] == {"copied from the attention over space"}
        assert torch.equal(state["blocks.1.time.norm.scale"], state["blocks.1.norm1.scale"])


def test_a_tubelet_kernel_reads_the_middle_frame():
    target = model_like(VIT, attention="joint", num_frames=6, tubelet=3)
    kernel = convert_state_dict(weights(VIT), target=target)[0]["patch_embeds.0.proj.weight"]
    assert torch.equal(kernel[:, :, 1], weights(VIT)["patch_embed.proj.weight"])
    assert not kernel[:, :, 0].any() and not kernel[:, :, 2].any()


def test_motionformers_divided_blocks_start_without_their_time_step():
    target = model_like(VIT, attention="mf_divided", num_frames=4)
    state, _ = convert_state_dict(weights(VIT), target=target)
    assert (
        not state["blocks.1.time_attn.proj.weight"].any() and not state["blocks.1.time_attn.proj.bias"].any()
    )
    assert torch.equal(state["blocks.1.time_attn.qkv.weight"], state["blocks.1.attn.qkv.weight"])


def test_trajectory_attention_from_an_image_keeps_its_fresh_second_step():
    target = model_like("mf_trajectory", num_frames=4, tubelet=1)
    state, rows = convert_state_dict(weights(VIT), target=target)
    assert torch.equal(state["blocks.0.attn.proj_q.weight"], target.blocks[0].attn.proj_q.weight)
    assert fates(rows)["blocks.*.attn.proj_q"] == {"newly initialised"} == fates(rows)["pre_logits"]


def test_a_shorter_length_starts_its_distillation_token_as_its_class_token():
    target = model_like("ts_divided", token_lengths=(4, 2), distill_token=True)
    state, rows = convert_state_dict(weights("ts_divided"), target=target)
    assert torch.equal(state["distill_tokens"][0], state["class_token"] + state["pos_tables.1"][0])
    assert torch.equal(state["head_distill.weight"], state["head.weight"])
    assert fates(rows)["head_distill"] == {"copied from the class token's"}


def test_a_distilled_model_does_not_lose_its_token():
    target = model_like("deit_distilled", distilled=False)
    with pytest.raises(InputError, match="set distilled=True"):
        convert_state_dict(
            weights("deit_distilled"),
            target=model_like("deit_distilled", distilled=False, token_lengths=(5, 3), distill_token=True),
        )
    with pytest.raises(InputError, match=r"no place for 3 of its tensors \(dist_token, head_dist\.bias"):
        convert_state_dict(weights("deit_distilled"), target=target)


def test_another_number_of_classes_needs_a_new_head_to_be_asked_for():
    target = model_like("ts_divided", num_classes=11)
    with pytest.raises(InputError, match="has 7 classes, the model 11; give num_classes=7, or new_head"):
        convert_state_dict(weights("ts_divided"), target=target)
    state, rows = convert_state_dict(weights("ts_divided"), target=target, new_head=True)
    assert torch.equal(state["head.weight"], target.head.weight)
    assert fates(rows)["head"] == {"newly initialised"}


def test_the_target_itself_stays_as_it_was():
    target = model_like("ts_divided", token_lengths=(4, 2))
    before = {key: value.clone() for key, value in target.state_dict().items()}
    convert_state_dict(weights("ts_divided"), target=target)
    assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())
