"""Speeds of a recognizer as a table and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike

from revit_video.report.plots import GRID, INK, MUTED, new_figure

COLUMNS = {
    "what": ("tokens per frame", ""),
    "batch_size": ("batch", "d"),
    "clips_per_s": ("clips / s", ".3g"),
    "ms_p50": ("ms, p50", ".3g"),
    "ms_p95": ("ms, p95", ".3g"),
    "peak_mb": ("peak MB", ".4g"),
    "gmacs": ("GMACs / clip", ".4g"),
    "speed_up": ("speed-up", ".2f"),
    "gmacs_ratio": ("GMACs promise", ".2f"),
    "follows": ("of the promise", ".2f"),
}
FIXED, ADAPTIVE = "#9ca3af", "#0f6cbd"


def plot_speeds(path: str | PathLike, rows: Sequence[Mapping], *, title: str) -> None:
    """Draw clips/s of every way, a panel for each batch size, and where the GMACs promise it to be.

    Args:
        rows: as `stages.throughput.measure` makes them; of each batch size the first is the longest length.
    """
    by_size: dict[int, list[Mapping]] = {}
    for row in rows:
        by_size.setdefault(row["batch_size"], []).append(row)
    figure = new_figure(8.0, 0.9 + sum(0.34 * len(part) + 0.7 for part in by_size.values()))
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12)
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, weight="bold", color=INK)
    heights = [len(part) + 1 for part in by_size.values()]
    panels = figure.subplots(len(by_size), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (size, part) in zip(panels, by_size.items(), strict=True):
        names = [row["what"] for row in part]
        colors = [ADAPTIVE if "adaptive" in name else FIXED for name in names]
        promised = [part[0]["clips_per_s"] * row["gmacs_ratio"] for row in part]
        axes.barh(names, [row["clips_per_s"] for row in part], color=colors, height=0.62, zorder=2)
        axes.scatter(promised, names, marker="|", s=260, color=INK, zorder=3, label="promised by the GMACs")
        axes.invert_yaxis()
        axes.set_title(f"batches of {size}" if size > 1 else "one clip at a time", loc="left", fontsize=11)
        axes.tick_params(length=0, labelsize=9, labelcolor=MUTED)
        axes.grid(axis="x", color=GRID, lw=0.8)
        axes.spines[:].set_visible(False)
    panels[-1].set_xlabel("clips / s", fontsize=10, color=MUTED)
    panels[0].legend(fontsize=8, frameon=False, loc="lower right")
    figure.savefig(path)
