"""Weights from files: whole ones of every form, bad ones with one clear line, and what the tool writes."""

import argparse
import json
import pickle

import numpy as np
import parity
import pytest
import torch
from make_video import make_video
from safetensors.torch import save_file
from small_run import run_tool
from test_convert import FIXTURES, model_like, weights

from revit_video.backbones import zoo
from revit_video.build.device import build_device
from revit_video.build.networks import start_from
from revit_video.config import load_config
from revit_video.convert import create_model, read_weights, to_official
from revit_video.convert.pretrained import guess_model
from revit_video.convert.rename import rename
from revit_video.recognizer import Recognizer
from revit_video.train.checkpoint import load_checkpoint
from revit_video.transform import normalise
from revit_video.types import InputError

SMALL = {"dim": 48, "depth": 3, "heads": 3, "crop": 32, "num_frames": 4, "token_lengths": (4,)}
OPTIONS = ["model.options={dim: 48, depth: 3, heads: 3}"]
WRAPPED = {
    "a.pt": lambda state: state,
    "b.pth": lambda state: {"model": state, "args": argparse.Namespace(lr=1)},
    "c.pyth": lambda state: {
        "epoch": 3,
        "model_state": {f"model.{k}": v for k, v in state.items()},
        "cfg": "A: 1",
    },
    "d.pth": lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}, "arch": "vit"},
    "e.pth.tar": lambda state: {"state_dict": {"w": torch.ones(1)}, "state_dict_ema": state},
}


