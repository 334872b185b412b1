"""The comparison: rows of any config, trained once, tested and timed alike, one table; and who failed."""

import json
import math
from dataclasses import replace

import pytest
import torch
import yaml
from class_images import IMAGE_SETTINGS, make_images
from small_run import ROOT, run_tool

from revit_video.build import build_model, training_plan
from revit_video.compare.command import against_of, asked_for, seeds_of, split_words
from revit_video.compare.methods import METHODS, comparison_of, method
from revit_video.compare.points import Point
from revit_video.compare.rows import Comparison, Published, Row, in_order, placeholders
from revit_video.compare.runs import Study, steps_seconds
from revit_video.compare.table import differences, mean_curve, table_row
from revit_video.config import config_to_dict, load_config
from revit_video.evaluate.metrics import bootstrap_interval, paired_difference
from revit_video.recognizer import Recognizer
from revit_video.types import InputError

RECIPE = ROOT / "configs/trashnet/revit_deit_tiny.yaml"
FACTS = {"name": "deit_tiny", "token_lengths": [8, 4, 2], "num_frames": 6, "sampling_rate": 2}
FACTS |= {"epochs": 30.0, "budget_gmacs": 0.25, "same_cost": [7, 20, 60]}
NAMED = [*METHODS, "evit_0.7", "evit_0.5_oracle", "tome_r4", "tome_r4_off_the_shelf", "random_drop_0.5"]
SAME_COST = ("longest_same_cost", "middle_same_cost", "shortest_same_cost")
TABLE = [  # in the order of the table
    "longest",
    "tome_r4_off_the_shelf",
    "dvt, exit 3 (8x8)",
    "dvt, exit 2 (4x4)",
    "dvt, exit 1 (2x2)",
    "dvt, early exit",
]


# rows


def test_placeholders_make_a_row_fit_a_config():
    row = Row("a", ("model.token_lengths=[$longest,$shortest]", "x=$half_frames/$double_rate", "e=$a_third"))
    filled = row.filled(placeholders(**FACTS))
    assert filled == replace(row, overrides=("model.token_lengths=[8,2]", "x=3/4", "e=10.0"))
    with pytest.raises(InputError, match=r"row a: no placeholder 'longst'; there are \$model, \$longest"):
        Row("a", ("k=$longst",)).filled(placeholders(**FACTS))


def test_a_row_comes_after_the_one_it_starts_from():
    rows = (Row("c", starts_from="b"), Row("b", starts_from="a"), Row("d"), Row("a"))
    assert [row.name for row in in_order(rows)] == ["a", "b", "c", "d"]
    with pytest.raises(InputError, match="rows start from each other: a -> b -> a"):
        in_order((Row("a", starts_from="b"), Row("b", starts_from="a")))


@pytest.mark.parametrize(
    "make, text",
    [
        (lambda: Row("a", reads="both"), "row a reads 'both', but must be one of levels, adaptive, exits"),
        (lambda: Row("a", train=False), "row a is not trained; name in starts_from"),
        (lambda: Comparison((Row("a"), Row("a"))), "two rows are called a"),
        (lambda: Comparison((Row("a", starts_from="b"),)), "starts from b, which is none of the rows: a"),
        (lambda: comparison_of(["longes"], images=True), "no method named 'longes'. Nearest: longest"),
        (lambda: comparison_of(["dvt"], images=False), "dvt is for images, but by data.num_frames these are"),
        (lambda: comparison_of(["fewer_frames"], images=True), "fewer_frames is for videos"),
        (lambda: split_words(["seed=3"]), r"seed is set by the comparison .* leave seed=3 out"),
        (lambda: asked_for({}, images=True), "give either methods="),
        (lambda: asked_for({"methods": "revit"}, images=True), "must be a list of names"),
        (lambda: asked_for({"ablation": "table9"}, images=True), "no ablation named 'table9'; there are:"),
        (
            lambda: asked_for({"ablation": "stems", "rows": ["conf"]}, images=True),
            "no row named conf; there are: conv, conv_stem, resize",
        ),
        (
            lambda: asked_for({"methods": ["revit"], "rows": ["revit"]}, images=True),
            "rows=.* are some rows of an ablation",
        ),
        (
            lambda: against_of({"against": "revot, cascade"}, comparison_of(["revit"], images=True)),
            "against is 'revot, cascade', but must be a row, or one of its points .* the rows are: revit",
        ),
        (lambda: seeds_of({"seeds": [1, 1]}), r"seeds is \[1, 1\], but must be a list of different"),
    ],
)
def test_what_makes_no_comparison_gets_one_line(make, text):
    with pytest.raises(InputError, match=text):
        make()


