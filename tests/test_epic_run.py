"""EPIC-KITCHENS' verbs and nouns in one model, from lists and official weights to tables and predictions."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import parity
import pytest
import torch
from make_video import make_video
from small_run import PLAIN, report_of, run_tool, train
from test_convert import weights

from revit_video import build
from revit_video.build.lists import check_classes, describe_list, flip_map
from revit_video.build.networks import build_model, start_from
from revit_video.config import config_to_dict, load_config
from revit_video.data.demo import demo_split
from revit_video.evaluate.heads import label_probabilities, softmax
from revit_video.recognizer import Recognizer
from revit_video.stages.job import RunFolder, all_levels
from revit_video.train.checkpoint import load_checkpoint, save_checkpoint
from revit_video.train.log import RunLog
from revit_video.types import InputError, Split, VideoSample

pytest_plugins = ["run_fixtures"]

VERBS, NOUNS = ("take", "put"), ("tap", "plate", "take")  # one name is in both lists
HEADS = (2, 3)
SPLIT = Split((VideoSample("a.mp4", 1 * 3 + 2), VideoSample("b.mp4", 0)), VERBS + NOUNS, HEADS)


# --- lists and heads by the names of their classes --------------------------------------------------------


def test_a_list_of_actions_shows_them_in_words():
    line = describe_list("train", SPLIT)
    assert line.startswith("train list: 2 videos, 2 + 3 classes, 4 seen: ")
    assert "a.mp4 = 5 'put take'" in line and "b.mp4 = 0 'take tap'" in line


def test_verbs_and_nouns_are_each_put_into_the_models_order():
    moved = check_classes(SPLIT, ("put", "take", "take", "tap", "plate"), source="run.pt", heads=HEADS)
    assert [sample.label for sample in moved.samples] == [0 * 3 + 0, 1 * 3 + 1]
    assert describe_list("t", moved).endswith("a.mp4 = 0 'put take'; /b.mp4 = 4 'take tap'")
    for names, heads, said in [
        (("put", "take", "tap", "plate", "bowl"), HEADS, "has 2 \\+ 3 classes, the data 2 \\+ 3; class 0 is"),
        (VERBS + NOUNS, (), "has 5 classes, the data 2 \\+ 3"),
        (VERBS, (), "has 2 classes, the data 2 \\+ 3"),
    ]:
        with pytest.raises(InputError, match=said):
            check_classes(SPLIT, names, source="run.pt", heads=heads)


def test_a_pair_that_swaps_in_the_mirror_swaps_in_every_action():
    names = ("left", "right", "up", "tap", "right", "left")  # 3 verbs, 3 nouns
    swaps = flip_map([["left", "right"]], names, (3, 3))
    assert swaps[0 * 3 + 1] == 1 * 3 + 2  # left right -> right left
    assert swaps[2 * 3 + 1] == 2 * 3 + 2 and 2 * 3 + 0 not in swaps  # up right; up tap
    assert all(swaps[there] == label for label, there in swaps.items())
    with pytest.raises(InputError, match="pairs 'up' with 'tap', which are of different lists"):
        flip_map([["up", "tap"]], names, (3, 3))


def test_the_rows_of_each_list_go_by_its_own_names(tmp_path):
    options = ["data.root=x", "data.num_frames=3", "data.crop=32", "data.train_jitter=[32,32]"]
    config = load_config(None, [*options, "model.token_lengths=[4,3,2]", "model.name=timesformer_tiny"])
    config = replace(config, model=replace(config.model, options={"dim": 16, "depth": 2, "heads": 2}))
    model = build_model(config, 5)
    with torch.no_grad():
        model.head.weight.normal_()
    state = {"kind": "revit", "model": model.state_dict(), "step": 1, "config": config_to_dict(config)}
    save_checkpoint({**state, "class_names": VERBS + NOUNS, "heads": HEADS}, tmp_path / "a.pt")

    def head_from(names, heads):
        fresh = build_model(config, len(names))
        before = fresh.head.weight.detach().clone()
        notes = start_from(fresh, str(tmp_path / "a.pt"), names, heads)
        assert torch.equal(fresh.norm.scale, model.norm.scale)
        return fresh.head.weight, before, notes

    trained = model.head.weight
    weight, _, notes = head_from(("put", "take", "plate", "take", "tap"), HEADS)
    assert torch.equal(weight, trained[[1, 0, 3, 4, 2]])
    assert "verbs: its head is kept, its classes put" in notes[0] and "nouns: its head is kept" in notes[1]
    weight, before, notes = head_from((*VERBS, "a", "b", "c", "d"), (2, 4))
    assert torch.equal(weight[:2], trained[:2]) and torch.equal(weight[2:], before[2:])
    assert "nouns: its head is left out, as it is for 3 other classes" in notes[1]
    weight, before, (note,) = head_from(VERBS + NOUNS, ())
    assert torch.equal(weight, before) and "left out, as it is for 2 lists of classes, not 1" in note


# --- official weights -------------------------------------------------------------------------------------


@pytest.fixture
def official(tmp_path) -> Path:
    """Official two-headed weights, with EPIC's lists of classes beside them."""
    torch.save({"model_state": weights("mf_trajectory_epic_heads")}, tmp_path / "ek.pyth")
    for kind, number in zip(("verb", "noun"), parity.EPIC, strict=True):
        rows = "".join(f"{i},{kind} {i}\n" for i in range(number))
        (tmp_path / f"EPIC_100_{kind}_classes.csv").write_text(f"id,key\n{rows}")
    return tmp_path / "ek.pyth"