def logits_of(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(parity.read_fixture(FIXTURES / "ts_divided.safetensors").stored["input"])


@pytest.mark.parametrize(("name", "wrap"), WRAPPED.items())
def test_weights_are_found_in_every_usual_file(name, wrap, tmp_path):
    torch.save(wrap(weights("ts_divided")), tmp_path / name)
    model = create_model("timesformer_base", weights=tmp_path / name, say=None, **SMALL)
    expected = parity.read_fixture(FIXTURES / "ts_divided.safetensors").stored["logits"]
    torch.testing.assert_close(logits_of(model), expected, rtol=0, atol=1e-5)


def test_a_model_from_a_file_has_its_classes_and_says_what_became_of_the_weights(tmp_path, capsys):
    save_file(weights("ts_divided"), tmp_path / "w.safetensors")
    changes = {**SMALL, "token_lengths": (4, 2)}
    model = create_model("timesformer_base", weights=tmp_path / "w.safetensors", **changes)
    assert model.num_classes == 7 and model.num_levels == 2
    shown = capsys.readouterr().out
    assert "| blocks.*.norm1 " in shown and "used, copied to all lengths" in shown and "| resized" in shown


def test_a_new_head_is_started_when_asked_for(tmp_path):
    torch.save(weights("ts_divided"), tmp_path / "w.pt")
    options = {"weights": tmp_path / "w.pt", "say": None, **SMALL}
    assert create_model("timesformer_base", new_head=True, num_classes=3, **options).num_classes == 3
    with pytest.raises(InputError, match=r"w\.pt has 7 classes, the model 3; .*--new-head"):
        create_model("timesformer_base", num_classes=3, **options)
    with pytest.raises(InputError, match="give num_classes"):
        create_model("timesformer_base", new_head=True, **options)


def test_without_weights_it_is_the_zoos_model():
    assert create_model("timesformer_base", num_classes=3, **SMALL).num_classes == 3


class Code:
    """Pickled, it would write a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def write_bad(kind: str, folder) -> None:
    path = folder / "bad.pth"
    if kind == "text":
        path.write_text("version https://git-lfs.github.com/spec/v1\n")
    elif kind == "empty":
        path.touch()
    elif kind == "code":
        torch.save({"model": weights("ts_joint"), "note": Code(folder / "ran")}, path)
    elif kind == "bare_pickle":
        path.write_bytes(pickle.dumps(Code(folder / "ran")))
    elif kind == "no_weights":
        torch.save({"epoch": 3, "optimizer": {"lr": 0.1}}, path)
    elif kind == "list":
        torch.save([torch.ones(2)], path)
    elif kind == "cut":
        torch.save(weights("ts_joint"), path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "cut_start":
        torch.save(weights("ts_joint"), path)
        path.write_bytes(path.read_bytes()[:50])
    elif kind == "old_format_cut":
        torch.save(weights("ts_joint"), path, _use_new_zipfile_serialization=False)
        path.write_bytes(path.read_bytes()[:-1000])


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("missing", "no weights at .*; give the path of a .safetensors, .pt, .pth or .pyth file"),
        ("text", "is no file of torch.save"),
        ("empty", "cannot be read as weights"),
        ("code", r"holds more than tensors.*run code .*never done; where you trust it.*\.safetensors"),
        ("bare_pickle", r"holds more than tensors|is no file of torch.save"),
        (
            "no_weights",
            "holds no weights: its first keys are epoch, optimizer; expected tensors by name, or them under",
        ),
        ("list", "holds no weights: list; expected tensors by name"),
        ("cut", "cut off"),
        ("cut_start", "cut off"),
        ("old_format_cut", "cut off"),
    ],
)
def test_a_bad_file_is_named_with_the_remedy_in_one_line_and_runs_nothing(kind, text, tmp_path):
    write_bad(kind, tmp_path)
    with pytest.raises(InputError, match=text) as caught:
        create_model("timesformer_base", weights=tmp_path / "bad.pth", **SMALL)
    assert str(tmp_path / "bad.pth") in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("cut", [4, 5000, -5000])
def test_a_safetensors_file_that_is_cut_off_is_named(cut, tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(weights("ts_joint"), path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(
        InputError, match=r"w\.safetensors is no whole safetensors file .*download or copy it again"
    ):
        read_weights(path)


@pytest.mark.parametrize(
    ("name", "fixture", "text"),
    [
        ("timesformer_joint_base", "ts_divided", "no place for 24 of its tensors .* Choose the model"),
        (
            "motionformer_base",
            "ts_divided",
            "embeds tubelets of 1 frames, the model of 2|no place for|not in it",
        ),
        ("timesformer_base", "mf_trajectory", "tubelets of 2 frames, the model of 1; set tubelet=2"),
        ("timesformer_base", "lvvit_dense_skip2", "depth 4 .model: 3.*give dim, depth, heads"),
        ("timesformer_base", "t2t_performer", "depth 4 .model: 3"),
    ],
)
def test_weights_of_another_architecture_are_refused_by_name(name, fixture, text, tmp_path):
    torch.save(weights(fixture), tmp_path / "w.pt")
    with pytest.raises(InputError, match=text) as caught:
        create_model(name, weights=tmp_path / "w.pt", **SMALL)
    assert str(caught.value).startswith(str(tmp_path / "w.pt")) and "\n" not in str(caught.value)


@pytest.fixture
def ssv2_file(tmp_path):
    """Official weights of a small TimeSformer, as its training code saves them."""
    state = {f"model.{key}": value for key, value in weights("ts_divided").items()}
    torch.save({"model_state": state, "epoch": 14, "cfg": "TRAIN: {}"}, tmp_path / "ssv2.pyth")
    return tmp_path / "ssv2.pyth"


def convert(source, out, *more) -> int:
    return run_tool("convert_weights.py", source, "--to", out, "--model", "timesformer_base", *OPTIONS, *more)


def test_the_tool_writes_a_checkpoint_that_predicts_with_its_own_preprocessing(ssv2_file, tmp_path, capsys):
    out, names = tmp_path / "ssv2.pt", tmp_path / "names.json"
    names.write_text(json.dumps({f"doing {i}": str(i) for i in range(7)}))
    more = ["--token-lengths", "4", "2", "--dataset", "ssv2", "--class-names", names]
    assert convert(ssv2_file, out, *more, "test.num_spatial_crops=1") == 0
    shown = capsys.readouterr().out
    assert "newly initialised" not in shown and "| resized" in shown and "BGR" in shown
    state = load_checkpoint(out, kind="revit")
    data = state["config"]["data"]
    assert (data["channel_order"], data["sampling"], data["flip"]) == ("bgr", "segments", False)
    assert (data["mean"], data["std"], data["dataset"]) == ([0.45] * 3, [0.225] * 3, "ssv2")
    assert (data["num_frames"], data["crop"]) == (4, 32)
    colours = np.random.default_rng(0).integers(0, 256, (12, 2, 3, 3), dtype=np.uint8)
    make_video(tmp_path / "a.mp4", colours.repeat(16, axis=1).repeat(16, axis=2))  # 48 x 32 px
    recognizer = Recognizer.load(out, device="cpu", dtype="float32")
    prediction = recognizer.predict(tmp_path / "a.mp4", length=4, top=7)
    assert sorted(prediction.class_names) == [f"doing {i}" for i in range(7)]
    clips = recognizer._views(str(tmp_path / "a.mp4"))
    model = model_like("ts_divided")
    model.load_state_dict(parity.convert_state_dict(weights("ts_divided"), target=model)[0])
    with torch.inference_mode():
        expected = model(clips).softmax(-1)[0]
    found = torch.tensor(
        [prediction.probabilities[prediction.class_names.index(f"doing {i}")] for i in range(7)]
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_training_starts_from_a_converted_checkpoint(ssv2_file, tmp_path):
    assert convert(ssv2_file, tmp_path / "k.pt") == 0
    model = model_like("ts_divided")
    start_from(model, str(tmp_path / "k.pt"), [f"class {i}" for i in range(7)])
    assert torch.equal(to_official(model, "timesformer")["time_embed"], weights("ts_divided")["time_embed"])


def test_our_own_checkpoint_is_taken_too(ssv2_file, tmp_path):
    assert convert(ssv2_file, tmp_path / "k.pt") == 0
    model = create_model("timesformer_base", weights=tmp_path / "k.pt", **SMALL)
    expected = parity.read_fixture(FIXTURES / "ts_divided.safetensors").stored["logits"]
    torch.testing.assert_close(logits_of(model), expected, rtol=0, atol=1e-5)
    with pytest.raises(InputError, match=r"k\.pt does not fit this model"):
        create_model("timesformer_base", weights=tmp_path / "k.pt", **{**SMALL, "depth": 2})


def test_motionformer_gets_its_own_preprocessing_and_options(tmp_path):
    save_file(weights("mf_trajectory_st_embed"), tmp_path / "mf.safetensors")
    more = ["--model", "motionformer_base", "--source", "motionformer", *OPTIONS, "data.crop=32"]
    assert run_tool("convert_weights.py", tmp_path / "mf.safetensors", "--to", tmp_path / "mf.pt", *more) == 0
    config = load_checkpoint(tmp_path / "mf.pt")["config"]
    assert (config["data"]["mean"], config["data"]["channel_order"]) == ([0.5] * 3, "rgb")
    assert config["data"]["num_frames"] == 8 and config["model"]["options"]["joint_positions"]
    assert config["model"]["token_lengths"] == [4]


SAMPLING = {  # fixture, --dataset, the zoo's model -> what the published accuracies were measured with
    ("ts_divided", "kinetics400", "timesformer_base"): ("kinetics", "dense", "slowfast", 1, 3),
    ("ts_divided", "ssv2", "timesformer_base"): ("ssv2", "segments", "slowfast", 1, 3),
    ("mf_trajectory", "kinetics600", "motionformer_base"): ("kinetics", "dense", "slowfast", 10, 3),
    ("mf_trajectory", "ssv2", "motionformer_base"): ("ssv2", "segments", "slowfast", 1, 3),
    ("deit_distilled", None, "deit_base_distilled"): ("image_folders", "dense", "centred", 1, 1),
}


@pytest.mark.parametrize(("case", "expected"), SAMPLING.items())
def test_converted_weights_are_tested_the_way_they_were_published(case, expected, tmp_path):
    fixture, dataset, model = case
    torch.save(weights(fixture), tmp_path / "w.pt")
    sizes = parity.settings(parity.read_fixture(FIXTURES / f"{fixture}.safetensors"), class_token_only=False)
    trunk = ", ".join(f"{key}: {sizes[key]}" for key in ("dim", "depth", "heads"))
    more = ["--model", model, f"model.options={{{trunk}}}", f"data.crop={sizes['crop']}"]
    more += ["--dataset", dataset] if dataset else []
    assert run_tool("convert_weights.py", tmp_path / "w.pt", "--to", tmp_path / "o.pt", *more) == 0
    config = load_checkpoint(tmp_path / "o.pt")["config"]
    data, test = config["data"], config["test"]
    seen = (data["dataset"], data["sampling"], data["sampling_rule"])
    assert (*seen, test["num_ensemble_views"], test["num_spatial_crops"]) == expected


def test_the_tool_overwrites_nothing(ssv2_file, tmp_path, capsys):
    (tmp_path / "mine.pt").write_text("precious")
    assert convert(ssv2_file, tmp_path / "mine.pt") == 2
    assert "mine.pt exists already; give another --to" in capsys.readouterr().err
    assert (tmp_path / "mine.pt").read_text() == "precious"


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["--new-head", "-1"], "--new-head is -1"),
        (["--dataset", "ucf"], "dataset is 'ucf', but must be one of: kinetics400"),
        (["--class-names", "NAMES"], "names 2 classes, the weights have 7"),
        (["--model", "timesformer_huge"], "no model named 'timesformer_huge'"),
        (["--source", "lvvit"], "LV-ViT weights have not"),
    ],
)
def test_mistakes_on_its_command_line_are_one_line(more, text, ssv2_file, tmp_path, capsys):
    (tmp_path / "names.txt").write_text("a\nb\n")
    more = [str(tmp_path / "names.txt") if word == "NAMES" else word for word in more]
    assert convert(ssv2_file, tmp_path / "out.pt", *more) == 2
    error = capsys.readouterr().err
    assert text in error and error.count("\n") == 1 and not (tmp_path / "out.pt").exists()


def test_a_trunk_that_is_not_in_the_zoo_has_to_be_named(ssv2_file, tmp_path, capsys):
    assert run_tool("convert_weights.py", ssv2_file, "--to", tmp_path / "out.pt") == 2
    assert "dim 48, depth 3) is no model of the zoo; give --model NAME" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    ["timesformer_base", "timesformer_joint_base", "timesformer_space_base", "timesformer_vit_large"]
    + ["motionformer_base", "motionformer_divided_base", "deit_small", "deit_base_distilled"],
)
def test_the_sizes_tell_the_model_of_the_zoo(name):
    family = {"times": "timesformer", "motio": "motionformer"}.get(name[:5], "timm_vit")
    with torch.device("meta"):
        state = to_official(zoo.create_model(name, token_lengths=(14,)), family)
    assert guess_model(rename(state, family, origin="it")) == name


def test_bgr_is_rgb_turned_round_after_its_own_statistics():
    clips = torch.randint(0, 256, (2, 3, 3, 4, 4), dtype=torch.uint8)
    statistics = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]}
    rgb = normalise(clips, **statistics)
    assert torch.equal(normalise(clips, **statistics, channel_order="bgr"), rgb[:, [2, 1, 0]])
    config = load_config(None, ["data.root=x", "data.channel_order=bgr", "device=cpu", "dtype=float32"])
    plain = load_config(None, ["data.root=x", "device=cpu", "dtype=float32"])
    assert torch.equal(build_device(config).to_clips(clips), build_device(plain).to_clips(clips).flip(1))
