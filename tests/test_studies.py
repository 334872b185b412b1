"""tools/study.py: tables of shifted videos, of easy and hard ones, of pay-back and of folds."""

import json
import shutil

import numpy as np
import pytest
from small_run import report_of, run_tool

from revit_video.data.demo import generate_demo
from revit_video.data.demo_render import CLASS_NAMES, SHIFTS, render_clip
from revit_video.report.fold_table import fold_rows, over_folds, too_few
from revit_video.report.payback import Training, clips_until, payback_rows
from revit_video.types import InputError

pytest_plugins = ["run_fixtures"]


def rows_of(tmp_path, *arguments) -> list[dict]:
    file = tmp_path / "rows.json"
    assert run_tool("study.py", *arguments, "--json", file) == 0
    return json.loads(file.read_text())


def test_shift_gives_the_numbers_of_the_test_on_its_own_videos_and_agreement_on_others(
    small_run, demo_data, tmp_path, capfd
):
    other = tmp_path / "clips/anything"
    other.mkdir(parents=True)
    for video in sorted((demo_data / "videos/val").glob("*.mp4"))[:3]:
        shutil.copy(video, other)
    checkpoint = ["--checkpoint", small_run / "recognizer.pt"]
    rows = rows_of(tmp_path, "shift", demo_data, tmp_path / "clips", *checkpoint)
    report = report_of(small_run)
    ways = ["8x8", "5x5", "3x3", "adaptive (assigner)", "random", "oracle"]
    assert [row["way"] for row in rows] == 2 * ways
    own, others = rows[:6], rows[6:]
    known = [*report["per_length"], report["adaptive"], *(report["baselines"][n] for n in ways[4:])]
    for row, theirs in zip(own, known, strict=True):
        assert (row["measure"], row["count"]) == ("label", 10)
        assert row["top1"] == pytest.approx(theirs["top1"])
        assert row["saved"] == pytest.approx(100 * (1 - theirs["gmacs"] / known[0]["gmacs"]))
    assert {row["measure"] for row in others} == {"the longest length"}
    assert others[0]["top1"] == 100 and others[0]["count"] == 3
    shown = capfd.readouterr().out
    assert "clips: its classes are not the model's, so that nothing is said of accuracy" in shown
    few = rows_of(tmp_path, "shift", demo_data, *checkpoint, "--videos", 4, "router.kind=cascade")
    assert few[0]["count"] == 4 and few[3]["way"] == "adaptive (cascade)"


@pytest.mark.parametrize("shift", [name for name in SHIFTS if name])
def test_a_shift_changes_the_look_of_a_clip_and_nothing_that_is_drawn(shift):
    for index in range(3):
        clip, other = (render_clip(5, 2, index, SHIFTS[name]) for name in ("", shift))
        same = ("label", "tag", "fps", "shape")
        assert [getattr(clip, n) for n in same] == [getattr(other, n) for n in same]
        assert clip.frames.shape == other.frames.shape and (clip.frames != other.frames).mean() > 0.003
        assert other.half_size == pytest.approx(SHIFTS[shift].size * clip.half_size)
    assert np.array_equal(render_clip(5, 2, 0).frames, render_clip(5, 2, 0, SHIFTS[""]).frames)


def test_speed_moves_things_farther_and_textures_turn_dark_to_bright():
    index = next(i for i in range(40) if CLASS_NAMES[render_clip(0, 2, i).label] == "still")
    plain, bright = (render_clip(0, 2, index, SHIFTS[name]).frames for name in ("", "textures"))
    assert plain.mean() < 127 < bright.mean()


def test_a_shifted_data_set_is_another_one_and_an_unknown_shift_is_refused(tmp_path):
    few = {"num_train": 1, "num_val": 1, "num_test": 1}
    assert generate_demo(tmp_path / "a", **few, shift="sizes")
    assert not generate_demo(tmp_path / "a", **few, shift="sizes")
    with pytest.raises(InputError, match="holds a data set with"):
        generate_demo(tmp_path / "a", **few)
    with pytest.raises(InputError, match="shift is 'colours', but must be one of textures, sizes, speeds"):
        generate_demo(tmp_path / "b", **few, shift="colours")


def test_extremes_are_the_tags_of_the_report_with_what_their_clips_cost(small_run, tmp_path):
    rows, report = rows_of(tmp_path, "extremes", small_run), report_of(small_run)
    assert {row["videos"] for row in rows} == {f"only {tag}" for tag in report["tags"]}
    assert [row["shortest"] for row in rows] == sorted((row["shortest"] for row in rows), reverse=True)
    costs, look = [row["gmacs"] for row in report["per_length"]], report["adaptive"]["assigner_gmacs"]
    total = 0.0
    for row in rows:
        tag = report["tags"][row["videos"].removeprefix("only ")]
        spent = sum(share * cost for share, cost in zip(tag["share"], costs, strict=True)) + look
        assert row["saved"] == pytest.approx(100 * (1 - spent / costs[0]))
        assert row["lost"].startswith(f"{row['top1'] - row['longest']:+.1f} (")
        total += spent * tag["num_videos"]
    assert total / sum(row["count"] for row in rows) == pytest.approx(report["adaptive"]["gmacs"])


def test_extremes_of_a_report_without_tags_are_refused(run, refusal):
    report = report_of(run)
    del report["tags"]
    (run / "report.json").write_text(json.dumps(report))
    assert "this report has no tags" in refusal(run_tool("study.py", "extremes", run))