def convert(source: Path, out: Path, *more: str | Path) -> int:
    options = ["--model", "motionformer_base", "model.options={dim: 48, depth: 2, heads: 3}", "data.crop=32"]
    return run_tool("convert_weights.py", source, "--to", out, *options, *more)


def test_official_two_headed_weights_predict_verbs_nouns_and_actions(official, tmp_path, capsys):
    out = tmp_path / "ek.pt"
    few = ["test.num_ensemble_views=1", "test.num_spatial_crops=1"]
    assert convert(official, out, "--class-names", official.parent, *few) == 0
    state = load_checkpoint(out, kind="revit")
    data = state["config"]["data"]
    assert tuple(state["heads"]) == parity.EPIC and state["class_names"][96:98] == ["verb 96", "noun 0"]
    assert (data["dataset"], data["target"], data["sampling_rule"]) == ("epic_kitchens", "both", "slowfast")
    make_video(tmp_path / "a.mp4", 40)
    recognizer = Recognizer.load(out, device="cpu", dtype="float32")
    seen = recognizer.predict(tmp_path / "a.mp4", length=4, top=3)
    with torch.inference_mode():
        logits = recognizer.backbone(recognizer._views(str(tmp_path / "a.mp4")))[0]
    verbs, nouns = (part.softmax(-1) for part in logits.split(parity.EPIC))
    assert [part.kind for part in seen.parts] == ["verb", "noun"]
    assert seen.parts[0].class_names[0] == f"verb {verbs.argmax()}"
    assert seen.parts[1].probabilities == pytest.approx(nouns.topk(3).values.tolist())
    assert seen.class_names[0] == f"verb {verbs.argmax()} noun {nouns.argmax()}"
    best = (verbs[:, None] * nouns).flatten().topk(3)
    assert seen.probabilities == pytest.approx(best.values.tolist())
    capsys.readouterr()
    arguments = [tmp_path / "a.mp4", "--checkpoint", out, "--length", "4", "--top", "2", "--device", "cpu"]
    assert run_tool("predict.py", *arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.strip() for line in lines if line.endswith(":")] == ["verb:", "noun:", "action:"]
    assert len(lines) == 1 + 3 * (1 + 2) and lines[-2].endswith(seen.class_names[0])


def test_two_heads_are_of_no_other_data_set(official, tmp_path, capsys):
    assert convert(official, tmp_path / "x.pt", "--dataset", "kinetics400") == 2
    assert "has heads of 97 and 300 classes; give --dataset epic" in capsys.readouterr().err
    assert convert(official, tmp_path / "x.pt", "--dataset", "epic", "--new-head", "7") == 2
    assert "one head of 7 classes; of EPIC-KITCHENS are heads of 97 verbs" in capsys.readouterr().err
    assert convert(official, tmp_path / "n.pt", "--dataset", "epic", "--new-head", "300") == 0
    state = load_checkpoint(tmp_path / "n.pt")
    assert state["config"]["data"]["target"] == "noun" and not state["heads"]


