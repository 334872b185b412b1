"""The rivals by name: in the zoo, the settings, checkpoints, the commands; what they cost and what is
refused.
"""

import json
import sys

import parity
import pytest
import torch
from safetensors.torch import save_file
from small_run import ROOT, run_tool

from revit_video.backbones.costs import closed_form_macs
from revit_video.build.networks import build_model
from revit_video.competitors.evit import EViT
from revit_video.competitors.random_drop import RandomDrop
from revit_video.competitors.tome import ToMe
from revit_video.competitors.zoo import CASCADES, build_reducer, create_model
from revit_video.config import config_from_dict, config_to_dict, override_config
from revit_video.convert import create_model as create_with_weights
from revit_video.report.macs import count_macs, count_macs_torch
from revit_video.types import InputError

SHARED = ROOT.parent / "shared" / "parity" / "image"
SMALL = {"dim": 24, "depth": 4, "heads": 2, "num_classes": 5, "crop": 32, "token_lengths": (4, 3, 2)}
REDUCERS = {
    "evit": {"name": "evit", "keep": 0.6},
    "evit without fusing": {"name": "evit", "keep": 0.6, "fuse": False},
    "tome": {"name": "tome", "r": 2},
    "tome, falling": {"name": "tome", "r": 2, "inflect": -1},
    "random drop": {"name": "random_drop", "keep": [1, 0.5, 1, 0.5]},
}


def small(name, **changes):
    return create_model(name, **{**SMALL, **changes}).eval()


def clip_of(model, device="cpu", batch=1):
    return torch.randn(batch, 3, model.num_frames, *model.crop, device=device)


# official outputs that are too large for the repository


@pytest.mark.shared
@pytest.mark.parametrize(
    "path",
    sorted(path for kind in ("evit", "tome", "dvt") for path in SHARED.glob(f"{kind}_*")),
    ids=lambda p: p.stem,
)
def test_the_official_code_gave_the_same(path):
    found = list(parity.compare(path))
    assert found and [one for one in found if one.fails] == []


# costs


@pytest.mark.parametrize("reducer", REDUCERS)
@pytest.mark.parametrize(
    "name", ["deit_small", "deit_small_distilled", "lvvit_small", "t2t_vit_12", "timesformer_joint_base"]
)
def test_three_counts_of_a_reduced_model_are_one_number(name, reducer):
    model = small(name, reducer=REDUCERS[reducer], **({"num_frames": 3} if "times" in name else {}))
    clip = clip_of(model)
    for level in range(3):
        assert count_macs_torch(model, clip, level=level) == closed_form_macs(model, level).total
    if name in ("deit_small", "lvvit_small"):
        assert count_macs(model, clip, level=1) == closed_form_macs(model, 1).total


@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("reducer", ["tome", "random drop"])
@pytest.mark.parametrize("name", ["timesformer_base", "motionformer_base", "timesformer_space_base"])
def test_so_they_are_of_tubes_and_of_frames_apart(name, reducer, short):
    model = small(name, reducer=REDUCERS[reducer], num_frames=4, class_token_only=short)
    for level in range(3):
        assert count_macs_torch(model, clip_of(model), level=level) == closed_form_macs(model, level).total
    assert count_macs(model, clip_of(model), level=1) == closed_form_macs(model, 1).total


def flops_rows(tmp_path, *arguments):
    out = tmp_path / "costs.json"
    assert run_tool("flops.py", *arguments, "--json", out) == 0
    return json.loads(out.read_text())


@pytest.mark.parametrize(
    "words, gmacs",
    [
        (["evit", "keep=0.7"], 3.036),
        (["evit", "keep=0.5"], 2.314),
        (["evit", "keep=0.7", "fuse=false"], 3.003),
        (["tome", "r=8"], 3.428),
        (["tome", "r=13"], 2.712),
    ],
)
def test_reduced_deit_costs_what_the_authors_code_costs(tmp_path, words, gmacs):
    """Their figures are fvcore's, norms included."""
    (row,) = flops_rows(tmp_path, "--model", "deit_small", "--token-lengths", 14, "--reducer", *words)
    assert row["gmacs"] + row["norm_gmacs"] == pytest.approx(gmacs, abs=6e-4)
    assert row["gmacs"] == pytest.approx(gmacs, rel=5e-3)


