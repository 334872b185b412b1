"""benchmarks/length_parallel.py: the replay of known times, and the command."""

import re
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    """benchmarks/length_parallel.py as a module."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import length_parallel

    return length_parallel


def test_a_pupil_waits_for_the_message_and_the_step_for_the_slowest(benchmark):
    teacher = [(3.0, "send", [0]), (7.0, "send", [1]), (8.0, "end", [])]
    early = [(1.0, "wait", [(0, 1)]), (2.0, "wait", [(1, 1)]), (4.0, "end", [])]  # at 3, then at 7
    late = [(5.0, "wait", [(0, 1), (1, 1)]), (6.5, "end", [])]  # at 7
    assert benchmark.replay([early, teacher]) == 9.0
    assert benchmark.replay([late, teacher]) == 8.5
    assert benchmark.replay([[(1.0, "wait", [(0, 1)]), (1.5, "end", [])], teacher]) == 8.0


def test_the_command_prints_its_table(benchmark, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks/length_parallel.py", "--quick"])
    assert benchmark.main() == 0
    out = capsys.readouterr().out
    assert "3 processes of one thread, replayed from processor time on" in out
    rows = re.findall(r"^\| (GMACs|measured time) .*\|\s+([\d.]+) \|\s+([\d.]+) \|\s+(\d+)% \|$", out, re.M)
    assert [row[0] for row in rows] == ["GMACs", "measured time"]
    for _, ideal, gained, share in rows:
        assert 1 < float(ideal) <= 3 and float(gained) > 0.3
        assert int(share) == pytest.approx(100 * float(gained) / float(ideal), abs=2)
