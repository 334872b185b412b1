"""benchmarks/seeds.py: several runs side by side."""

import json
import runpy
from pathlib import Path

import pytest

SEEDS = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "seeds.py"), run_name="seeds")
pytest_plugins = ["run_fixtures"]


@pytest.fixture
def reports(small_run):
    """A run's report, and the same one two points better everywhere on every curve."""
    first = json.loads((small_run / "report.json").read_text())
    second = json.loads(json.dumps(first))
    for rows in second["curve"].values():
        for row in rows:
            row["top1"] += 2
    return [first, second]


def test_a_curves_row_is_the_mean_over_the_runs_at_each_budget(reports):
    rows = SEEDS["curve_table"](reports)
    first = reports[0]["curve"]
    assert len(rows) == sum(map(len, first.values())) > 4
    for row, before in zip(rows, (one for curve in first.values() for one in curve), strict=True):
        assert row["top1"] == pytest.approx(before["top1"] + 1)
        assert row["relative"] == pytest.approx(100 * before["gmacs"] / reports[0]["per_length"][0]["gmacs"])


def test_a_budget_that_one_run_cannot_meet_is_left_out(reports):
    dropped = reports[1]["curve"]["cascade"].pop(0)
    rows = [row["budget"] for row in SEEDS["curve_table"](reports) if row["router"] == "cascade"]
    assert rows == [row["budget"] for row in reports[0]["curve"]["cascade"][1:]]
    assert dropped["budget"] not in rows


def test_the_hybrid_is_paired_with_the_better_of_the_pure_routers_and_the_assigner_with_chance(reports):
    text = SEEDS["as_text"](reports)
    assert "minus the better of assigner and cascade" in text and "| minus random" in text
    rows = {(row["router"], row["budget"]): row for row in SEEDS["curve_table"](reports)}
    for row in reports[0]["curve"]["hybrid"]:
        at = [(kind, row["budget"]) for kind in ("assigner", "cascade")]  # not all can meet every budget
        pure = [rows[one]["top1"] - 1 for one in at if one in rows]
        assert row["over_pure"]["difference"] == pytest.approx(row["top1"] - max(pure))
        assert f"{row['over_random']['difference']:+.1f} (" in rows["hybrid", row["budget"]]["over_random"]


def test_a_folder_without_a_report_is_named(tmp_path):
    with pytest.raises(SEEDS["InputError"], match=r"no report\.json"):
        SEEDS["read"](tmp_path)
