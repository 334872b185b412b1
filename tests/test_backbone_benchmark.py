"""benchmarks/: the plain equations say what our backbones say, and the command prints its table."""

import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SMALL = {"dim": 24, "depth": 2, "heads": 2, "num_classes": 5, "num_frames": 4, "crop": 32}
SMALL |= {"token_lengths": (4, 3, 2)}


@pytest.fixture
def backbones(monkeypatch):
    """benchmarks/backbones.py as a module."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import backbones

    return backbones


def pair_of(backbones, name, **changes):
    pair = backbones.build_pair(name, **{**SMALL, **changes})
    return {side: model.double() for side, model in pair.items()}, backbones.draw_clips(
        pair["ours"], 2
    ).double()


@pytest.mark.parametrize("class_token_only", [False, True])
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("timesformer_base", {}),
        ("motionformer_base", {}),
        ("motionformer_base", {"attention_options": {"mode": "fixed"}}),
        ("motionformer_base", {"tubelet": 1, "pre_logits": None}),
    ],
)
def test_the_plain_equations_give_the_same_logits_at_every_level(backbones, name, changes, class_token_only):
    pair, clips = pair_of(backbones, name, class_token_only=class_token_only, **changes)
    with torch.inference_mode():
        for level in range(3):
            ours, plain = pair["ours"](clips, level), pair["plain"](clips, level)
            torch.testing.assert_close(ours, plain, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["timesformer_base", "motionformer_base"])
def test_the_plain_equations_give_the_same_gradients(backbones, name):
    pair, clips = pair_of(backbones, name)
    for model in pair.values():
        model(clips, 1).square().sum().backward()
    plain = pair["plain"].state
    same = [
        key
        for key, parameter in pair["ours"].named_parameters()
        if key in plain and parameter.grad is not None
    ]
    assert len(same) > 30
    for key in same:
        ours = pair["ours"].get_parameter(key)
        torch.testing.assert_close(ours.grad, plain[key].grad, rtol=1e-9, atol=1e-9, msg=key)


def test_sides_that_differ_are_not_timed(backbones):
    pair, clips = pair_of(backbones, "timesformer_base")
    assert backbones.check(pair, clips) < 1e-10
    with torch.no_grad():
        pair["plain"].state["blocks.1.time.fc.weight"] *= 1.01
    with pytest.raises(RuntimeError, match=r"logits differ by .* at the levels; at most 0\.0001 is allowed"):
        backbones.check(pair, clips)


@pytest.mark.slow
def test_the_command_prints_a_row_per_length_and_the_memory_of_both_sides(backbones, monkeypatch, capsys):
    changes = [f"{key}={value!r}".replace(" ", "") for key, value in SMALL.items()]
    arguments = ["--models", "timesformer_base", "--dtypes", "float32", "bfloat16_weights", "--repeats", "1"]
    arguments += ["--training", "--device", "cpu", "--change", *changes]
    monkeypatch.setattr(sys, "argv", [str(BENCHMARKS / "backbones.py"), *arguments])
    assert backbones.main() == 0
    shown = capsys.readouterr().out
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in shown.splitlines() if "|" in line]
    head, body = table[0], [dict(zip(table[0], line, strict=True)) for line in table[2:]]
    assert [(row["dtype"], row["what"], row["length"]) for row in body] == [
        (dtype, what, str(length))
        for dtype, what in (
            ("float32", "forward"),
            ("float32", "training step"),
            ("bfloat16_weights", "forward"),
        )
        for length in SMALL["token_lengths"]
    ]
    assert head[4:7] == ["plain ms", "ours ms", "plain / ours"]
    assert all(float(row["ours ms"]) > 0 for row in body)
    assert [row["plain / ours"] != "-" for row in body] == 3 * [True, False, False]
    assert [row["ours peak MB"] != "-" for row in body] == [*3 * [False], True, *5 * [False]]
    assert "torch: " in shown and "command: " in shown


def test_a_model_without_equations_is_refused(backbones, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks/backbones.py", "--models", "deit_small"])
    assert backbones.main() == 2
    assert "no plain equations for 'deit_small'" in capsys.readouterr().err
