"""Warnings by name: a run that fails in a known way says so in one line, with the figure and what to try."""

import json
from dataclasses import replace

import pytest
from small_run import train

from revit_video import build
from revit_video.report.known_failures import (
    alone_as_good,
    far_below,
    lean_to_short,
    no_better_than_chance,
    one_length,
)
from revit_video.report.run_report import write_report
from revit_video.stages.test import run_test
from revit_video.train.log import RunLog

pytest_plugins = ["run_fixtures"]


@pytest.mark.parametrize("most, warned", [(0.94, False), (0.95, True), (1.0, True)])
def test_nearly_all_clips_at_one_length_is_warned_of(most, warned):
    lines = one_length({"14": 0.0, "10": 1 - most, "7": most}, where="test clips")
    assert len(lines) == warned
    if warned:
        assert lines[0].startswith(
            f"WARNING: {100 * most:.1f}% of the test clips run at 7x7: the router hardly"
        )
        assert "router.budget" in lines[0]
    assert one_length({"14": 1.0}, where="test clips") == []  # there is nothing to choose


@pytest.mark.parametrize("low, warned", [(-0.4, True), (0.0, True), (0.1, False)])
def test_a_choice_inside_the_interval_of_chance_is_warned_of(low, warned):
    lines = no_better_than_chance({"difference": 0.25, "low": low, "high": 0.9})
    assert len(lines) == warned
    if warned:
        assert lines[0].startswith(
            "WARNING: the router is +0.2 points above its own shares dealt by lot (95% "
        )
        assert f"{low:+.1f} to +0.9" in lines[0] and "it has learnt nothing" in lines[0]


def test_a_length_that_alone_is_as_good_and_no_dearer_is_named():
    fixed = [
        {"length": 14, "top1": 90.0, "gmacs": 4.0},  # dearer
        {"length": 10, "top1": 80.0, "gmacs": 2.0},
        {"length": 7, "top1": 79.9, "gmacs": 1.0},  # worse
    ]
    (line,) = alone_as_good(fixed, {"top1": 80.0, "gmacs": 2.0})
    assert line.startswith(
        "WARNING: length 10 alone is right on 80.0% for 2 GMACs, the router on 80.0% for 2: here choosing"
    )
    assert "--length 10" in line
    assert alone_as_good(fixed, {"top1": 80.1, "gmacs": 2.0}) == []


def test_a_length_far_below_the_longest_is_warned_of_by_name_and_one_that_is_above_it_is_not():
    lines = far_below({"14": 80.0, "10": 65.0, "7": 64.9, "4": 20.0})
    assert [line.split(" is right")[0] for line in lines] == ["WARNING: length 7", "WARNING: length 4"]
    assert "on 64.9%, 15.1 points below length 14 (80.0%)" in lines[0]
    assert far_below({"14": 50.0, "7": 90.0}) == []


def test_labels_of_videos_learnt_by_heart_are_warned_of():
    labelled, others = {"14": 99.0, "7": 98.0}, {"14": 70.0, "7": 60.0}
    (line,) = lean_to_short(labelled, others, where="validation videos")
    assert line.startswith(
        "WARNING: at length 7 the backbone is right on 98.0% of the labelled videos and on 60.0%"
    )
    assert "labels.split=val or labels.folds=5" in line
    assert lean_to_short({"14": 99.0, "7": 70.0}, others, where="") == []
    assert lean_to_short(others, labelled, where="") == []


def test_a_router_that_does_not_choose_is_named_in_the_log_and_in_both_reports(small_run, tmp_path, capfd):
    config = build.checkpoint_config(small_run / "recognizer.pt", ["dtype=float32"])
    job = build.test_job(config, small_run / "recognizer.pt", build.build_device(config))
    forced = {"kind": "assigner", "bias": 1e6, "thresholds": [0.0] * 3, "choice": {}}
    job = replace(job, throughput=False, router=job.router | forced)
    report = run_test(job, RunLog()).report
    (line,) = [line for line in report["warnings"] if "hardly chooses" in line]
    assert line.startswith("WARNING: 100.0% of the test clips run at 3x3")
    assert line in capfd.readouterr().out
    write_report(report, tmp_path)
    assert f"- {line}" in (tmp_path / "report.md").read_text()
    assert line in json.loads((tmp_path / "report.json").read_text())["warnings"]


def test_labels_that_lean_to_short_are_noticed_against_the_last_look_at_the_validation_list(
    run, demo_data, capfd
):
    for name in ("labels.json", "recognizer.pt", "checkpoints/assigner.pt", "report.json"):
        (run / name).unlink()
    looks = [
        {"stage": "val", "step": step, **{f"clip@1/level{i}": -20.0 for i in range(3)}} for step in (6, 12)
    ]
    looks[0] |= {f"clip@1/level{i}": 100.0 for i in range(3)}
    with open(run / "log.jsonl", "a") as file:
        file.writelines(json.dumps(look) + "\n" for look in looks)
    for split, warned in (("val", False), ("train", True)):
        assert train(run, demo_data, "stage=labels", "resume=true", f"labels.split={split}") == 0
        said = "the labels lean to short on videos it was trained on" in capfd.readouterr().out
        assert said == warned
        (run / "labels.json").unlink()
