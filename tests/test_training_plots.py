"""tools/plot.py on a small run: every length is drawn, several runs lie over each other."""

import json
import shutil

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread
from small_run import run_tool

from revit_video.report.training_plots import COLORS, draw_panel, read_log, series

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
