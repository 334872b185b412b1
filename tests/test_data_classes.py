"""What the class names of a checkpoint and of a list decide, and what a run says of its lists."""

from dataclasses import replace

import pytest
import torch
from small_run import train

from revit_video.build.jobs import overlaps
from revit_video.build.lists import check_classes, describe_list
from revit_video.build.networks import build_model, match_classes, start_from
from revit_video.config import config_to_dict, load_config
from revit_video.train.checkpoint import save_checkpoint
from revit_video.types import InputError, Split, VideoSample

pytest_plugins = ["run_fixtures"]


def refused(function, *args, **kwargs) -> str:
    with pytest.raises(InputError) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- class names ------------------------------------------------------------------------------------------


ABC = Split((VideoSample("x/1.mp4", 0), VideoSample("x/2.mp4", 2)), ("a", "b", "c"))


def test_classes_in_another_order_are_put_into_the_model_s():
    moved = check_classes(ABC, ["c", "a", "b"], source="run.pt")
    assert moved.class_names == ("c", "a", "b")
    assert [moved.class_names[sample.label] for sample in moved.samples] == ["a", "c"]
    assert check_classes(ABC, ["a", "b", "c"], source="run.pt") is ABC


@pytest.mark.parametrize("names", [["a", "b"], ["a", "b", "d"], ["a", "a", "b"]])
def test_other_classes_are_refused(names):
    assert refused(check_classes, ABC, names, source="run.pt").startswith(f"run.pt has {len(names)} classes")


def test_a_head_goes_by_the_names_of_its_classes(tmp_path):
    options = ["data.root=x", "data.num_frames=3", "data.crop=32", "data.train_jitter=[32,32]"]
    config = load_config(None, [*options, "model.token_lengths=[4,3,2]", "model.name=timesformer_tiny"])
    config = replace(config, model=replace(config.model, options={"dim": 16, "depth": 2, "heads": 2}))
    model = build_model(config, 3)
    with torch.no_grad():
        model.head.weight.normal_()
    state = {"kind": "revit", "model": model.state_dict(), "step": 1, "config": config_to_dict(config)}
    path = str(tmp_path / "a.pt")
    save_checkpoint({**state, "class_names": ["a", "b", "c"]}, path)

    def head_from(names):
        fresh = build_model(config, len(names))
        (note,) = start_from(fresh, path, names)
        assert torch.equal(fresh.norm.scale, model.norm.scale)
        return fresh.head.weight, note

    weight, note = head_from(["c", "a", "b"])
    assert torch.equal(weight, model.head.weight[[2, 0, 1]]) and "put into the order of the data" in note
    weight, note = head_from(["a", "b", "c"])
    assert torch.equal(weight, model.head.weight) and "the same classes" in note
    weight, note = head_from(["class 0", "class 1", "class 2"])
    assert torch.equal(weight, model.head.weight) and "cannot be compared" in note
    for names in (["a", "b", "d"], ["a", "b"], ["a", "b", "c", "d"]):
        weight, note = head_from(names)
        assert not torch.equal(weight[:2], model.head.weight[:2]) and "left out" in note


def test_unnamed_classes_are_only_taken_over_as_they_are():
    assert match_classes(["class 0", "class 1"], ["class 0", "class 1"])[0] == [0, 1]
    assert match_classes(["a", "b"], ["class 0", "class 1", "class 2"])[0] is None


# --- what a run says of its lists -------------------------------------------------------------------------


def test_a_list_is_described_by_its_first_rows_and_its_classes():
    line = describe_list(
        "train", replace(ABC, samples=(*ABC.samples, VideoSample("y/3.mp4", 2, begin=5, end=9)))
    )
    assert line == "train list: 3 videos, 3 classes, 2 seen: x/1.mp4 = 0 'a'; x/2.mp4 = 2 'c'; ..."
    assert describe_list("t", Split((VideoSample("y/3.mp4", 0, begin=5, end=9),), ("a",))).endswith(
        "1 classes: y/3.mp4 [5:9] = 0 'a'"
    )


def test_a_test_on_the_label_list_is_refused_and_a_shared_video_named():
    same = load_config(None, ["data.root=x", "data.test_split=val", "labels.split=val"])
    splits = {"train": ABC, "test": ABC}
    with pytest.raises(InputError, match="the test list and the label list are both 'val'"):
        list(overlaps(same, ["labels", "assigner", "test"], splits))
    (warning,) = overlaps(same, ["test"], {"test": ABC})
    assert warning.startswith("WARNING: the test list and the label list are both 'val'")
    assert not list(overlaps(same, ["revit"], {"train": ABC}))
    other = load_config(None, ["data.root=x"])
    (warning,) = overlaps(other, ["revit", "labels", "assigner", "test"], splits)
    assert warning.startswith("WARNING: 2 of the 2 videos of the test list are in the train list too")
    apart = Split((VideoSample("x/9.mp4", 0),), ABC.class_names)
    assert not list(overlaps(other, ["revit", "test"], {"train": ABC, "test": apart}))


def test_a_run_says_what_its_lists_hold_before_the_training(demo_data, tmp_path, capfd):
    assert train(tmp_path / "run", demo_data, "stage=revit", "solver.max_steps=1") == 0
    lines = capfd.readouterr().out.splitlines()
    (place,) = [number for number, line in enumerate(lines) if line.startswith("train list: 16 videos, 10 ")]
    assert "train/00000.mp4 = " in lines[place] and lines[place].endswith("; ...")
    assert place < min(number for number, line in enumerate(lines) if line.startswith("revit: "))


def test_a_run_whose_label_list_is_its_test_list_does_not_start(demo_data, tmp_path, refusal):
    line = refusal(train(tmp_path / "run", demo_data, "data.test_split=val"))
    assert "the test list and the label list are both 'val'" in line and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("dataset", "setting"),
    [
        ("class_folders", "path_prefix=videos"),
        ("demo", "path_prefix=videos"),
        ("ssv2", "num_classes=174"),
        ("class_folders", "num_classes=6"),
        ("ssv2", "separator=comma"),
        ("kinetics", "group_pattern=_(x)_"),
        ("kinetics", "split_shares=[0.5,0.5,0]"),
        ("kinetics", "target=verb"),
        ("demo", "class_names=x.txt"),
    ],
)
def test_a_setting_that_the_data_set_does_not_use_is_refused(dataset, setting):
    key = setting.split("=")[0]
    said = refused(
        load_config, None, [f"data.dataset={dataset}", "data.root=x", "data.flip=false", f"data.{setting}"]
    )
    assert said.startswith(f"data.{key} is ") and f"data.dataset={dataset} does not use it, only " in said
