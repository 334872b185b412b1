"""The two pictures of a ReViT: accuracy against cost, and which clips got which token length.

Drawn on a Figure of their own (no pyplot), so that they change no global state and need no display.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from revit_video.types import InputError

COSTS = {"gmacs": "GMACs per view", "ms": "measured ms per view, full batches"}
INK, MUTED, GRID = "#1f2430", "#6b7280", "#e5e7eb"
CURVE_STYLES = {  # name -> how its line looks; other names get the next of OTHER_COLORS
    "assigner": {"color": "#0f6cbd", "lw": 2.4},
    "cascade": {"color": "#c2410c", "lw": 2.0},
    "hybrid": {"color": "#15803d", "lw": 2.0},
    "random": {"color": "#6b7280", "lw": 1.6, "ls": (0, (5, 3))},
    "oracle": {"color": "#d99a00", "lw": 1.2, "ls": (0, (1, 2))},
}
OTHER_COLORS = ("#7c3aed", "#be185d", "#0e7490", "#a16207", "#4d7c0f")
POINT_STYLES = {"oracle": {"marker": "*", "s": 240, "color": "#d99a00"}, "adaptive": {"color": "#0f6cbd"}}
HALO = [withStroke(linewidth=3.5, foreground="white")]  # keeps a label readable on top of a line


def plot_accuracy_vs_cost(
    path: str | PathLike,
    *,
    fixed: Sequence[Mapping[str, float]],
    curves: Mapping[str, Sequence[Mapping[str, float]]],
    points: Mapping[str, Mapping[str, float]] | None = None,
    title: str,
    cost: str = "gmacs",
) -> None:
    """Draw top-1 (percent) over what a view costs and write it to `path` (the suffix says the format).

    Args:
        cost: `gmacs` | `ms` (measured).
        fixed: `length`, `top1`, and the cost of each fixed token length: black squares.
        curves: name -> points with the cost, `top1` and, for a band, `top1_low`, `top1_high`.
        points: name -> the cost and `top1` of single results; "oracle" is a star. In the color of a curve
            that is drawn ("adaptive" has the assigner's), a point marks a place on it and carries no name.
        title: what was measured: model, data, views.
    """
    if not fixed and not any(curves.values()) and not points:
        raise InputError("nothing to plot: fixed, curves and points are empty; give at least one of them")
    figure, axes = accuracy_axes(title, xlabel=COSTS[cost])
    ends = _draw_curves(axes, curves, cost)
    curve_colors = {color for *_, color in ends.values()}
    if fixed:
        ends["fixed length"] = _draw_fixed(axes, sorted(fixed, key=lambda row: row[cost]), cost)
    for name, point in (points or {}).items():
        at = (point[cost], point["top1"])
        color = CURVE_STYLES.get(name, {"color": INK})["color"]
        style = {"marker": "o", "s": 70, "color": color, **POINT_STYLES.get(name, {})}
        axes.scatter(*at, edgecolors="white", linewidths=1.0, zorder=6, **style)
        if style["color"] not in curve_colors:
            color = style["color"]
            label_point(axes, name, at, offset=(10, 0), color=color, ha="left", va="center", weight="bold")
    axes.margins(x=0.07, y=0.12)
    name_lines(axes, ends)
    figure.savefig(path)


def plot_length_sheet(
    path: str | PathLike,
    *,
    groups: Mapping[str, Sequence[Mapping[str, object]]],
    title: str = "Which clips get how many tokens",
) -> None:
    """Draw example clips by token length (the paper's Figure 6): the first, middle and last frame of
    each, or the one frame of pictures.

    Args:
        groups: heading ("7×7, easy") -> clips: `frames`, uint8 (T, H, W, 3), and `caption` ("sway · hard").
            Frames are cut to their central square, which is what the model sees.
    """
    columns = max((len(clips) for clips in groups.values()), default=0)
    if columns == 0:
        raise InputError("nothing to draw: no group holds a clip; give at least one clip")
    shown = 1 if all(len(clip["frames"]) == 1 for clips in groups.values() for clip in clips) else 3
    side, gap, top, heading, caption = 0.9 if shown == 3 else 1.3, 0.22, 0.62, 0.36, 0.34  # inches
    strip = shown * side
    height = side + heading + caption
    width = columns * strip + (columns + 1) * gap
    figure = new_figure(width, top + len(groups) * height + 0.1)
    total = figure.get_figheight()
    figure.text(gap / width, 1 - 0.2 / total, title, fontsize=13, weight="bold", color=INK, va="top")
    for row, (name, clips) in enumerate(groups.items()):
        above = top + row * height  # inches from the top edge to this row
        figure.text(
            gap / width, 1 - above / total, name, fontsize=11, weight="bold", color="#0f6cbd", va="top"
        )
        for column, clip in enumerate(clips):
            left = gap + column * (strip + gap)
            bottom = total - above - heading + 0.08 - side
            axes = figure.add_axes((left / width, bottom / total, strip / width, side / total))
            axes.imshow(_film_strip(clip["frames"], shown), aspect="auto", interpolation="antialiased")
            axes.set_axis_off()
            middle = (left + strip / 2) / width
            figure.text(
                middle,
                (bottom - 0.05) / total,
                clip["caption"],
                fontsize=9,
                ha="center",
                va="top",
                color=MUTED,
            )
    figure.savefig(path)


def _draw_fixed(axes: Axes, rows: Sequence[Mapping], cost: str) -> tuple[float, float, str]:
    """Labelled black squares on a thin line; gives back its costly end (cost, top1, color)."""
    x, y = [row[cost] for row in rows], [row["top1"] for row in rows]
    axes.plot(x, y, color=INK, lw=0.9, alpha=0.6, zorder=2)
    axes.scatter(x, y, marker="s", s=52, color=INK, edgecolors="white", linewidths=0.8, zorder=5)
    for row in rows:
        text, at = f"{row['length']}×{row['length']}", (row[cost], row["top1"])
        place = {"offset": (0, -10), "ha": "center"} if row is rows[-1] else {"offset": (7, -7), "ha": "left"}
        label_point(axes, text, at, color=INK, va="top", **place)
    return x[-1], y[-1], INK


def _draw_curves(
    axes: Axes, curves: Mapping[str, Sequence[Mapping]], cost: str
) -> dict[str, tuple[float, float, str]]:
    """Lines and bands; gives back name -> (cost, top1, color) of the costly end of each."""
    others = iter(OTHER_COLORS * (1 + len(curves) // len(OTHER_COLORS)))
    ends = {}
    for name, rows in curves.items():
        style = CURVE_STYLES.get(name) or {"color": next(others), "lw": 2.0}
        rows = sorted(rows, key=lambda row: row[cost])
        if not rows:  # no budget could be met
            continue
        x, y = [row[cost] for row in rows], [row["top1"] for row in rows]
        axes.plot(x, y, zorder=4, solid_capstyle="round", **style)
        if all("top1_low" in row and "top1_high" in row for row in rows):
            low, high = [row["top1_low"] for row in rows], [row["top1_high"] for row in rows]
            axes.fill_between(x, low, high, color=style["color"], alpha=0.13, lw=0, zorder=1)
        ends[name] = (x[-1], y[-1], style["color"])
    return ends


def name_lines(axes: Axes, ends: Mapping[str, tuple[float, float, str]]) -> None:
    """Write each line's name to the right of the axes, level with its end, none on top of another."""
    axes.autoscale_view()
    bottom, top = axes.get_ylim()
    order = sorted(ends, key=lambda name: ends[name][1])
    heights = spread([(ends[name][1] - bottom) / (top - bottom) for name in order], gap=0.058)
    for name, height in zip(order, heights, strict=True):
        x, y, color = ends[name]
        line = {"arrowstyle": "-", "color": color, "lw": 0.8, "alpha": 0.45, "shrinkB": 0, "relpos": (0, 0.5)}
        style = {"color": color, "weight": "bold", "va": "center", "annotation_clip": False}
        axes.annotate(
            name, (x, y), xytext=(1.03, height), textcoords="axes fraction", arrowprops=line, **style
        )


def spread(heights: Sequence[float], *, gap: float) -> list[float]:
    """Rising heights, moved so that neighbours are at least `gap` apart: a crowd spreads about its mean.

    spread([0.50, 0.52, 0.90], gap=0.1) -> [0.46, 0.56, 0.90]
    """
    groups: list[list[float]] = []  # touching neighbours, by their wished heights
    for height in heights:
        groups.append([height])
        while len(groups) > 1 and _lowest(groups[-1], gap) - _lowest(groups[-2], gap) < gap * len(groups[-2]):
            last = groups.pop()
            groups[-1] += last
    return [_lowest(group, gap) + gap * i for group in groups for i in range(len(group))]


def _lowest(group: Sequence[float], gap: float) -> float:
    return sum(group) / len(group) - gap * (len(group) - 1) / 2


def label_point(axes: Axes, text: str, at: tuple, *, offset: tuple, **style) -> None:
    """Write `text` `offset` points (x, y) from a point of the data, readable on top of a line."""
    axes.annotate(text, at, xytext=offset, textcoords="offset points", path_effects=HALO, zorder=7, **style)


def _film_strip(frames: np.ndarray, shown: int) -> np.ndarray:
    """First, middle and last frame as squares side by side, (H, about 3 * H, 3), with white between them;
    or the first alone.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames) or frames.dtype != np.uint8:
        raise InputError(
            f"frames are {frames.dtype} {frames.shape}, but must be uint8 (T, H, W, 3) with T >= 1"
        )
    side = min(frames.shape[1:3])
    top, left = (frames.shape[1] - side) // 2, (frames.shape[2] - side) // 2
    squares = frames[[0, len(frames) // 2, -1], top : top + side, left : left + side]
    if shown == 1:
        return squares[0]
    white = np.full((side, max(1, side // 40), 3), 255, np.uint8)
    return np.concatenate([squares[0], white, squares[1], white, squares[2]], axis=1)


def new_figure(width: float, height: float) -> Figure:
    """An empty white figure of so many inches, 150 pixels each."""
    figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def accuracy_axes(title: str, *, xlabel: str = "GMACs per view") -> tuple[Figure, Axes]:
    """An empty picture of accuracy over a cost."""
    figure = new_figure(8.0, 5.0)  # 1200 x 750 pixels
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=13, weight="bold", color=INK, pad=14)
    axes.set_xlabel(xlabel, fontsize=11, color=MUTED)
    axes.set_ylabel("top-1 accuracy (%)", fontsize=11, color=MUTED)
    axes.grid(color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=10, labelcolor=MUTED)
    axes.spines[:].set_visible(False)
    axes.spines["bottom"].set(visible=True, color="#9ca3af")
    return figure, axes
