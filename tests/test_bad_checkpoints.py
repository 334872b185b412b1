"""Checkpoints and run folders that do not fit: one line on stderr, exit code 2, nothing overwritten."""

import pytest
import torch
from refusals import assert_says
from small_run import PLAIN, contents, report_of, run_tool, train

pytest_plugins = ["run_fixtures"]


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


def test_an_assigner_alone_cannot_be_tested(run, refusal):
    line = refusal(run_tool("test_net.py", "--checkpoint", run / "checkpoints/assigner.pt"))
    assert "holds 'assigner'; expected recognizer.pt or checkpoints/revit.pt" in line


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
        (
            "router.budget=0.123",
            r"router\.budget=0\.123 .* cannot be met: .*; give a budget from 0\.\d+ to 1",
        ),
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
