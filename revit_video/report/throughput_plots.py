"""Accuracy over measured throughput of tested runs (ReViT, arXiv:2307.02092, Figure 5), from report.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike

from matplotlib.axes import Axes

from revit_video.report.plots import OTHER_COLORS, accuracy_axes, label_point, name_lines
from revit_video.types import InputError

SAME = ("views", "device_name", "threads", "dtype")  # of the protocol: without them speeds do not compare
COLORS = ("#0f6cbd", "#c2410c", "#15803d", *OTHER_COLORS)  # of the runs
MARKERS = {"cascade": "^", "early exit": "^", "hybrid": "D"}  # of routers; others are round
ROUTER = " router"  # what a router is called in the report's timings, behind its kind


@dataclass(frozen=True)
class Point:
    """One way to run a model."""

    name: str  # "10x10", "adaptive", "cascade"
    clips_per_s: float
    top1: float  # percent


@dataclass(frozen=True)
class Speeds:
    """A run's fixed lengths, and what chooses among them."""

    fixed: Sequence[Point]
    routers: Sequence[Point]


def speeds_of(report: Mapping, *, name: str) -> Speeds:
    """The points of a report.json that have both an accuracy and a speed.

    Raises:
        InputError: the run was not timed.
    """
    if "throughput" not in report:
        raise InputError(f"{name} was tested without timing; test it again with test.throughput=true")
    rates = report["throughput"]["clips_per_s"]
    fixed = [Point(length_name(row), row["clips_per_s"], row["top1"]) for row in report["per_length"]]
    routers = [
        Point(key.replace("_", " "), report[key]["clips_per_s"], report[key]["top1"])
        for key in ("adaptive", "early_exit")
        if key in report
    ]
    routers += [
        Point(kind, rates[kind + ROUTER], row["top1"])
        for kind, row in report.get("baselines", {}).items()
        if kind + ROUTER in rates
    ]
    return Speeds(fixed, routers)


def length_name(row: Mapping) -> str:
    return f"exit {row['exit']}" if "exit" in row else f"{row['length']}x{row['length']}"


def plot_throughput(path: str | PathLike, reports: Mapping[str, Mapping]) -> None:
    """Draw top-1 (percent) over clips/s: a line through the fixed lengths of each run, and its routers."""
    protocol = same_protocol(reports)
    title = f"{protocol['views']} views, {protocol['dtype']}, {protocol['device_name']}"
    threads = f"{protocol['threads']} thread" + "s" * (protocol["threads"] > 1)
    figure, axes = accuracy_axes(title, xlabel=f"clips/s, measured on {threads}")
    ends = {}
    for number, (name, report) in enumerate(reports.items()):
        speeds, color = speeds_of(report, name=name), COLORS[number % len(COLORS)]
        draw_speeds(axes, speeds, color=color)
        fastest = max(speeds.fixed, key=lambda point: point.clips_per_s)
        ends[name] = (fastest.clips_per_s, fastest.top1, color)
    axes.margins(x=0.1, y=0.14)
    name_lines(axes, ends)
    figure.savefig(path)


def same_protocol(reports: Mapping[str, Mapping]) -> Mapping:
    """The protocol of all runs.

    Raises:
        InputError: they differ in something without which speeds do not compare.
    """
    (first, one), *others = reports.items()
    for name, other in others:
        for key in SAME:
            ours, theirs = one["protocol"][key], other["protocol"][key]
            if ours != theirs:
                raise InputError(
                    f"{name} was timed with {key}={theirs}, {first} with {ours}; speeds compare only where "
                    f"{', '.join(SAME)} are the same: test one of them again"
                )
    return one["protocol"]


def draw_speeds(axes: Axes, speeds: Speeds, *, color: str) -> None:
    """A line of squares for the fixed lengths, and a mark with its name for each router."""
    points = sorted(speeds.fixed, key=lambda point: point.clips_per_s)
    x, y = [point.clips_per_s for point in points], [point.top1 for point in points]
    axes.plot(x, y, color=color, marker="s", ms=7, mec="white", lw=1.2, zorder=3)
    for point in points:
        at = (point.clips_per_s, point.top1)
        label_point(axes, point.name, at, offset=(0, -10), color=color, ha="center", va="top")
    for point in speeds.routers:
        at, marker = (point.clips_per_s, point.top1), MARKERS.get(point.name, "o")
        axes.scatter(*at, marker=marker, s=90, color=color, edgecolors="white", zorder=5)
        label_point(axes, point.name, at, offset=(9, 4), color=color, ha="left", va="bottom", weight="bold")