@pytest.mark.parametrize("name", NAMED)
def test_every_method_is_a_model_of_the_config_with_settings_that_exist(name):
    row = method(name).filled(placeholders(**{**FACTS, "num_frames": 1}))
    config = load_config(None, [*IMAGE_SETTINGS, "data.root=x", *row.overrides])
    with torch.device("meta"):
        build_model(config, 5)
    kept = config_to_dict(config)
    plain = config_to_dict(load_config(None, [*IMAGE_SETTINGS, "data.root=x"]))
    if name in SAME_COST:  # more steps of it
        assert kept["solver"].pop("max_steps") != plain["solver"].pop("max_steps")
    for group in ("solver", "augment", "test", "assigner"):
        assert kept[group] == plain[group], "one recipe for all"


def test_some_rows_of_an_ablation_come_with_those_they_start_from():
    chosen = asked_for({"ablation": "labels", "rows": ["soft"]}, images=True)
    assert [row.name for row in chosen.rows] == ["shortest_right", "soft"]


def test_a_length_alone_can_be_trained_at_the_cost_of_all(config):
    """Steps times the cost of a step; lengths alone have no distillation token."""
    whole = training_plan(load_config(config, []))
    study = Study.of(comparison_of(list(SAME_COST), images=True), str(config), [], (0,), config.parent / "x")
    for row in study.rows:
        plan = training_plan(study.config(row, 0))
        step = plan["gmacs"] / plan["steps"]
        assert abs(plan["gmacs"] - whole["gmacs"]) <= step / 2, row.name
    plain = training_plan(load_config(config, ["model.token_lengths=[8]", "model.distill_token=false"]))
    assert training_plan(study.config(study.rows[0], 0))["steps"] > plain["steps"]


# numbers


def test_a_row_of_the_table_is_the_mean_over_the_seeds_with_an_interval_over_the_videos():
    hits = {0: {3: 1.0, 4: 0.0, 5: 1.0, 9: 1.0}, 1: {3: 1.0, 4: 0.0, 5: 0.0, 8: 1.0}}
    row = table_row("a", "b", {seed: Point("b", 2.0 + seed, one) for seed, one in hits.items()})
    assert row["title"] == "a, b" and row["num_videos"] == 3  # those that both seeds could read
    assert row["top1_by_seed"] == pytest.approx([200 / 3, 100 / 3])
    assert row["top1"] == pytest.approx(50) and row["gmacs"] == 2.5
    assert row["top1_std"] == pytest.approx((100 / 3) / math.sqrt(2))
    assert (row["top1_low"], row["top1_high"]) == bootstrap_interval(torch.tensor([1.0, 0.0, 0.5]))


def test_differences_are_paired_over_the_videos_and_to_the_point_of_the_same_name():
    def seeds(*hits: list[float]) -> list[Point]:
        return [Point("", 1.0, dict(enumerate(one))) for one in hits]

    found = {
        ("a", "8x8"): seeds([1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 0.0, 1.0]),
        ("a", "4x4"): seeds([0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0]),
        ("b", "8x8"): seeds([0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]),
        ("b", "4x4"): seeds([0.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0]),
        ("b", "cascade"): seeds([1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]),
    }
    over = differences(found, "a")
    assert {title: row["versus"] for title, row in over.items()} == {
        "b, 8x8": "a, 8x8",
        "b, 4x4": "a, 4x4",
        "b, cascade": "a, 8x8",
    }
    ours, theirs = torch.tensor([0.5, 0.0, 0.0, 0.0]), torch.tensor([1.0, 0.5, 0.5, 1.0])
    assert over["b, 8x8"] == {"versus": "a, 8x8", **paired_difference(ours, theirs)}
    assert over["b, 8x8"]["difference"] == pytest.approx(-62.5)
    assert {row["versus"] for row in differences(found, "b, cascade").values()} == {"b, cascade"}
    with pytest.raises(InputError, match=r"against is 'b, 2x2', which is no row and no point .*: a, 8x8;"):
        differences(found, "b, 2x2")


def test_curves_of_several_seeds_meet_at_the_budgets_that_all_have():
    curves = [
        [{"budget": budget, "gmacs": budget + seed, "top1": 10.0 * seed} for budget in budgets]
        for seed, budgets in ((1, (1, 2, 3)), (2, (2, 3, 4)))
    ]
    assert mean_curve(curves) == [
        {"budget": 2, "gmacs": 3.5, "top1": 15.0},
        {"budget": 3, "gmacs": 4.5, "top1": 15.0},
    ]


