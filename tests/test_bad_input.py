"""What a user can do wrong: one line on stderr, exit code 2, nothing overwritten.

Videos that cannot be read are counted and named.
"""

import shutil

import pytest
import torch
from make_video import make_video
from small_run import PLAIN, VIDEOS, contents, report_of, run_tool, train

from revit_video import cli
from revit_video.data import dataset as dataset_module
from revit_video.types import InputError

pytest_plugins = ["run_fixtures"]


@pytest.fixture
def data(demo_data, tmp_path):
    """A copy of the generated videos, to be broken."""
    return shutil.copytree(demo_data, tmp_path / "data")


@pytest.fixture
def run(small_run, tmp_path):
    """A copy of the finished run, to be broken."""
    return shutil.copytree(small_run, tmp_path / "run")


@pytest.fixture
def refusal(capfd):
    """refusal(code): the one line on stderr of a command that ended with this exit code."""

    def line(code: int) -> str:
        out, err = capfd.readouterr()
        assert code == 2
        assert err.startswith("error: ") and err.count("\n") == 1, err
        assert "Traceback" not in out
        return err

    return line


def edit_line(list_file, number: int, text: str) -> None:
    lines = list_file.read_text().splitlines()
    lines[number - 1] = text
    list_file.write_text("\n".join(lines) + "\n")


LIST_MISTAKES = {  # what happens to {split}.csv -> what is said of it
    "missing": (lambda path: path.unlink(), r"no file .*{split}\.csv; in its folder there are \w+\.csv"),
    "empty": (lambda path: path.write_text("\n"), r"{split}\.csv is empty; expected lines like"),
    "one field": (
        lambda path: edit_line(path, 3, "a.mp4"),
        r"{split}\.csv:3: expected a path, a space and a label",
    ),
    "no number": (lambda path: edit_line(path, 3, "a.mp4 left"), r"{split}\.csv:3: the label is 'left'"),
    "label too large": (
        lambda path: edit_line(path, 3, "a.mp4 10"),
        r"{split}\.csv:3: the label is 10, but there are 10 classes",
    ),
    "no such video": (
        lambda path: edit_line(path, 3, "videos/nowhere.mp4 1"),
        r"1 of the \d+ videos of .*{split}\.csv do not exist: .*nowhere\.mp4",
    ),
}


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("mistake", LIST_MISTAKES)
def test_a_mistake_in_any_list_shows_before_anything_is_written(mistake, split, data, tmp_path, refusal):
    make, message = LIST_MISTAKES[mistake]
    make(data / f"{split}.csv")
    before = contents(tmp_path)
    code = train(tmp_path / "run", data, "data.dataset=kinetics")
    assert_says(refusal(code), message.format(split=split))
    assert contents(tmp_path) == before and not (tmp_path / "run").exists()


