"""Several runs of one config side by side: mean and range over the runs, as Markdown.

    python benchmarks/seeds.py output/demo output/demo_seed1 output/demo_seed2

Reads each folder's report.json. Rows: every fixed length, the adaptive choice, the baselines; then every
router at every budget that all runs can meet, and the shares by tag.
"""

import json
import statistics
import sys
from pathlib import Path

from revit_video import command_line
from revit_video.report.run_report import PAIRED, result_rows
from revit_video.report.tables import markdown_table
from revit_video.types import InputError


def main() -> int:
    made = command_line.parser(__doc__)
    made.add_argument("runs", nargs="+", metavar="RUN", type=Path, help="folders with a report.json")
    return command_line.run(lambda args: print(as_text([read(run) for run in args.runs])), made)


def read(run: Path) -> dict:
    path = run / "report.json"
    if not path.is_file():
        raise InputError(f"no report.json in {run}; has its test stage run?")
    return json.loads(path.read_text())


def as_text(reports: list[dict]) -> str:
    seeds = [str(report["protocol"]["seed"]) for report in reports]
    columns = {
        "name": ("tokens per frame", ""),
        "top1": ("video@1 %, mean", ".2f"),
        "runs": ("each seed", ""),
    }
    columns |= {"gmacs": ("GMACs / view", ".4g"), "relative": ("of longest %", ".1f")}
    parts = [f"Seeds {', '.join(seeds)}.", markdown_table(result_table(reports), columns)]
    columns = {
        "name": ("adaptive minus", ""),
        "mean": ("points, mean", "+.2f"),
        "runs": ("each seed, 95% interval", ""),
    }
    parts.append(markdown_table(paired_table(reports), columns))
    columns = {
        "router": ("router", ""),
        "budget": ("budget", ".2f"),
        "relative": ("of longest %", ".1f"),
        "top1": ("video@1 %, mean", ".2f"),
        "runs": ("each seed", ""),
        "over_random": ("minus random, each seed, 95% interval", ""),
        "over_pure": ("minus the better of assigner and cascade", ""),
        "over_pure_in_time": ("the same in the same time", ""),
        "ms": ("ms / view", ".3g"),
    }
    parts.append(markdown_table(curve_table(reports), columns))
    if all("tags" in report for report in reports):
        lengths = [str(row["length"]) for row in reports[0]["per_length"]]
        columns = {"tag": ("tag", ""), "adaptive": ("adaptive %", ".1f")}
        columns |= {f"at{n}": (f"{n}x{n} %", ".1f") for n in lengths}
        columns |= {f"share{n}": (f"share at {n}", ".2f") for n in lengths}
        parts.append(markdown_table(tag_table(reports, lengths), columns))
    return "\n\n".join(parts)


def result_table(reports: list[dict]) -> list[dict]:
    rows = []
    for same in zip(*map(result_rows, reports), strict=True):
        means = {key: statistics.mean(row[key] for row in same) for key in ("top1", "gmacs", "relative")}
        rows.append(
            {"name": same[0]["name"], "runs": ", ".join(f"{row['top1']:.1f}" for row in same), **means}
        )
    return rows


def paired_table(reports: list[dict]) -> list[dict]:
    rows = []
    for name in reports[0]["paired"]:
        seen = [report["paired"][name] for report in reports]
        each = ", ".join(
            f"{row['difference']:+.1f} ({row['low']:+.1f} to {row['high']:+.1f})" for row in seen
        )
        rows.append({"name": name, "mean": statistics.mean(row["difference"] for row in seen), "runs": each})
    return rows


def curve_table(reports: list[dict]) -> list[dict]:
    """A row per router and budget; the oracle's points, which have none, go by their order."""
    rows = []
    for router in reports[0]["curve"]:
        points = [{at(row, i): row for i, row in enumerate(report["curve"][router])} for report in reports]
        for budget in sorted(set.intersection(*(set(one) for one in points))):
            same = [one[budget] for one in points]
            longest = [report["per_length"][0]["gmacs"] for report in reports]
            row = {
                "router": router,
                "budget": same[0].get("budget"),
                "relative": statistics.mean(
                    100 * r["gmacs"] / most for r, most in zip(same, longest, strict=True)
                ),
                "top1": statistics.mean(r["top1"] for r in same),
                "runs": ", ".join(f"{r['top1']:.1f}" for r in same),
                "ms": statistics.mean(r["ms"] for r in same) if all("ms" in r for r in same) else None,
            }
            rows.append(row | {name: each_of(same, name) for name in PAIRED})
    return rows


def at(row: dict, place: int) -> float:
    return row.get("budget", place)


def each_of(same: list[dict], name: str) -> str:
    """By how much the points of one router and budget are above what they are paired with, a dash for a run
    that does not say; "" if none does.
    """
    if not any(name in row for row in same):
        return ""
    seen = [row.get(name) for row in same]
    return ", ".join(
        f"{one['difference']:+.1f} ({one['low']:+.1f} to {one['high']:+.1f})" if one else "-" for one in seen
    )


def tag_table(reports: list[dict], lengths: list[str]) -> list[dict]:
    rows = []
    for tag in reports[0]["tags"]:
        seen = [report["tags"][tag] for report in reports]
        row = {"tag": tag, "adaptive": statistics.mean(one["top1"] for one in seen)}
        for i, n in enumerate(lengths):
            row[f"at{n}"] = statistics.mean(one["top1_fixed"][i] for one in seen)
            row[f"share{n}"] = statistics.mean(one["share"][i] for one in seen)
        rows.append(row)
    return rows


if __name__ == "__main__":
    sys.exit(main())