# --- a run ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def epic_data(demo_data, tmp_path_factory) -> Path:
    """The generated videos as actions: ten classes are two verbs with five nouns."""
    root = tmp_path_factory.mktemp("epic")
    for kind, number in (("verb", 2), ("noun", 5)):
        rows = "".join(f"{i},{kind}{i}\n" for i in range(number))
        (root / f"EPIC_100_{kind}_classes.csv").write_text(f"id,key\n{rows}")
    with (demo_data / "tags.csv").open() as table:
        frames = {row["path"]: row["num_frames"] for row in csv.DictReader(table)}
    for name, split in (("train", "train"), ("validation", "test")):
        rows = ["participant_id,video_id,start_frame,stop_frame,verb_class,noun_class"]
        for sample in demo_split(demo_data, split).samples:
            video = Path(sample.path).relative_to(demo_data)
            last = frames[str(video)]
            rows.append(f"P01,{video.with_suffix('')},1,{last},{sample.label // 5},{sample.label % 5}")
        (root / f"EPIC_100_{name}.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="module")
def epic_run(epic_data, demo_data, tmp_path_factory) -> Path:
    """A finished run of all stages over both lists."""
    out = tmp_path_factory.mktemp("run") / "both"
    options = [f"data.path_prefix={demo_data}", "data.dataset=epic_kitchens", "data.target=both"]
    options += ["data.test_split=val", "labels.split=train", "data.flip=false", "data.flip_labels=[]"]
    assert train(out, epic_data, *options, *PLAIN, "revit.hard=true", "solver.label_smoothing=0.1") == 0
    return out


def test_a_run_over_both_lists_reports_verbs_nouns_and_actions(epic_run):
    report = report_of(epic_run)
    rows = [*report["per_length"], report["adaptive"], *report["baselines"].values()]
    rows += [row for router in ("assigner", "cascade", "hybrid") for row in report["curve"][router]]
    assert all(row["top1"] <= min(row["verb"], row["noun"]) for row in rows)
    assert "verb_longest_of_all_videos" in report["protocol"]
    text = (epic_run / "report.md").read_text()
    assert text.count("action@1 %") == 2 and text.count("verb@1 %") == 2 and "video@1" not in text
    state = load_checkpoint(epic_run / "recognizer.pt")
    assert state["heads"] == [2, 5] and len(state["class_names"]) == 7 == len(state["model"]["head.weight"])


def test_length_labels_are_about_whole_actions(epic_run, epic_data):
    config = load_config(epic_run / "config.yaml")
    job = build.labels_job(config, RunFolder(epic_run), build.build_device(config))
    with RunLog(None) as log:
        scores = job.evaluation.score(all_levels(job.model), log, title="labels")
    logits = scores.values["logits"][:, 0]  # (N, L, K)
    actions = label_probabilities(softmax(logits, (2, 5)), (2, 5))  # (N, L, 10)
    saved = json.loads((epic_run / "labels.json").read_text())
    truth = scores.labels[:, None, None].expand(-1, 3, 1)
    assert torch.equal(torch.tensor(saved["correct"]), actions.argmax(-1) == scores.labels[:, None])
    likely = actions.gather(-1, truth).squeeze(-1)
    torch.testing.assert_close((-torch.tensor(saved["losses"])).exp(), likely, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(torch.tensor(saved["confidences"]), actions.amax(-1), rtol=1e-4, atol=1e-5)


def test_the_test_of_both_lists_scores_what_the_recognizer_predicts(epic_run, epic_data, demo_data):
    split = demo_split(demo_data, "test")
    recognizer = Recognizer.load(epic_run / "recognizer.pt", device="cpu", dtype="float32")
    right = {"verb": 0, "noun": 0, "top1": 0}
    for sample in split.samples:
        seen = recognizer.predict(sample.path, length=8, top=1)
        verb, noun = f"verb{sample.label // 5}", f"noun{sample.label % 5}"
        right["verb"] += seen.parts[0].class_names == (verb,)
        right["noun"] += seen.parts[1].class_names == (noun,)
        right["top1"] += seen.class_names == (f"{verb} {noun}",)
    longest = report_of(epic_run)["per_length"][0]
    assert {name: longest[name] for name in right} == {
        name: pytest.approx(100 * count / len(split.samples)) for name, count in right.items()
    }


def test_a_model_of_verbs_alone_is_not_tested_on_actions(epic_run, tmp_path, capfd):
    options = ["data.target=verb", f"output_dir={tmp_path / 'out'}", "resume=true"]
    assert run_tool("test_net.py", "--checkpoint", epic_run / "recognizer.pt", *options) == 2
    assert "recognizer.pt has 2 + 5 classes, the data 2; " in capfd.readouterr().err
