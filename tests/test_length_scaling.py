"""The numbers and the picture of what further token lengths cost (tools/plot.py lengths)."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread
from small_run import run_tool

from revit_video.backbones.costs import level_gmacs
from revit_video.backbones.zoo import create_model
from revit_video.competitors.dvt import DVT
from revit_video.competitors.length_scaling import (
    CASCADE,
    PARALLEL,
    SEPARATE,
    SEQUENTIAL,
    WAYS,
    scaling_rows,
    step_cost,
)
from revit_video.report.length_plots import draw_scaling, scaling_lines

SMALL = {"dim": 24, "depth": 2, "heads": 2, "num_classes": 5, "crop": 32}
LENGTHS = (8, 5, 3)


@pytest.fixture(scope="module")
def rows():
    return {(row["way"], len(row["lengths"])): row for row in scaling_rows("deit_tiny", LENGTHS, **SMALL)}


def size(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_with_one_length_all_ways_are_the_same_plain_model(rows):
    plain = create_model("deit_tiny", token_lengths=LENGTHS[:1], **SMALL)
    for way in WAYS:
        row = rows[way, 1]
        assert (row["train_gmacs"], row["params"]) == (3 * level_gmacs(plain)[0], size(plain))


def test_a_step_costs_forward_and_twice_that_for_all_that_is_trained(rows):
    revit = create_model("deit_tiny", token_lengths=LENGTHS, **SMALL)
    singles = [create_model("deit_tiny", token_lengths=(length,), **SMALL) for length in LENGTHS]
    cascade = DVT("deit_tiny", token_lengths=LENGTHS, patch_embed_options={"even": False}, **SMALL)
    assert rows[SEQUENTIAL, 3]["train_gmacs"] == pytest.approx(3 * sum(level_gmacs(revit)))
    assert rows[SEPARATE, 3]["train_gmacs"] == pytest.approx(3 * sum(level_gmacs(m)[0] for m in singles))
    assert rows[CASCADE, 3]["train_gmacs"] == pytest.approx(3 * cascade.closed_form(0).total / 1e9)
    assert rows[SEQUENTIAL, 3]["params"] == rows[PARALLEL, 3]["params"] == size(revit)
    assert rows[SEPARATE, 3]["params"] == sum(map(size, singles))
    assert rows[CASCADE, 3]["params"] == size(cascade)


def test_the_parallel_step_is_that_of_the_slowest_process():
    costs = [10.0, 5.0, 2.0]
    assert step_cost(PARALLEL, [None], lambda _: costs) == 7  # longest on two processes, 5 + 2 on the third
    assert step_cost(PARALLEL, [None], lambda _: costs[:2]) == 10
    assert step_cost(SEQUENTIAL, [None], lambda _: costs) == 17
    assert step_cost(SEPARATE, [0, 1, 2], lambda i: [costs[i]]) == 17


def test_a_model_that_dvt_cannot_take_is_drawn_without_the_cascade():
    video = {**SMALL, "num_frames": 2}
    ways = {row["way"] for row in scaling_rows("timesformer_tiny", LENGTHS[:2], **video)}
    assert ways == {SEQUENTIAL, PARALLEL, SEPARATE}


def test_what_is_drawn_are_these_numbers(rows):
    lines = scaling_lines(list(rows.values()), "params")
    assert list(lines) == list(WAYS)
    assert lines[SEPARATE] == [(n, rows[SEPARATE, n]["params"] / 1e6) for n in (1, 2, 3)]
    axes = Figure().subplots()
    draw_scaling(axes, lines, title="parameters", ticks=["8", "8, 5", "8, 5, 3"])
    drawn = {line.get_label(): line.get_xydata() for line in axes.lines}
    for way, points in lines.items():
        np.testing.assert_array_equal(drawn[way], points)
    assert axes.get_ylim()[0] == 0


def test_measured_steps_are_of_real_models():
    rows = scaling_rows("deit_tiny", (4, 2), measure=1, **{**SMALL, "depth": 1})
    took = {(row["way"], len(row["lengths"])): row["step_ms"] for row in rows}
    assert min(took.values()) > 0
    assert took[SEQUENTIAL, 2] > took[PARALLEL, 2]
    assert torch.get_default_device().type == "cpu"


def test_the_tool_draws_the_picture_and_prints_the_table(tmp_path, capfd):
    out = tmp_path / "l.png"
    arguments = ("--model", "deit_tiny", "--token-lengths", 14, 7, "--out", out)
    assert run_tool("plot.py", "lengths", *arguments) == 0
    said = capfd.readouterr().out
    assert "DVT cascade" in said and "14, 7" in said and "ms per clip" not in said
    assert imread(out).shape[1] > 1000


@pytest.mark.parametrize(
    "arguments, text",
    [
        (("lengths", "output/demo"), "plot lengths draws a model, not output/demo; give --model NAME"),
        (("lengths", "--measure", "0"), "--measure is 0, but must be the clips of a batch, at least 1"),
        (("lengths", "--token-lengths", "7", "14"), "token_lengths are [7, 14], but must be positive"),
        (("curve",), "plot curve needs the output_dir of a run"),
        (("curve", "a", "data.root=b"), "plot curve takes no settings, got data.root=b"),
        (("curve", "a", "--model", "deit_tiny"), "--model is for plot lengths, not for plot curve"),
        (("sheet", "a", "b"), "plot sheet draws one run, not 2; call it once for each"),
        (("sheet", "a"), "a holds no recognizer.pt; give the output_dir of a run with an assigner"),
    ],
)
def test_what_a_picture_does_not_look_at_is_refused(arguments, text, capfd):
    assert run_tool("plot.py", *arguments) == 2
    said = capfd.readouterr().err
    assert text in said and said.count("\n") == 1