def assert_says(line: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        raise InputError(line)


SETTING_MISTAKES = {
    "solver.base_rl=0.1": r"unknown config key solver\.base_rl .*Did you mean solver\.base_lr\?",
    "solver.batch_size=many": r"solver\.batch_size is 'many' .* must be a whole number",
    "solver.batch_size=0": r"solver\.batch_size is 0, but must be at least 1",
    "router.budget=1.5": r"router\.budget is 1\.5, but must be above 0 and at most 1",
    "model.token_lengths=[3,8]": r"must be falling, each length once: \[8, 3\]",
    "model.token_lengths=[9,5]": r"starts with 9, but data\.crop=32 allows at most 8",
    "model.token_lengths=[8]": r"nothing to assign; give more lengths or stage=revit",
    "model.name=timesformer_tinny": r"no model named 'timesformer_tinny'\. Nearest: timesformer_tiny",
    "model.options.dimm=24": r"has no argument 'dimm'\. Nearest: dim",
    "model.options.heads=5": r"dim=24 is no multiple of heads=5",
    "model.init_from=nowhere.pt": r"set revit\.grow_share=0",
    "model.init_from=nowhere.pt revit.grow_share=0": r"no checkpoint at nowhere\.pt",
    "data.decoder=vlc": r"data\.decoder is 'vlc', but must be one of auto, pyav, decord",
    "data.root=nowhere": r"nowhere holds no complete demo data set; run: .*make_demo_data\.py nowhere",
    "data.flip_labels=[[left,rite]]": r"names the class 'rite', which the data does not have",
    "batch_size": r"cannot read the override 'batch_size'; write it like solver\.base_lr=0\.01",
}


@pytest.mark.parametrize("override", SETTING_MISTAKES)
def test_a_wrong_setting_is_named_before_anything_is_written(override, demo_data, tmp_path, refusal):
    line = refusal(train(tmp_path / "run", demo_data, *override.split()))
    assert_says(line, SETTING_MISTAKES[override])
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU to run on")
def test_a_gpu_that_is_not_there_is_refused(demo_data, tmp_path, refusal):
    assert "torch sees no GPU here; use device=cpu" in refusal(
        train(tmp_path / "run", demo_data, "device=cuda")
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"no config file .*mine\.yaml"),
        ("model: [", r"mine\.yaml:\d+ is no valid YAML"),
        ("- a\n- b\n", r"mine\.yaml holds no keys with values"),
        ("base: other.yaml", r"no config file .*other\.yaml, the base of .*mine\.yaml"),
    ],
)
def test_a_config_file_that_is_none_is_refused(text, message, tmp_path, refusal):
    if text is not None:
        (tmp_path / "mine.yaml").write_text(text)
    assert_says(refusal(run_tool("train_net.py", "--cfg", tmp_path / "mine.yaml")), message)


def test_debug_shows_where_an_error_arose(small_run, tmp_path):
    with pytest.raises(InputError, match="no config file"):
        cli.train(["--cfg", str(tmp_path / "none.yaml"), "--debug"])
    with pytest.raises(InputError, match="no such file"):
        cli.predict([str(tmp_path / "a.mp4"), "--checkpoint", str(small_run / "recognizer.pt"), "--debug"])


@pytest.mark.parametrize("arguments", [["--cfg"], ["--wrong"], []])
def test_a_wrong_command_line_ends_in_one_line_too(arguments, refusal):
    assert "train_net.py --help explains" in refusal(run_tool("train_net.py", *arguments))


def test_what_the_system_refuses_is_said_in_one_line(small_run, demo_data, tmp_path, refusal):
    (tmp_path / "file").write_text("")
    assert "file" in refusal(train(tmp_path / "file" / "run", demo_data))
    assert "file" in refusal(train(tmp_path / "file", demo_data))
    arguments = [
        "--model",
        "timesformer_tiny",
        "--token-lengths",
        2,
        "--json",
        tmp_path / "none" / "costs.json",
    ]
    assert "costs.json" in refusal(run_tool("flops.py", *arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "timesformer_bass"], "Nearest: timesformer_base"),
        (
            ["--model", "timesformer_tiny", "--token-lengths", "7", "14"],
            r"\[7, 14\], but must be positive and fall",
        ),
        (["--model", "timesformer_tiny", "--token-lengths", "29"], "the crop allows lengths up to 28"),
        (["--model", "timesformer_tiny", "--token-lengths", "short"], "invalid int value: 'short'"),
    ],
)
def test_flops_refuses_what_no_model_can_be(arguments, message, tmp_path, refusal):
    assert_says(refusal(run_tool("flops.py", *arguments, "--json", tmp_path / "costs.json")), message)
    assert not (tmp_path / "costs.json").exists()


# --- checkpoints


