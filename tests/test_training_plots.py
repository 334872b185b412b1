"""tools/plot.py on a small run: every length is drawn, several runs lie over each other."""

import json
import shutil

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread
from small_run import run_tool

from revit_video.report.throughput_plots import Point, Speeds, draw_speeds, same_protocol, speeds_of
from revit_video.report.training_plots import COLORS, draw_panel, read_log, series
from revit_video.types import InputError

pytest_plugins = ["run_fixtures"]


def coloured(path, color):
    """How many pixels of a picture have this colour."""
    return int((np.abs(imread(path)[..., :3] - np.array(to_rgb(color))).max(axis=-1) < 0.03).sum())


def test_a_training_is_drawn_with_a_line_for_each_length(small_run, tmp_path):
    log = read_log(small_run)
    assert list(series(log.rows, "revit", "loss/level")) == [f"loss/level{i}" for i in range(3)]
    steps, losses = zip(*series(log.rows, "revit", "loss/level")["loss/level2"], strict=True)
    assert steps == (0, 10, 11) and min(losses) > 0 and log.lengths == [8, 5, 3]
    assert run_tool("plot.py", "training", small_run, "--out", tmp_path / "one.png") == 0
    assert min(coloured(tmp_path / "one.png", color) for color in COLORS[:3]) > 50
    assert coloured(tmp_path / "one.png", COLORS[3]) == 0


def test_two_runs_are_drawn_over_each_other_and_a_row_in_writing_is_left_out(run, small_run, tmp_path):
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    (run / "log.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"stage": "re')
    assert read_log(run).rows == rows
    logs = {"first": read_log(small_run), "second": read_log(run)}
    axes = Figure().subplots()
    drawn = {name: series(log.rows, "revit", "loss/level") for name, log in logs.items()}
    draw_panel(axes, "loss", drawn, logs)
    told = [line.get_label() for line in axes.lines]
    assert told == [f"{name}, length {length}" for name in logs for length in (8, 5, 3)]
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 6
    assert run_tool("plot.py", "training", small_run, run, "--out", tmp_path / "two.png") == 0
    assert coloured(tmp_path / "two.png", COLORS[0]) > 50


def test_the_curve_of_one_run_is_the_picture_of_the_run_and_two_share_one(run, small_run, tmp_path):
    assert run_tool("plot.py", "curve", run) == 0
    assert run_tool("plot.py", "curve", run, small_run, "--out", tmp_path / "both.png") == 0
    assert coloured(run / "curve.png", "#0f6cbd") > 50  # the assigner's
    assert coloured(tmp_path / "both.png", "#7c3aed") > 50  # the first of the other colours


def test_a_folder_without_the_file_is_one_line(tmp_path, refusal):
    for what, file in (("training", "log.jsonl"), ("curve", "report.json")):
        code = run_tool("plot.py", what, tmp_path)
        assert f"holds no {file}" in refusal(code)


def test_results_of_different_views_are_not_drawn_together(run, small_run, refusal):
    report = json.loads((run / "report.json").read_text())
    report["protocol"]["views"] = "10x3"
    (run / "report.json").write_text(json.dumps(report))
    other = shutil.copytree(run, run.with_name("other"))
    code = run_tool("plot.py", "curve", small_run, other)
    assert "only results of the same views compare" in refusal(code)


def timed(top1, rate, **protocol):
    """A report of two lengths and a router, and of a cascade that was timed beside it."""
    return {
        "per_length": [
            {"length": 14, "top1": top1, "clips_per_s": rate},
            {"length": 7, "top1": top1 - 4, "clips_per_s": 3 * rate},
        ],
        "adaptive": {"top1": top1 - 0.5, "clips_per_s": 2 * rate},
        "baselines": {"oracle": {"top1": 99.0}, "cascade": {"top1": top1 - 1}},
        "throughput": {"clips_per_s": {"adaptive": 2 * rate, "cascade router": 1.5 * rate}},
        "protocol": {"views": "1x1", "device_name": "x", "threads": 1, "dtype": "float32", **protocol},
    }


def test_only_what_was_timed_is_a_point_of_the_throughput_picture():
    speeds = speeds_of(timed(90.0, 10.0), name="run")
    assert speeds.fixed == [Point("14x14", 10.0, 90.0), Point("7x7", 30.0, 86.0)]
    assert speeds.routers == [Point("adaptive", 20.0, 89.5), Point("cascade", 15.0, 89.0)]
    exits = [{"exit": 1, "length": 7, "top1": 80.0, "clips_per_s": 9.0}]
    early = {"top1": 85.0, "clips_per_s": 5.0}
    speeds = speeds_of({"per_length": exits, "early_exit": early, "throughput": {"clips_per_s": {}}}, name="")
    assert speeds == Speeds([Point("exit 1", 9.0, 80.0)], [Point("early exit", 5.0, 85.0)])


def test_the_line_of_a_run_goes_through_its_lengths_from_slow_to_fast():
    axes = Figure().subplots()
    draw_speeds(axes, speeds_of(timed(90.0, 10.0), name="run"), color="#0f6cbd")
    assert axes.lines[0].get_xydata().tolist() == [[10.0, 90.0], [30.0, 86.0]]
    assert [dots.get_offsets().tolist() for dots in axes.collections] == [[[20.0, 89.5]], [[15.0, 89.0]]]


def test_the_throughput_of_runs_is_drawn_from_their_reports(small_run, tmp_path):
    assert run_tool("plot.py", "throughput", small_run, "--out", tmp_path / "t.png") == 0
    assert coloured(tmp_path / "t.png", "#0f6cbd") > 50


def test_speeds_of_other_machines_and_runs_without_timing_are_refused():
    for key, value in (("views", "2x1"), ("device_name", "y"), ("threads", 2), ("dtype", "bfloat16")):
        with pytest.raises(InputError, match=f"b was timed with {key}={value}, a with"):
            same_protocol({"a": timed(90.0, 1.0), "b": timed(90.0, 1.0, **{key: value})})
    report = timed(90.0, 1.0)
    del report["throughput"]
    with pytest.raises(InputError, match="run was tested without timing; test it again"):
        speeds_of(report, name="run")