RUN = Training(
    [8.0, 4.0, 2.0], clips=10, steps=100, grow_steps=40, groups=[((0,), 2), ((1, 2), 1)], later_gmacs=500
)
MEMORY = dict.fromkeys(("longest length alone", "sequential", "length-parallel", "separate networks"), 1.0)


def test_payback_is_what_the_steps_cost_more_over_what_a_clip_saves():
    rows = {row["mode"]: row for row in payback_rows(RUN, adaptive=3.0, memory=MEMORY)}
    one, sequential = 3 * 10 * 100 * 8, 3 * 10 * (60 * 14 + 40 * 2)
    assert rows["longest length alone"]["train_pmacs"] * 1e6 == one
    assert rows["sequential"]["train_pmacs"] * 1e6 == sequential
    assert rows["sequential"]["clips"] == pytest.approx((sequential - one + 500) / 5)
    assert rows["length-parallel"]["clips"] == rows["sequential"]["clips"]
    slowest = 3 * 10 * (60 * 6 + 40 * 2 / 3)  # the two short lengths in one process
    assert rows["length-parallel"]["relative_time"] == pytest.approx(slowest / one)
    assert rows["separate networks"]["clips"] == pytest.approx((3 * 10 * 100 * 6 + 500) / 5)
    assert rows["separate networks"]["weights"] == 3
    timed = payback_rows(RUN, adaptive=3.0, memory=MEMORY, seconds_per_gmac=0.1, saved_seconds=0.02)
    assert timed[1]["clips_in_time"] == pytest.approx((sequential - one + 500) * 0.1 / 0.02)


def test_what_saves_nothing_never_pays_and_what_cost_nothing_pays_at_once():
    assert clips_until(5.0, 0.0) is None and clips_until(5.0, -1.0) is None
    assert clips_until(0.0, 1.0) == clips_until(-3.0, 1.0) == 0.0


def test_payback_of_a_run_reads_its_folder(small_run, tmp_path, capfd):
    rows = {row["mode"]: row for row in rows_of(tmp_path, "payback", small_run)}
    report = report_of(small_run)
    costs = [row["gmacs"] for row in report["per_length"]]
    assert rows["longest length alone"]["train_pmacs"] * 1e6 == pytest.approx(3 * 8 * 12 * costs[0])
    grown = 3 * 8 * (6 * sum(costs) + 6 * costs[2])
    assert rows["sequential"]["train_pmacs"] * 1e6 == pytest.approx(grown)
    assert rows["length-parallel"]["processes"] == 3
    memory = [rows[mode]["memory_gib"] for mode in MEMORY]
    assert memory[0] <= memory[1] and min(memory) > 0
    assert "Stage 1 took" in capfd.readouterr().out


def fold(top1: float, videos: int, adaptive: float) -> dict:
    lengths = [{"length": n, "top1": top1 - n, "gmacs": 1.0 * n} for n in (4, 2)]
    return {
        "per_length": lengths,
        "adaptive": {"top1": adaptive, "gmacs": 2.5},
        "baselines": {"random": {"top1": 50.0, "gmacs": 2.5}},
        "paired": {"4x4": {"difference": adaptive - (top1 - 4)}},
        "protocol": {"num_scored": videos},
    }


def test_folds_are_averaged_by_their_videos_with_an_interval_over_folds():
    rows = {row["way"]: row for row in fold_rows([fold(84, 10, 82), fold(64, 30, 66)])}
    assert rows["4x4"]["mean"] == pytest.approx((80 * 10 + 60 * 30) / 40)
    assert rows["4x4"]["each"] == "80.0, 60.0" and rows["4x4"]["interval"] == "60.0 to 80.0"
    assert rows["adaptive minus 4x4"]["mean"] == pytest.approx((2 * 10 + 6 * 30) / 40)
    assert rows["adaptive minus 4x4"]["interval"] == "+2.0 to +6.0"
    assert rows["adaptive"]["gmacs"] == 2.5
    low, high = over_folds([1.0] * 20, [3] * 20)
    assert low == high == pytest.approx(1.0)
    other = fold(84, 10, 82)
    other["per_length"] = other["per_length"][:1]
    with pytest.raises(InputError, match="other lengths or routers"):
        fold_rows([fold(84, 10, 82), other])
    with pytest.raises(InputError, match="1 run is no set of folds"):
        fold_rows([other])


def test_so_few_folds_that_they_cannot_decide_are_said_to_be():
    assert "WARNING: 3 folds cannot decide" in too_few(3) and "6 folds or more" in too_few(3)
    assert "in 25% of the cases" in too_few(3)
    assert too_few(5) and not too_few(6) and not too_few(20)


def test_a_study_of_the_wrong_thing_is_refused(small_run, demo_data, tmp_path, refusal):
    for wrong, said in (
        (["shift", demo_data], "shift needs it"),
        (["extremes", small_run, "--checkpoint", "x"], "--checkpoint goes with shift"),
        (["extremes", demo_data], "holds no report.json"),
        (["payback", small_run, "seed=1"], "payback reads finished runs"),
        (["shift", tmp_path / "none", "--checkpoint", small_run / "recognizer.pt"], "no folder"),
        (["shift", "seed=1", "--checkpoint", small_run / "recognizer.pt"], "at least one folder"),
    ):
        assert said in refusal(run_tool("study.py", *wrong))
