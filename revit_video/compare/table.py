"""The result of a comparison: one table of all points, as JSON, Markdown and pictures."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from revit_video.compare.points import Point, title_of
from revit_video.evaluate.metrics import bootstrap_interval, paired_difference
from revit_video.report.plots import INK, MUTED, OTHER_COLORS, accuracy_axes
from revit_video.report.tables import markdown_table
from revit_video.types import InputError

COLUMNS = {
    "title": ("method", ""),
    "top1": ("top-1 %", ".2f"),
    "by_seed": ("by seed", ""),
    "interval": ("95% interval", ""),
    "difference": ("difference", ""),
    "gmacs": ("GMACs / view", ".4g"),
    "clips_per_s": ("clips / s", ".1f"),
    "ms": ("ms at batch 1", ".2f"),
    "peak_mib": ("peak MiB", ".0f"),
    "params": ("parameters", ",d"),
    "training_gmacs": ("training GMACs", ",.0f"),
    "training_s": ("training s", ",.0f"),
}
PUBLISHED = {
    "name": ("published", ""),
    "top1": ("top-1 %", ".2f"),
    "gmacs": ("GMACs", ".2f"),
    "source": ("in", ""),
}
COLORS = ("#1f2430", "#0f6cbd", "#c2410c", "#15803d", "#d99a00", *OTHER_COLORS)


def table_row(row: str, point: str, by_seed: Mapping[int, Point]) -> dict:
    """Accuracy and cost of one point over its seeds, in percent and GMACs.

    The interval is a bootstrap over the videos of the mean over the seeds; `top1_std` is how the seeds
    spread.
    """
    points = list(by_seed.values())
    places, hits = hits_of(points)
    top1 = (100.0 * hits.mean(dim=1)).tolist()
    low, high = bootstrap_interval(hits.mean(dim=0))
    return {
        "title": title_of(row, point),
        "row": row,
        "point": point,
        "seeds": list(by_seed),
        "num_videos": len(places),
        "top1": statistics.fmean(top1),
        "top1_by_seed": top1,
        "top1_std": statistics.stdev(top1) if len(top1) > 1 else None,
        "top1_low": low,
        "top1_high": high,
        "gmacs": statistics.fmean(one.gmacs for one in points),
    }


def hits_of(points: Sequence[Point]) -> tuple[list[int], Tensor]:
    """Places of the N videos that all points could read, and how right each point is there, (points, N)."""
    places = sorted(set.intersection(*(set(one.hits) for one in points)))
    hits = [[one.hits[place] for place in places] for one in points]
    return places, torch.tensor(hits, dtype=torch.float64)


def differences(found: Mapping[tuple[str, str], Sequence[Point]], against: str) -> dict[str, dict]:
    """Each point's accuracy minus that of another, by title: `versus` says of which, `difference` in points
    with its 95% interval, a bootstrap over the videos of the mean over the seeds.

    found: the seeds of each (row, point). against: a row, whose point of the same name (else its first one)
    every point is compared with; or the title of a point.

    Raises:
        InputError: there is no such row or point.
    """
    titles = {title_of(*at): at for at in found}
    rows = {at[0]: at for at in reversed(found)}  # their first points
    if against not in rows and against not in titles:
        raise InputError(
            f"against is {against!r}, which is no row and no point of this comparison: {'; '.join(titles)}"
        )
    made = {}
    for title, at in titles.items():
        same = (against, at[1])
        other = same if same in found else rows[against] if against in rows else titles[against]
        if other != at:
            count = len(found[at])
            _, hits = hits_of([*found[at], *found[other]])
            paired = paired_difference(hits[:count].mean(dim=0), hits[count:].mean(dim=0))
            made[title] = {"versus": title_of(*other), **paired}
    return made


def mean_curve(curves: Sequence[Sequence[Mapping]]) -> list[dict[str, float]]:
    """The curves of several seeds as one, at the budgets that all of them have."""
    budgets = set.intersection(*({point["budget"] for point in curve} for curve in curves))
    means = []
    for budget in sorted(budgets):
        at = [point for curve in curves for point in curve if point["budget"] == budget]
        means.append(
            {key: statistics.fmean(point[key] for point in at) for key in ("budget", "gmacs", "top1")}
        )
    return means


def mean_curves(curves: Sequence[Mapping[str, Sequence[Mapping]]]) -> dict[str, list[dict[str, float]]]:
    """By kind, those that every seed has; the oracle of a curve is no method."""
    kinds = set.intersection(*(set(kinds) for kinds in curves)) - {"oracle"}
    return {kind: mean_curve([one[kind] for one in curves]) for kind in sorted(kinds)}


def shown(row: Mapping) -> dict:
    """A row of the table in words where numbers are several."""
    by_seed = ", ".join(f"{value:.1f}" for value in row["top1_by_seed"])
    interval = f"{row['top1_low']:.1f} to {row['top1_high']:.1f}"
    difference = None
    if over := row.get("over"):
        difference = f"{over['difference']:+.1f} ({over['low']:+.1f} to {over['high']:+.1f})"
    return {**row, "by_seed": by_seed, "interval": interval, "difference": difference}


def as_markdown(result: Mapping) -> str:
    title, protocol = result["title"], result["protocol"]
    parts = [
        f"# Comparison: {title['model']} on {title['dataset']}, {title['views']} views",
        markdown_table([shown(row) for row in result["rows"]], COLUMNS)
        if result["rows"]
        else "Nothing finished.",
        f"Accuracies are means over seeds {', '.join(map(str, result['seeds']))}, with a bootstrap interval "
        "over the test videos, and so is the difference to "
        f"{result['against']} (where that has several points, to the one of the same name, else to its "
        "first), paired video by video. GMACs count the assigner and every exit that ran. Speed and memory: "
        f"batches of {title['batch_size']}, one process, in turns, medians, weights of the first seed. "
        "Training is stage 1, with that of the row it starts from.",
    ]
    if result["failed"]:
        parts.append(
            "\n".join(["Not finished:", "", *(f"- {name}: {why}" for name, why in result["failed"].items())])
        )
    if result["published"]:
        parts += [
            "## Published on ImageNet, for orientation only: other data, other training",
            markdown_table(result["published"], PUBLISHED),
        ]
    rows = [{"what": key, "value": str(value)} for key, value in protocol.items()]
    parts += ["## Protocol", markdown_table(rows, {"what": ("what", ""), "value": ("value", "")})]
    return "\n\n".join(parts) + "\n"


def write_result(result: Mapping, folder: Path) -> None:
    """comparison.json, comparison.md and two pictures; each text is whole or absent."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (
        ("comparison.json", json.dumps(result, indent=2) + "\n"),
        ("comparison.md", as_markdown(result)),
    ):
        partial = folder / f"{name}.partial"
        partial.write_text(text)
        partial.replace(folder / name)
    if result["rows"]:
        words = f"{result['title']['model']} on {result['title']['dataset']}"
        draw(folder / "accuracy_vs_gmacs.png", result, "gmacs", title=words, label="GMACs per view")
        timed = [row for row in result["rows"] if row.get("clips_per_s")]
        inverse = [{**row, "ms_per_clip": 1000 / row["clips_per_s"]} for row in timed]
        named = {**result, "rows": inverse, "curves": {}}
        label = f"measured ms per clip, batches of {result['title']['batch_size']}"
        draw(folder / "accuracy_vs_time.png", named, "ms_per_clip", title=words, label=label)