@pytest.mark.parametrize(
    "name, gmacs",
    [
        ("dvt_t2t_vit_12", (3.498, 1.462, 0.472)),
        ("dvt_t2t_vit_14", (9.328, 3.841, 1.207)),
        ("dvt_deit_small", (8.844, 3.656, 1.145)),
    ],
)
def test_dvt_costs_what_the_authors_code_costs(tmp_path, name, gmacs):
    """Up to every exit. fvcore counts norms, and resizing, which is not in ours."""
    rows = flops_rows(tmp_path, "--model", name)
    assert [row["length"] for row in rows] == [14, 10, 7]
    assert [row["gmacs"] + row["norm_gmacs"] for row in rows] == [
        pytest.approx(one, rel=5e-3) for one in gmacs
    ]


@pytest.mark.parametrize(
    "crop, keep, gmacs",
    [(256, 0.5, 3.063), (288, 0.5, 3.950), (304, 0.5, 4.445), (256, 0.6, 3.495), (272, 0.7, 4.569)],
)
def test_evit_at_higher_resolution_costs_what_the_authors_code_costs(crop, keep, gmacs):
    with torch.device("meta"):
        model = create_model(
            "deit_small", crop=crop, token_lengths=(crop // 16,), reducer={"name": "evit", "keep": keep}
        )
    assert closed_form_macs(model).total / 1e9 == pytest.approx(gmacs, rel=5e-3)


# names, settings, checkpoints


@pytest.mark.parametrize("name", CASCADES)
def test_every_cascade_runs_and_learns(name):
    lengths = (4,) if name.startswith("depth") else (4, 3, 2)
    model = create_model(name, **{**SMALL, "token_lengths": lengths})
    every = model(clip_of(model, batch=2), all_exits=True)
    assert [one.shape for one in every] == [(2, 5)] * 3
    sum(one.square().sum() for one in every).backward()
    assert [
        key for key, value in model.named_parameters() if value.requires_grad and value.grad is None
    ] == []


def test_a_reducer_has_a_name_a_mapping_or_is_there_already():
    assert build_reducer("tome") == ToMe()
    assert build_reducer({"name": "evit", "keep": [1, 0.5]}) == EViT((1, 0.5))
    assert build_reducer(RandomDrop(0.4)) == RandomDrop(0.4)


def test_the_settings_and_a_checkpoint_hold_a_reducer():
    made = {"model": {"name": "deit_small", "options": {**SMALL, "reducer": {"name": "tome", "r": 3}}}}
    for key in ("num_classes", "crop", "token_lengths"):
        made["model"]["options"].pop(key)
    made["model"]["token_lengths"] = [4, 3, 2]
    made["data"] = {"root": ".", "num_frames": 1, "crop": 32, "train_jitter": [32, 36], "test_short_side": 32}
    config = override_config(config_from_dict(made, source="test"), ["model.options.reducer.r=2"])
    again = config_from_dict(json.loads(json.dumps(config_to_dict(config))), source="checkpoint")
    for one in (config, again):
        assert build_model(one, 5).reducer == ToMe(2)
    plain = create_model("deit_small", **SMALL)
    assert build_model(config, 5).state_dict().keys() == plain.state_dict().keys()


def test_a_reduced_model_has_the_weights_of_the_plain_one_and_can_be_told_to_be_it():
    plain, reduced = small("deit_small"), small("deit_small", reducer=ToMe(2))
    reduced.load_state_dict(plain.state_dict())
    clip = clip_of(plain, batch=2)
    with torch.inference_mode():
        assert not reduced(clip).allclose(plain(clip))
        assert reduced(clip, reducer=ToMe(0)).equal(plain(clip))
        assert reduced(clip).equal(plain(clip, reducer=ToMe(2)))


@pytest.mark.parametrize("dtype", ["autocast", "weights"])
@pytest.mark.parametrize("name", ["deit_small", "timesformer_base", "motionformer_base"])
def test_bfloat16_runs_and_learns(name, dtype):
    model = create_model(name, **SMALL, reducer=ToMe(2), **({} if "deit" in name else {"num_frames": 4}))
    clip = clip_of(model, batch=2)
    if dtype == "weights":
        model, clip = model.bfloat16(), clip.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "autocast"):
        loss = model(clip, 1).float().square().sum()
    loss.backward()
    assert loss.isfinite()


def test_official_weights_make_a_cascade(tmp_path):
    fixture = parity.read_fixture(ROOT / "tests/data/parity/dvt_t2t_performer_f1r1.safetensors")
    save_file(fixture.state, tmp_path / "theirs.safetensors")
    sizes = {"num_classes": 10, "dim": 24, "depth": 3, "heads": 2, "mlp_ratio": 2.0}
    sizes["patch_embed_options"] = {"token_dim": 16}
    weights = tmp_path / "theirs.safetensors"
    model = create_with_weights("dvt_t2t_vit_12", weights=weights, say=None, **sizes)
    clip = fixture.stored["input_f16"].float()[:, :, None]
    with torch.inference_mode():
        torch.testing.assert_close(model.eval()(clip), fixture.stored["logits2"], rtol=0, atol=2e-4)