def test_seconds_of_a_training_are_its_steps_at_the_speed_of_each():
    rows = [
        {"stage": "revit", "step": step, "clips_per_s": speed} for step, speed in ((0, 4), (9, 8), (14, 2))
    ]
    rows.append({"stage": "assigner", "step": 0, "clips_per_s": 1})
    assert steps_seconds(rows, clips=8) == pytest.approx(1 * 8 / 4 + 9 * 8 / 8 + 5 * 8 / 2)


# a whole comparison


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison")
    images = make_images(folder / "images", train=8, val=5, test=6)
    values: dict = {}
    for word in [*IMAGE_SETTINGS, f"data.root={images}", f"output_dir={folder / 'out'}"]:
        key, _, value = word.partition("=")
        group, _, name = key.rpartition(".")
        (values.setdefault(group, {}) if group else values)[name] = yaml.safe_load(value)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(values))
    return folder / "tiny.yaml"


def compare(config, *words: str) -> int:
    return run_tool("compare.py", "--cfg", config, *words)


@pytest.fixture(scope="module")
def finished(config):
    """A comparison of which one row cannot work, and what its first call said."""
    code = compare(config, "methods=[tome_r4_off_the_shelf,dvt,tome_r99]", "seeds=[0]")
    return config.parent / "out", code


def result_of(folder) -> dict:
    return json.loads((folder / "comparison.json").read_text())


def test_every_way_to_run_every_row_is_in_the_table_and_what_failed_is_named(finished):
    folder, code = finished
    result = result_of(folder)
    assert code == 1
    assert list(result["failed"]) == ["tome_r99, seed 0"] and "r" in result["failed"]["tome_r99, seed 0"]
    assert [row["title"] for row in result["rows"]] == TABLE
    for row in result["rows"]:
        assert row["clips_per_s"] > 0 and row["ms"] > 0 and row["peak_mib"] > 0 and row["training_s"] > 0
    assert [row["over"] and row["over"]["versus"] for row in result["rows"]] == [None] + ["longest"] * 5
    text = (folder / "comparison.md").read_text()
    assert "so is the difference to longest" in text
    assert "Not finished:\n\n- tome_r99, seed 0: " in text
    assert "Published on ImageNet, for orientation only" in text and "arXiv:2307.02092" in text
    assert (folder / "accuracy_vs_gmacs.png").exists() and (folder / "accuracy_vs_time.png").exists()


def test_costs_are_those_of_the_models_and_of_their_training(finished, config):
    rows = {row["title"]: row for row in result_of(finished[0])["rows"]}
    assert rows["tome_r4_off_the_shelf"]["gmacs"] < rows["longest"]["gmacs"]
    exits = [rows[title]["gmacs"] for title in TABLE[2:5]]
    assert exits[2] <= rows["dvt, early exit"]["gmacs"] <= exits[0] and exits == sorted(exits, reverse=True)
    same = rows["longest"]["training_gmacs"]
    assert same == pytest.approx(3 * 4 * 6 * rows["longest"]["gmacs"])  # steps, clips
    assert rows["tome_r4_off_the_shelf"]["training_gmacs"] == same
    assert rows["dvt, early exit"]["training_gmacs"] == pytest.approx(3 * 4 * 6 * exits[0])


def test_an_evit_whose_keep_rate_falls_costs_more_to_train_than_one_without(config):
    own = ["model.token_lengths=[8]", "model.options.reducer={name: evit, keep: 0.5}", "solver.max_steps=6"]
    fast = training_plan(load_config(config, own))["gmacs"]
    slow = training_plan(load_config(config, [*own, "model.reducer_warmup_epochs=1"]))[
        "gmacs"
    ]  # 2 of 6 steps
    whole = training_plan(load_config(config, [own[0], own[2]]))["gmacs"]
    assert slow == pytest.approx(fast + (whole - fast) / 3)


def test_accuracies_are_those_of_the_run_and_shelf_weights_are_the_trained_ones(finished):
    folder = finished[0]
    rows = {row["title"]: row for row in result_of(folder)["rows"]}
    report = json.loads((folder / "dvt/seed0/report.json").read_text())
    assert [row["top1"] for row in report["per_length"]] == [rows[title]["top1"] for title in TABLE[2:5]]
    assert report["early_exit"]["top1"] == rows["dvt, early exit"]["top1"]
    ours, theirs = (
        torch.load(folder / f"{name}/seed0/checkpoints/revit.pt", weights_only=True)
        for name in ("tome_r4_off_the_shelf", "longest")
    )
    assert all(ours["model"][key].equal(value) for key, value in theirs["model"].items())
    assert ours["config"]["model"]["options"]["reducer"] == {"name": "tome", "r": 4}