def draw(path: Path, result: Mapping, cost: str, *, title: str, label: str) -> None:
    """Accuracy with its interval over a cost: a colour for each row, a line through its points."""
    figure, axes = accuracy_axes(title, xlabel=label)
    names = list(dict.fromkeys(row["row"] for row in result["rows"]))
    for number, name in enumerate(names):
        color = COLORS[number % len(COLORS)]
        points = sorted((row for row in result["rows"] if row["row"] == name), key=lambda row: row[cost])
        x, y = ([row[key] for row in points] for key in (cost, "top1"))
        ends = [
            [row["top1"] - row["top1_low"] for row in points],
            [row["top1_high"] - row["top1"] for row in points],
        ]
        style = {"color": color, "marker": "os^Dv"[number // len(COLORS) % 5], "label": name}
        axes.errorbar(x, y, yerr=ends, ls="none", ms=6, elinewidth=0.9, capsize=2, **style)
        for row in points:
            if row["point"]:
                place = {"textcoords": "offset points", "xytext": (5, 4)}
                axes.annotate(row["point"], (row[cost], row["top1"]), fontsize=6.5, color=color, **place)
        for kind, curve in result["curves"].get(name, {}).items():
            if curve:
                line = {"color": MUTED if kind == "random" else color, "lw": 1.0, "alpha": 0.6}
                axes.plot([p["gmacs"] for p in curve], [p["top1"] for p in curve], **line)
    axes.legend(fontsize=8, frameon=False, labelcolor=INK, loc="lower right")
    figure.savefig(path)
