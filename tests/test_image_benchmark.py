"""benchmarks/images.py: what is timed says the same first, and the table has both ratios."""

import sys
from functools import partial
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SMALL = {"img_size": 64, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 5}


@pytest.fixture
def images(monkeypatch):
    """benchmarks/images.py as a module, with small models."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import images

    monkeypatch.setattr(images, "build_pair", partial(images.build_pair, **SMALL))
    return images


def test_models_that_differ_are_not_timed(images):
    theirs, ours = images.build_pair("deit_small_patch16_224", "deit_small")
    pictures = torch.randn(2, 3, 64, 64)
    assert images.check(theirs, ours, pictures) < 1e-5
    with torch.no_grad():
        theirs.blocks[1].mlp.fc2.weight.mul_(1.05)
    with pytest.raises(RuntimeError, match=r"logits differ by .*; at most 0\.0001 is allowed"):
        images.check(theirs, ours, pictures)


def test_the_command_prints_a_row_per_length_with_both_ratios(images, monkeypatch, capsys):
    asked = ["--dtypes", "float32", "bfloat16_weights", "--batches", "1", "--repeats", "1", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", [str(BENCHMARKS / "images.py"), *asked])
    assert images.main() == 0
    shown = capsys.readouterr().out
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in shown.splitlines() if "|" in line]
    body = [dict(zip(table[0], line, strict=True)) for line in table[2:]]
    assert [row["length"] for row in body] == ["4", "3", "2"] * 2
    for i, row in enumerate(body):
        assert (row["timm / ours"] != "-") == (row["of the promise"] == "-") == (i % 3 == 0)
    speed_up, promise = (float(body[2][key]) for key in ("speed-up", "GMACs promise"))
    assert float(body[2]["of the promise"]) == pytest.approx(speed_up / promise, abs=0.02)
    assert "threads: " in shown and "command: " in shown


def test_numbers_that_make_no_run_are_refused(images, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(BENCHMARKS / "images.py"), "--batches", "0"])
    assert images.main() == 2
    assert "--batches and --repeats must be at least 1" in capsys.readouterr().err
