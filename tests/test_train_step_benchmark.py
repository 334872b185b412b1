"""benchmarks/train_step.py: its table says what the whole step costs over the longest length alone."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[1] / "benchmarks/train_step.py"


def table(text: str) -> dict[str, dict[str, str]]:
    """The rows by their step: cells by column."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    header, rows = cells[0], cells[2:]
    return {row[1]: dict(zip(header, row, strict=True)) for row in rows}


@pytest.mark.slow
def test_the_quick_run_compares_all_lengths_with_the_longest():
    command = [sys.executable, str(BENCHMARK), "--quick", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = table(done.stdout)
    assert rows.keys() == {"longest", "all"}
    assert float(rows["all"]["ms"]) > float(rows["longest"]["ms"]) > 0
    times, promise = float(rows["all"]["times longest"]), float(rows["all"]["GMACs promise"])
    assert 1 < promise < 3
    assert abs(float(rows["all"]["of promise"]) - times / promise) < 0.02
    assert all(0 < float(row["peak MB"]) < 2000 for row in rows.values())
    assert rows["all"]["over longest"].endswith("%") and "device: cpu" in done.stdout