def test_a_second_call_keeps_what_is_finished_and_goes_on_with_the_rest(finished, config):
    folder = finished[0]
    kept = {path: path.stat().st_mtime_ns for path in folder.rglob("*.pt")}
    kept |= {path: path.stat().st_mtime_ns for path in folder.rglob("points.json")}
    before = result_of(folder)["rows"]
    assert compare(config, "methods=[tome_r4_off_the_shelf,dvt]", "seeds=[0]") == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    for old, new in zip(before, result_of(folder)["rows"], strict=True):
        assert {key: old[key] for key in ("title", "top1", "gmacs")} == {
            key: new[key] for key in ("title", "top1", "gmacs")
        }


def test_a_dry_run_says_what_is_there_and_what_it_would_cost_and_writes_nothing(finished, config, capsys):
    before = sorted(finished[0].rglob("*"))
    assert compare(config, "methods=[tome_r4_off_the_shelf,shortest]", "seeds=[0,1]", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "trained: 0; to train: 1" in said and "to train: 0, 1" in said and "[2] revit.grow" in said
    assert sorted(finished[0].rglob("*")) == before


def test_the_recipe_of_comparisons_plans_and_builds_every_method(tmp_path, capsys):
    """Cascades reuse all patches of the last block, which the recipe leaves out."""
    folders = make_images(tmp_path, every=40) / "every"
    settings = [f"data.root={folders}", f"output_dir={tmp_path / 'out'}"]
    names = [name for name in NAMED if name != "fewer_frames"]
    assert compare(RECIPE, *settings, f"methods=[{','.join(names)}]", "--dry-run") == 0
    said = capsys.readouterr().out
    assert all(f"| {name} " in said for name in names)
    study = Study.of(comparison_of(["dvt", "revit"], images=True), str(RECIPE), settings, (0,), tmp_path)
    options = [study.config(row, 0).model.options["class_token_only"] for row in study.rows]
    assert options == [False, True]


def test_a_cascade_runs_for_users_at_every_exit(finished):
    """The thresholds are of these weights; a file that says otherwise is refused."""
    run = finished[0] / "dvt/seed0"
    picture = next((finished[0].parent / "images/test").rglob("*.png"))
    recognizer = Recognizer.load(run / "checkpoints/revit.pt", device="cpu", dtype="float32")
    found = recognizer.predict(str(picture), length=8)
    whole = next(row for row in result_of(finished[0])["rows"] if row["title"] == TABLE[2])
    assert found.token_lengths == (8,) and found.gmacs_per_view == pytest.approx(whole["gmacs"])
    solved = json.loads((run / "exits.json").read_text())
    (run / "exits.json").write_text(json.dumps([{**one, "checkpoint": "f" * 64} for one in solved]))
    try:
        assert run_tool("test_net.py", "--checkpoint", run / "checkpoints/revit.pt") == 2
    finally:
        (run / "exits.json").write_text(json.dumps(solved))


def test_rows_of_a_study_are_settings_of_their_own(config):
    rows = Comparison(
        (Row("a"), Row("b", ("solver.base_lr=0.01",), starts_from="a")), (Published("p", 1, None, "s"),)
    )
    study = Study.of(rows, str(config), [], (3,), config.parent / "other")
    own = config_to_dict(study.config(study.row("b"), 3))
    assert own["seed"] == 3 and own["solver"]["base_lr"] == 0.01 and own["resume"] == "auto"
    assert own["model"]["init_from"] == str(config.parent / "other/a/seed3/checkpoints/revit.pt")


def test_rows_start_from_given_weights_of_other_lengths_each_seed_from_its_own(
    finished, config, tmp_path, capsys
):
    start = str(finished[0] / "longest/seed{seed}/checkpoints/revit.pt")
    settings = [f"model.init_from={start}", "revit.grow_share=0"]
    study = Study.of(comparison_of(["middle"], images=True), str(config), settings, (3,), tmp_path)
    assert study.config(study.rows[0], 3).model.init_from == start.replace("{seed}", "3")
    out = f"output_dir={tmp_path / 'out'}"
    assert compare(config, *settings, "methods=[middle]", "seeds=[0]", out) == 0
    assert "token lengths: 4 from 8" in capsys.readouterr().out
    (row,) = result_of(tmp_path / "out")["rows"]
    assert row["title"] == "middle" and row["gmacs"] > 0