def broken_checkpoint(kind: str, run, tmp_path):
    """A file that is no recognizer.pt, in one of several ways."""
    path = tmp_path / "other.pt"
    if kind == "text":
        path.write_text("no checkpoint")
    elif kind == "cut":
        whole = (run / "recognizer.pt").read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "foreign":
        torch.save({"state_dict": {}}, path)
    elif kind == "code":
        torch.save({"kind": "recognizer", "surprise": print}, path)
    elif kind == "assigner":
        return run / "checkpoints/assigner.pt"
    elif kind == "other size":
        state = torch.load(run / "recognizer.pt", weights_only=True)
        state["config"]["model"]["options"]["dim"] = 48
        torch.save(state, path)
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", r"no checkpoint at .*other\.pt"),
        ("text", r"other\.pt cannot be read as a checkpoint"),
        ("cut", r"other\.pt cannot be read as a checkpoint"),
        ("foreign", r"other\.pt is no checkpoint of this project"),
        ("code", r"other\.pt cannot be read as a checkpoint"),
        ("assigner", r"assigner\.pt holds 'assigner'"),
        ("other size", r"other\.pt does not fit this model: .* of another shape .*other model settings\?"),
    ],
)
def test_what_is_no_recognizer_is_refused(kind, message, run, demo_data, tmp_path, refusal):
    checkpoint = broken_checkpoint(kind, run, tmp_path)
    before = contents(tmp_path)
    video = next((demo_data / "videos/test").iterdir())
    assert_says(refusal(run_tool("predict.py", video, "--checkpoint", checkpoint)), message)
    code = run_tool("test_net.py", "--checkpoint", checkpoint, f"output_dir={tmp_path / 'new'}")
    assert_says(refusal(code), message)
    assert contents(tmp_path) == before


def test_a_backbone_alone_cannot_be_tested(run, refusal):
    line = refusal(run_tool("test_net.py", "--checkpoint", run / "checkpoints/revit.pt"))
    assert "holds 'revit', but 'recognizer' was expected" in line


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ("recognizer.pt", r"recognizer\.pt does not fit this model: .* of another shape"),
        ("checkpoints/assigner.pt", r"holds 'assigner'; expected a trained backbone"),
    ],
)
def test_weights_of_another_model_cannot_be_started_from(
    checkpoint, message, run, demo_data, tmp_path, refusal
):
    options = [f"model.init_from={run / checkpoint}", "model.options.dim=48", "revit.grow_share=0"]
    assert_says(refusal(train(tmp_path / "new", demo_data, *options)), message)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (lambda names: [*names, "jump"], r"has 10 classes, the data 11"),
        (lambda names: ["jump", *names[1:]], r"class 0 is 'jump' in the data, 'left' in the model"),
    ],
)
def test_data_of_other_classes_is_refused(classes, message, run, data, tmp_path, refusal):
    names = (data / "classes.txt").read_text().splitlines()
    (data / "classes.txt").write_text("\n".join(classes(names)) + "\n")
    before = contents(run)
    options = [f"data.root={data}", f"output_dir={tmp_path / 'new'}"]
    line = refusal(run_tool("test_net.py", "--checkpoint", run / "recognizer.pt", *options))
    assert_says(line, message)
    assert contents(run) == before


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.options.dim=48", r"holds trained networks, so model\.\* cannot change"),
        ("assigner.width=0.5", r"holds trained networks, so assigner\.\* cannot change"),
        ("data.num_frames=4", r"the clip has 4 frames of 32x32 px, but this model takes 5"),
        ("router.budget=0.123", r"router\.budget is 0\.123, but this checkpoint was solved for 0\.\d"),
        ("test.num_spatial_crops=2", r"test\.num_spatial_crops is 2, but must be 1 or 3"),
    ],
)
def test_a_test_refuses_settings_that_do_not_go_with_the_checkpoint(
    override, message, run, tmp_path, refusal
):
    before = contents(run)
    options = [f"output_dir={tmp_path / 'new'}", override]
    assert_says(refusal(run_tool("test_net.py", "--checkpoint", run / "recognizer.pt", *options)), message)
    assert contents(run) == before and not (tmp_path / "new" / "report.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--length", "14"], r"token length 14 is not one of this model's: \[8, 5, 3\]"),
        (["--length", "long"], r"the length is 'long', but must be a token length or adaptive"),
        (["--top", "0"], "--top is 0, but must be at least 1"),
        (["--device", "tpu"], "device is 'tpu', but must be auto, cpu, cuda or cuda:N"),
        (["--dtype", "int8"], "dtype is 'int8', but must be one of auto, float32, bfloat16"),
    ],
)
def test_predict_refuses_what_the_model_does_not_have(arguments, message, run, demo_data, refusal):
    video = next((demo_data / "videos/test").iterdir())
    assert_says(
        refusal(run_tool("predict.py", video, "--checkpoint", run / "recognizer.pt", *arguments)), message
    )


