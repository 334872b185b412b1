"""The scripts in tools/, run as a user runs them."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from small_run import PLAIN, ROOT, contents, report_of, run_tool

from revit_video import cli
from revit_video.data.demo import demo_split
from revit_video.recognizer import Recognizer

pytest_plugins = ["run_fixtures"]

TOOLS = sorted(path.name for path in (ROOT / "tools").glob("*.py"))


@pytest.mark.parametrize("name", TOOLS)
def test_help_is_the_manual_of_the_tool(name):
    ended = subprocess.run(
        [sys.executable, ROOT / "tools" / name, "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    manual = ast.get_docstring(ast.parse((ROOT / "tools" / name).read_text()))
    assert manual in ended.stdout
    assert f"python tools/{name}" in manual


def test_the_installed_command_lists_its_subcommands_and_runs_them(monkeypatch, capsys):
    def ended(*arguments):
        monkeypatch.setattr(sys, "argv", ["revit-video", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code

    assert ended("--help") == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in cli.COMMANDS)
    assert ended() == ended("fly") == 2
    assert capsys.readouterr() == ("", 2 * shown)
    assert ended("flops", "--help") == 0
    assert "Multiply-adds and parameters" in capsys.readouterr().out


def test_flops_writes_a_row_per_token_length(tmp_path, capsys):
    assert run_tool("flops.py", "--model", "timesformer_tiny", "--json", tmp_path / "costs.json") == 0
    rows = json.loads((tmp_path / "costs.json").read_text())
    assert [row["length"] for row in rows] == [14, 10, 7]
    assert all(row["model"] == "timesformer_tiny" and row["params"] == rows[0]["params"] for row in rows)
    assert [row["gmacs"] for row in rows] == sorted((row["gmacs"] for row in rows), reverse=True)
    shown = capsys.readouterr().out
    assert all(f"{row['gmacs']:.2f}" in shown for row in rows)


def test_flops_takes_other_lengths_and_classes(tmp_path):
    options = ["--model", "timesformer_tiny", "--json", tmp_path / "costs.json"]
    assert run_tool("flops.py", *options, "--token-lengths", 4, 2, "--num-classes", 10) == 0
    few = json.loads((tmp_path / "costs.json").read_text())
    assert run_tool("flops.py", *options, "--token-lengths", 4, 2, "--num-classes", 400) == 0
    many = json.loads((tmp_path / "costs.json").read_text())
    assert [row["length"] for row in few] == [4, 2]
    assert many[0]["params"] > few[0]["params"] and many[0]["gmacs"] > few[0]["gmacs"]


def test_demo_data_is_made_once(tmp_path, capsys):
    arguments = [
        tmp_path / "data",
        *["--train", "3", "--val", "2", "--test", "1", "--seed", "4", "--processes", "1"],
    ]
    assert run_tool("make_demo_data.py", *arguments) == 0
    assert "6 videos written" in capsys.readouterr().out
    before = contents(tmp_path)
    assert run_tool("make_demo_data.py", *arguments) == 0
    assert "complete already" in capsys.readouterr().out
    assert run_tool("make_demo_data.py", *arguments, "--seed", 5) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert contents(tmp_path) == before


@pytest.fixture
def checkpoint(small_run):
    return small_run / "recognizer.pt"


@pytest.fixture
def videos(demo_data):
    return [sample.path for sample in demo_split(demo_data, "test").samples]


def test_predict_prints_a_json_object_per_file(checkpoint, videos, capfd):
    assert run_tool("predict.py", *videos[:3], "--checkpoint", checkpoint, "--json", "--top", 3) == 0
    out, err = capfd.readouterr()
    assert err == ""
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["path"] for row in rows] == videos[:3]
    recognizer = Recognizer.load(checkpoint)
    for row in rows:
        told = recognizer.predict(row["path"], top=3)
        assert row["class_names"] == list(told.class_names) and len(told.class_names) == 3
        assert row["probabilities"] == pytest.approx(list(told.probabilities))
        assert row["token_lengths"] == list(told.token_lengths)
        assert row["gmacs_per_view"] == told.gmacs_per_view


def test_predict_shows_the_same_to_a_reader(checkpoint, videos, capfd):
    assert run_tool("predict.py", videos[0], "--checkpoint", checkpoint) == 0
    lines = capfd.readouterr().out.splitlines()
    told = Recognizer.load(checkpoint).predict(videos[0])
    assert videos[0] in lines[0] and ", ".join(map(str, told.token_lengths)) in lines[0]
    assert [line.split()[-1] for line in lines[1:]] == list(told.class_names)
    assert lines[1].split()[0] == f"{100 * told.probabilities[0]:.1f}%"


def test_predict_runs_every_clip_at_the_length_it_is_given(checkpoint, videos, capfd, small_run):
    cost = {row["length"]: row["gmacs"] for row in report_of(small_run)["per_length"]}
    for length in (8, 5, 3):
        arguments = [videos[0], "--checkpoint", checkpoint, "--json", "--length", length]
        assert run_tool("predict.py", *arguments) == 0
        row = json.loads(capfd.readouterr().out)
        assert row["token_lengths"] == [length, length]
        assert row["gmacs_per_view"] == pytest.approx(cost[length])


def test_a_backbone_without_an_assigner_is_tested_at_every_length_as_it_was_with_one(small_run, tmp_path):
    options = [f"output_dir={tmp_path / 'alone'}", "test.throughput=true"]
    assert run_tool("test_net.py", "--checkpoint", small_run / "checkpoints/revit.pt", *options) == 0
    alone, whole = report_of(tmp_path / "alone"), report_of(small_run)
    assert alone.keys() - {"warnings"} == {"per_length", "protocol", "throughput"}
    for row, other in zip(alone["per_length"], whole["per_length"], strict=True):
        untimed = dict.fromkeys(("clips_per_s", "ms"), 0)
        assert row | untimed == other | untimed and row["clips_per_s"] > 0
    assert "A backbone without an assigner" in (tmp_path / "alone/report.md").read_text()


def test_a_backbone_without_an_assigner_predicts_at_a_fixed_length_only(small_run, videos, capfd):
    arguments = [videos[0], "--checkpoint", small_run / "checkpoints/revit.pt"]
    assert run_tool("predict.py", *arguments, "--length", 5) == 0
    capfd.readouterr()
    assert run_tool("predict.py", *arguments) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1) and "has no assigner; choose a length of [8, 5, 3]" in err


@pytest.mark.parametrize("as_json", [True, False])
def test_predict_names_the_files_it_cannot_read_and_goes_on(checkpoint, videos, tmp_path, capfd, as_json):
    (tmp_path / "text.mp4").write_text("this is no video")
    whole = Path(videos[1]).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    broken = [str(tmp_path / name) for name in ("text.mp4", "cut.mp4", "missing.mp4")]
    files = [broken[0], videos[0], *broken[1:], videos[1]]
    assert run_tool("predict.py", *files, "--checkpoint", checkpoint, *["--json"] * as_json) == 2
    out, err = capfd.readouterr()
    lines = err.splitlines()
    assert len(lines) == 3
    for path, line in zip(broken, lines, strict=True):
        assert line.startswith(f"error: {path}: ")
    if as_json:
        rows = [json.loads(line) for line in out.splitlines()]
        assert [row["path"] for row in rows] == files
        assert ["error" in row for row in rows] == [True, False, True, True, False]
    else:
        assert all(path in out for path in files) and out.count("not readable") == 3


def test_options_may_stand_between_the_files(checkpoint, videos, capfd):
    assert run_tool("predict.py", videos[0], "--checkpoint", checkpoint, "--json", videos[1]) == 0
    assert len(capfd.readouterr().out.splitlines()) == 2


def test_a_test_with_other_views_writes_beside_nothing_that_was_there(checkpoint, small_run, tmp_path, capfd):
    before = contents(small_run)
    options = [f"output_dir={tmp_path / 'crops'}", "test.num_ensemble_views=1", "test.num_spatial_crops=3"]
    assert run_tool("test_net.py", "--checkpoint", checkpoint, *options) == 0
    assert contents(small_run) == before
    seen = report_of(tmp_path / "crops")
    assert seen["protocol"]["views"] == "1x3"
    command = seen["protocol"]["command"].split()
    assert command[:2] == ["python", "test_net.py"] and "test.num_spatial_crops=3" in command
    share = seen["adaptive"]["share"]
    costs = [row["gmacs"] for row in seen["per_length"]]
    mix = sum(part * cost for part, cost in zip(share.values(), costs, strict=True))
    assert seen["adaptive"]["gmacs"] == pytest.approx(mix + seen["adaptive"]["assigner_gmacs"] / 3)
    names = {"config.yaml", "report.json", "report.md", "lengths.png"}
    names |= {"accuracy_vs_gmacs.png", "accuracy_vs_time.png"}
    assert set(contents(tmp_path / "crops")) == names

    before = contents(tmp_path)
    capfd.readouterr()
    assert run_tool("test_net.py", "--checkpoint", checkpoint, *options) == 2
    assert capfd.readouterr().err.count("\n") == 1
    assert contents(tmp_path) == before


def test_one_checkpoint_serves_every_budget_that_was_solved(checkpoint, tmp_path):
    seen = {}
    for budget in (0.3, 1.0):
        out = tmp_path / f"{budget}"
        options = [f"output_dir={out}", f"router.budget={budget}", *PLAIN]
        assert run_tool("test_net.py", "--checkpoint", checkpoint, *options) == 0
        seen[budget] = report_of(out)["adaptive"]
    assert [row["budget"] for row in seen.values()] == [0.3, 1.0]
    assert seen[0.3]["gmacs"] <= seen[1.0]["gmacs"]  # what is not worth it is not spent
