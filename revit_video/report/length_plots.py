"""Training cost and parameters over the number of token lengths (ReViT, arXiv:2307.02092, Figure 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike

from matplotlib.axes import Axes

from revit_video.report.plots import GRID, INK, MUTED, new_figure
from revit_video.types import InputError

STYLES = (  # of the ways, in the order of the rows; two may lie on each other
    {"color": "#0f6cbd", "marker": "o", "ls": "-", "ms": 9},
    {"color": "#d99a00", "marker": "D", "ls": "--", "ms": 5},
    {"color": INK, "marker": "s", "ls": "-", "ms": 6},
    {"color": "#c2410c", "marker": "^", "ls": "-", "ms": 6},
)
PANELS = {  # key of a row -> (title, divisor)
    "train_gmacs": ("GMACs of a training step, per clip", 1),
    "params": ("parameters, millions", 1e6),
    "step_ms": ("ms of a training step, per clip (measured)", 1),
}


def scaling_lines(rows: Sequence[Mapping], key: str) -> dict[str, list[tuple[int, float]]]:
    """way -> (number of lengths, value) in the order of the rows, which need the keys way and lengths."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        lines.setdefault(row["way"], []).append((len(row["lengths"]), row[key] / PANELS[key][1]))
    return lines


def plot_scaling(path: str | PathLike, rows: Sequence[Mapping], *, title: str) -> None:
    """Draw the rows of `competitors.length_scaling`: a panel for each number that they have."""
    if not rows:
        raise InputError("nothing to plot: no rows; give one token length at least")
    panels = [key for key in PANELS if key in rows[0]]
    figure = new_figure(5.2 * len(panels), 4.6)
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12)
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, weight="bold", color=INK)
    most = max(rows, key=lambda row: len(row["lengths"]))["lengths"]
    ticks = [", ".join(map(str, most[: n + 1])) for n in range(len(most))]
    for axes, key in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        draw_scaling(axes, scaling_lines(rows, key), title=PANELS[key][0], ticks=ticks)
    figure.axes[0].legend(fontsize=9, frameon=False)
    figure.savefig(path)


def draw_scaling(
    axes: Axes, lines: Mapping[str, Sequence[tuple[int, float]]], *, title: str, ticks: Sequence[str]
) -> None:
    """A line for each way, from zero, so that heights compare."""
    for (way, points), style in zip(lines.items(), STYLES, strict=True):
        axes.plot(*zip(*points, strict=True), lw=1.8, label=way, zorder=3, **style)
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.set_xticks(range(1, len(ticks) + 1), ticks)
    axes.set_xlabel("token lengths", fontsize=10, color=MUTED)
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color=GRID, lw=0.8)
    axes.tick_params(length=0, labelsize=9, labelcolor=MUTED)
    axes.spines[["top", "right", "left"]].set_visible(False)