# --- folders with a run in them


def test_a_test_is_not_written_into_another_run(run, demo_data, tmp_path, refusal):
    assert train(tmp_path / "other", demo_data, "stage=revit", "seed=3") == 0
    before = contents(tmp_path)
    options = [f"output_dir={tmp_path / 'other'}", "resume=true", *PLAIN]
    code = run_tool("test_net.py", "--checkpoint", run / "recognizer.pt", *options)
    assert "holds another run; give another output_dir=" in refusal(code)
    assert contents(tmp_path) == before


def test_a_report_is_replaced_only_on_request_and_the_config_of_the_run_stays(run, refusal):
    before = contents(run)
    options = ["test.num_spatial_crops=3", *PLAIN]
    code = run_tool("test_net.py", "--checkpoint", run / "recognizer.pt", *options)
    assert "already holds a report.json" in refusal(code)
    assert contents(run) == before
    assert run_tool("test_net.py", "--checkpoint", run / "recognizer.pt", *options, "resume=true") == 0
    after = contents(run)
    assert report_of(run)["protocol"]["views"] == "2x3"
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"report.json", "report.md", "test_config.yaml"}


def test_a_budget_out_of_reach_is_refused_before_the_assigner_is_trained(
    run, demo_data, refusal, monkeypatch
):
    from revit_video.stages import assigner

    (run / "recognizer.pt").unlink()
    before = contents(run)
    monkeypatch.delattr(assigner, "fit")
    line = refusal(train(run, demo_data, "stage=assigner", "router.budget=0.05"))
    assert_says(line, r"router\.budget=0\.05 .* cannot be met: .*; give a budget from 0\.2\d+ to 1")
    kept = ("checkpoints/revit.pt", "checkpoints/assigner.pt", "labels.json", "report.json")
    assert all(contents(run)[name] == before[name] for name in kept)


def test_labels_of_another_backbone_are_refused(run, demo_data, tmp_path, refusal):
    (run / "recognizer.pt").unlink()
    other = torch.load(run / "checkpoints/revit.pt", weights_only=True)
    other["model"]["head.bias"] += 1
    torch.save(other, run / "checkpoints/revit.pt")
    line = refusal(train(run, demo_data, "stage=assigner"))
    assert_says(line, r"labels\.json was made with another checkpoint .*run stage=labels again")


# --- videos that cannot be read

KINDS = ("missing stream", "text", "no frames", "cut")


def break_video(path, kind: str) -> None:
    if kind == "missing stream":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("this is no video")
    elif kind == "no frames":
        make_video(path, 0)
    elif kind == "cut":
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])