@pytest.mark.parametrize("reducer", [{"name": "evit", "keep": 0.5}, "random_drop", {"name": "tome", "r": 2}])
def test_recomputing_blocks_gives_the_same_gradients(reducer):
    model = create_model("deit_small", **SMALL, reducer=reducer)
    clip, grads = clip_of(model, batch=2), []
    for recompute in (False, True):
        model.zero_grad()
        torch.manual_seed(0)
        model(clip, recompute=recompute).square().sum().backward()
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(grads[1], grads[0])


# random drop


def test_lots_without_gradients_are_the_seeds_and_the_same_for_every_picture():
    model = small("deit_small")
    clip = clip_of(model, batch=3)
    with torch.inference_mode():
        kept = model(clip, full_output=True, reducer=RandomDrop(0.5)).kept
        assert kept.owner[0].equal(kept.owner[2])
        assert model(clip, reducer=RandomDrop(0.5)).equal(model(clip, reducer=RandomDrop(0.5)))
        assert not model(clip, reducer=RandomDrop(0.5)).equal(model(clip, reducer=RandomDrop(0.5, seed=1)))
    kept = model.train()(clip, full_output=True, reducer=RandomDrop(0.5)).kept
    assert not kept.owner[0].equal(kept.owner[2])


def test_about_as_many_are_left_as_of_evit_without_fusing():
    for units in (196, 100, 49):
        steps = zip(RandomDrop(0.7).per_block(12), EViT(0.7, fuse=False).per_block(12), strict=True)
        for ours, theirs in steps:
            assert (ours is None) == (theirs is None)
            if ours:
                assert ours.left(units) == theirs.left(units)


# what is refused


@pytest.mark.parametrize(
    "name, changes, text",
    [
        (
            "deit_small",
            {"reducer": "evits"},
            "reducer is 'evits', but must be one of: evit, tome, random_drop",
        ),
        (
            "deit_small",
            {"reducer": {"name": "tome", "k": 3}},
            "reducer tome has no option 'k'; it has: r, inflect",
        ),
        ("deit_smal", {}, "no model named 'deit_smal'. Nearest: deit_small"),
        ("dvt_deit_small", {"reducer": "tome"}, "dvt_deit_small is a cascade and takes no reducer"),
        ("dvt_deit_small", {"feature_reus": False}, "has no argument 'feature_reus'. Nearest: feature_reuse"),
        ("dvt_t2t_vit_12", {"token_lengths": (7, 10, 14)}, r"give them longest first, as everywhere"),
        ("lvvit_small", {"reducer": {"name": "tome", "r": 50}}, "ToMe's r is 50, more than the 49 tokens"),
        ("timesformer_base", {"reducer": "evit"}, "a DividedBlock can spare whole tubes only"),
        ("motionformer_divided_base", {"reducer": "tome"}, "can spare no fewer tokens"),
        ("timesformer_space_base", {"reducer": "tome", "aux_head": True}, "so aux_head cannot read them"),
    ],
)
def test_wrong_combinations_get_one_line(name, changes, text):
    with torch.device("meta"), pytest.raises(InputError, match=text) as error:
        create_model(name, **changes)
    assert "\n" not in str(error.value)


def test_a_backbone_alone_knows_no_names():
    from revit_video.backbones.zoo import create_model as create_backbone

    with pytest.raises(InputError, match=r"reducer is 'evit', but a backbone takes an object"):
        create_backbone("deit_small", **SMALL, reducer="evit")


def test_flops_refuses_what_is_no_option(capfd):
    assert run_tool("flops.py", "--model", "deit_small", "--reducer", "evit", "0.7") == 2
    assert "--reducer got '0.7'; expected key=value" in capfd.readouterr().err


# the benchmark


@pytest.mark.parametrize("video", [False, True])
def test_the_benchmark_prints_its_tables(video, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.delitem(sys.modules, "rivals", raising=False)
    import rivals

    words = ["rivals.py", "--quick", "--batch", "4", "--repeats", "1", "--warmup", "0", *["--video"] * video]
    monkeypatch.setattr(sys, "argv", words)
    assert rivals.main() == 0
    shown = capsys.readouterr().out
    assert ("ToMe r 13 tubes" if video else "random drop keep .7") in shown and "command: " in shown
    assert ("dvt_t2t_vit_12 | 2 1 1" in shown) != video
