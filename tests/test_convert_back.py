"""A level of a ReViT in an official layout."""

import parity
import pytest
import torch
from conftest import randomize
from test_convert import CASES, FIXTURES, model_like, weights

from revit_video.convert import convert_state_dict, to_official
from revit_video.types import InputError

ROUND_TRIPS = {name: source for name, source in CASES.items() if source not in ("lvvit", "t2t_vit")}
ROUND_TRIPS["ts_space_only"] = "timesformer"
MOTIONFORMER = {"base_crop": 32}  # of the fixtures


@pytest.mark.parametrize(("name", "family"), ROUND_TRIPS.items())
def test_there_and_back_is_exact_with_what_is_dead_as_zeros(name, family):
    state = weights(name)
    options = dict(MOTIONFORMER) if family == "motionformer" else {}
    options |= {"heads": parity.EPIC} if "epic" in name else {}
    model = model_like(name, class_token_only=True)
    ours, _ = convert_state_dict(state, family, target=model)
    model.load_state_dict(ours)
    back = to_official(model, family, **options)
    assert {key: value.shape for key, value in back.items()} == {k: v.shape for k, v in state.items()}
    again, _ = convert_state_dict(back, family, target=model)
    for key, value in ours.items():
        assert torch.equal(again[key], value), key
    summed = ("pos_embed", "dist_token") if "distilled" in name else ()  # their position goes into the token
    for key, value in back.items():
        if key not in summed and not torch.equal(value, state[key]):
            assert ".proj_kv." in key or not value.any(), key  # dead, or its living half is compared above


@pytest.mark.parametrize(
    "name", ["mf_trajectory", "mf_trajectory_z1", "mf_divided", "ts_divided", "ts_joint"]
)
def test_the_layout_that_was_written_gives_the_same_logits(name, tmp_path):
    fixture = parity.read_fixture(FIXTURES / f"{name}.safetensors")
    model = parity.build(fixture, class_token_only=True)
    options = MOTIONFORMER if name.startswith("mf") else {}
    state = to_official(model, parity.family(fixture), **options)
    whole = model_like(name)
    whole.load_state_dict(convert_state_dict(state, target=whole)[0])
    with torch.inference_mode():
        torch.testing.assert_close(
            whole(fixture.stored["input"]), fixture.stored["logits"], rtol=0, atol=1e-5
        )


def test_a_shorter_level_is_an_official_model_of_larger_patches():
    model = randomize(model_like("ts_divided", token_lengths=(4, 2), distill_token=False), seed=5)
    state = to_official(model, "timesformer", level=1)
    assert state["patch_embed.proj.weight"].shape == (48, 3, 16, 16) and state["pos_embed"].shape == (
        1,
        5,
        48,
    )
    single = model_like("ts_divided", token_lengths=(2,))
    single.load_state_dict(convert_state_dict(state, target=single)[0])
    clips = torch.randn(1, 3, 4, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(single(clips), model(clips, level=1))


def test_level_0_leaves_the_students_tokens_behind():
    model = model_like("ts_divided", token_lengths=(4, 2), distill_token=True)
    assert not [key for key in to_official(model, "timesformer") if "dist" in key]


@pytest.mark.parametrize(
    ("changes", "family", "level", "text"),
    [
        (
            {"token_lengths": (4, 2), "distill_token": True},
            "timesformer",
            1,
            r"no place for distill_tokens, head_d",
        ),
        ({"token_lengths": (4, 3)}, "timesformer", 1, "has padded patches"),
        ({"token_lengths": (4, 2), "patch_embed": "resize"}, "timesformer", 1, "has a resized picture"),
        ({"center_clips": True}, "timesformer", 0, "has center_clips"),
        ({"norm_eps": 1e-5}, "timesformer", 0, "norms of another epsilon"),
        ({"crop": (32, 48)}, "timesformer", 0, "frames of another shape than a square"),
        ({"tubelet": 2}, "timesformer", 0, "embeds single frames, the model tubelets; try motionformer"),
        ({"pre_logits": "tanh"}, "timesformer", 0, r"no place for pre_logits\.weight, pre_logits\.bias"),
        ({}, "motionformer", 0, "another kind of attention"),
        ({}, "timm_vit", 0, "another kind of attention"),
        (
            {},
            "hf_timesformer",
            0,
            "family is 'hf_timesformer', but must be one of: timesformer, motionformer, timm",
        ),
        ({}, "timesformer", 1, "level is 1, but the model has the levels 0 to 0"),
    ],
)
def test_what_a_layout_cannot_hold_is_refused(changes, family, level, text):
    with pytest.raises(InputError, match=text):
        to_official(model_like("ts_divided", **changes), family, level)


def test_the_position_table_of_another_crop_is_refused_where_the_official_code_resizes_it():
    model = model_like("mf_trajectory", crop=48, token_lengths=(6,))
    with pytest.raises(
        InputError, match=r"keeps the position table of 32 px .* has its own for 6x6, which would be"
    ):
        to_official(model, "motionformer", **MOTIONFORMER)


def test_two_heads_have_to_add_up():
    with pytest.raises(InputError, match=r"heads=\(3, 5\) have 8 classes, the model 7"):
        to_official(model_like("mf_trajectory"), "motionformer", heads=(3, 5), **MOTIONFORMER)