def videos_of(data, split: str) -> list:
    return sorted((data / "videos" / split).iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_training_stops_at_too_many_unreadable_videos_and_names_them(kind, data, tmp_path, capfd):
    broken = videos_of(data, "train")[5]
    break_video(broken, kind)
    assert train(tmp_path / "run", data, "stage=revit") == 2
    out, err = capfd.readouterr()
    assert f"skipped: {broken}: " in out
    assert err.count("\n") == 1
    assert_says(
        err, r"1 of 16 videos cannot be read, more than data\.max_unreadable=0\.01 allows; repair them"
    )
    assert str(broken) in err
    assert not (tmp_path / "run/checkpoints/revit.pt").exists()
    # a higher limit lets the same run go on
    assert train(tmp_path / "run", data, "stage=revit", "resume=true", "data.max_unreadable=0.1") == 0
    assert capfd.readouterr().out.count(f"skipped: {broken}: ") == 1


def test_training_goes_on_where_a_whole_batch_cannot_be_read(data, tmp_path, capfd):
    broken = videos_of(data, "train")[::2]
    for path, kind in zip(broken, 4 * KINDS, strict=False):
        break_video(path, kind)
    options = ["stage=revit", "solver.batch_size=1", "solver.max_steps=16", "data.max_unreadable=0.5"]
    assert train(tmp_path / "run", data, *options) == 0
    out = capfd.readouterr().out
    assert [out.count(f"skipped: {path}: ") for path in broken] == [1] * 8


def test_worker_processes_name_unreadable_videos_too(data, tmp_path, capfd):
    broken = videos_of(data, "train")[5]
    break_video(broken, "text")
    options = ["stage=revit", "data.num_workers=1", "data.cache=none", "data.max_unreadable=0.1"]
    assert train(tmp_path / "run", data, *options) == 0
    assert capfd.readouterr().out.count(f"skipped: {broken}: ") == 1


def test_an_error_in_a_worker_process_ends_in_one_line(demo_data, tmp_path, monkeypatch, refusal):
    def refuse(path, **options):
        raise InputError("this reader is not installed; try pip")

    monkeypatch.setattr(dataset_module, "open_video", refuse)
    code = train(tmp_path / "run", demo_data, "stage=revit", "data.num_workers=1", "data.cache=none")
    assert refusal(code) == "error: this reader is not installed; try pip\n"


def test_the_label_list_has_the_same_limit(run, data, refusal, capfd):
    broken = videos_of(data, "val")[3]
    break_video(broken, "cut")
    (run / "labels.json").unlink()
    # the run was made with another root, which is part of its settings: say that the copy is the same data
    config = (run / "config.yaml").read_text()
    root = next(line.split()[-1] for line in config.splitlines() if line.strip().startswith("root:"))
    (run / "config.yaml").write_text(config.replace(root, str(data)))
    line = refusal(train(run, data, "stage=labels"))
    assert_says(line, r"1 of 14 videos cannot be read, more than data\.max_unreadable=0\.01 allows")
    assert train(run, data, "stage=labels", "data.max_unreadable=0.1") == 0
    assert f"skipped: {broken}" in capfd.readouterr().out
    (run / "recognizer.pt").unlink()
    assert train(run, data, "stage=assigner") == 0  # the broken video has no label


def test_the_test_reports_what_it_could_not_read(run, data, tmp_path, capfd):
    broken = videos_of(data, "test")[1:5]
    for path, kind in zip(broken, KINDS, strict=True):
        break_video(path, kind)
    options = [f"data.root={data}", f"output_dir={tmp_path / 'new'}", *PLAIN]
    assert run_tool("test_net.py", "--checkpoint", run / "recognizer.pt", *options) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert "6 of 10 videos scored, 4 unreadable" in out
    report = report_of(tmp_path / "new")
    protocol = report["protocol"]
    assert (protocol["num_videos"], protocol["num_scored"], protocol["num_unreadable"]) == (10, 6, 4)
    assert [line.split(": ")[0] for line in protocol["unreadable"]] == list(map(str, broken))
    assert protocol["top1_adaptive_of_all_videos"] == pytest.approx(0.6 * report["adaptive"]["top1"])
    assert protocol["top1_longest_of_all_videos"] == pytest.approx(0.6 * report["per_length"][0]["top1"])


def test_a_test_list_without_a_readable_video_is_refused(run, data, tmp_path, refusal):
    for path in videos_of(data, "test"):
        break_video(path, "text")
    options = [f"data.root={data}", f"output_dir={tmp_path / 'new'}", *PLAIN]
    line = refusal(run_tool("test_net.py", "--checkpoint", run / "recognizer.pt", *options))
    assert f"none of the {VIDEOS['test']} videos of the list can be read" in line
    assert not (tmp_path / "new/report.json").exists()


def test_lists_that_disagree_about_their_classes_are_refused_before_the_training(data, tmp_path, refusal):
    (data / "classes.txt").unlink()
    lines = [line for line in (data / "test.csv").read_text().splitlines() if not line.endswith(" 9")]
    (data / "test.csv").write_text("\n".join(lines) + "\n")
    kinetics = ["data.dataset=kinetics", "data.flip_labels=[]", "data.flip=false"]
    assert_says(
        refusal(train(tmp_path / "run", data, *kinetics)),
        r"has 10 classes, the test list 9.*data\.num_classes",
    )
    assert not (tmp_path / "run").exists()
    assert train(tmp_path / "run", data, *kinetics, "data.num_classes=10", *PLAIN) == 0
