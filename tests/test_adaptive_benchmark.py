"""benchmarks/adaptive.py: its table is about the shares and the costs it says, in all three ways to run."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from revit_video.routing.forced import Forced, dealt, marked_clips, shares_for
from revit_video.types import InputError

BENCHMARK = Path(__file__).parents[1] / "benchmarks/adaptive.py"


@pytest.mark.slow
def test_the_quick_run_compares_three_ways_with_the_longest_length():
    command = [sys.executable, str(BENCHMARK), "--quick", "--clips", "20", "--repeats", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line.strip("|").split("|") for line in done.stdout.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line] for line in lines[2:]]
    assert [row[2] for row in rows] == ["bucketed, batch 16", "arrival, batch 16", "single, batch 1"] * 2
    for row in rows:
        rate, longest, speed_up, promise, follows = map(float, row[3:])
        assert speed_up == pytest.approx(rate / longest, rel=0.05)
        assert follows == pytest.approx(speed_up / promise, rel=0.05, abs=0.02)
        assert promise > 1


def test_the_forced_shares_have_the_mean_cost_that_is_asked_for_and_the_assigner_says_them():
    costs, look = [370.0, 170.0, 90.0], 0.02
    shares = shares_for(0.5, costs, look)
    assert sum(shares) == pytest.approx(1) and shares[1] == 0.2 and min(shares) >= 0
    assert sum(s * c for s, c in zip(shares, costs, strict=True)) + look == pytest.approx(185)
    levels = dealt(shares, 200)
    counts = torch.bincount(levels, minlength=3) / 200
    assert counts.tolist() == pytest.approx(shares, abs=0.01)
    forced = Forced(lambda clips: torch.randn(len(clips), 3))
    clips = marked_clips(levels, num_frames=2, crop=(4, 4))
    assert torch.equal(forced(clips).argmax(-1), levels)


@pytest.mark.parametrize("costs", [(4.0, 1.0), (4.0, 3.0, 2.0, 1.0)])
def test_shares_are_found_for_any_number_of_lengths_and_out_of_reach_names_the_range(costs):
    shares = shares_for(0.6, costs, 0.1)
    assert sum(shares) == pytest.approx(1) and min(shares) >= 0
    assert sum(s * c for s, c in zip(shares, costs, strict=True)) + 0.1 == pytest.approx(2.4)
    with pytest.raises(InputError, match=r"a mean cost of 0.2 .*out of reach.*give one from"):
        shares_for(0.2, costs, 0.1)
