"""Pictures of finished or running trainings, from what they wrote down: log.jsonl and report.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from matplotlib.axes import Axes
from omegaconf import OmegaConf

from revit_video.report.plots import GRID, INK, MUTED, new_figure, plot_accuracy_vs_cost
from revit_video.types import InputError

COLORS = ("#0f6cbd", "#c2410c", "#15803d", "#7c3aed", "#be185d", "#0e7490")  # of the lengths, longest first
DASHES = ("-", "--", ":", "-.")  # of the runs
PANELS = {  # title -> (stage, names that begin so)
    "loss of each length": ("revit", "loss/level"),
    "clip@1 of each length, training (%)": ("revit", "clip@1/level"),
    "action@1 of each length, training (%)": ("revit", "action@1/level"),
    "agreement with the longest length (%)": ("revit", "agreement/level"),
    "clip@1 of each length, validation (%)": ("val", "clip@1/level"),
    "action@1 of each length, validation (%)": ("val", "action@1/level"),
    "learning rate": ("revit", "lr"),
    "clips/s": ("revit", "clips_per_s"),
}


@dataclass(frozen=True)
class TrainingLog:
    """What a run wrote down, and its token lengths, longest first."""

    rows: Sequence[Mapping]
    lengths: Sequence[int]


def read_log(run: Path) -> TrainingLog:
    """The log of a run; a row that is being written is left out."""
    file = run / "log.jsonl"
    if not file.is_file():
        raise InputError(f"{run} holds no log.jsonl; give the output_dir of a training")
    rows = []
    for line in file.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    if not rows:
        raise InputError(f"{file} is empty; the run has logged nothing yet")
    settings = OmegaConf.load(run / "config.yaml")
    return TrainingLog(rows, list(settings.model.token_lengths))


def read_report(run: Path) -> dict:
    file = run / "report.json"
    if not file.is_file():
        raise InputError(f"{run} holds no report.json; give the output_dir of a run that was tested")
    return json.loads(file.read_text())


def plot_training(path: str | PathLike, runs: Mapping[str, TrainingLog]) -> None:
    """Draw losses, accuracies, learning rate and speed over the steps of stage 1, runs over each other."""
    panels = {
        title: {name: series(log.rows, *what) for name, log in runs.items()} for title, what in PANELS.items()
    }
    panels = {title: drawn for title, drawn in panels.items() if any(drawn.values())}
    if not panels:
        raise InputError("nothing to plot: no run has logged a step of stage 1")
    tall = (len(panels) + 1) // 2
    figure = new_figure(12.0, 3.2 * tall + 0.4)
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12)
    places = figure.subplots(tall, 2, squeeze=False).flat
    for axes, (title, drawn) in zip(places, panels.items(), strict=False):
        draw_panel(axes, title, drawn, runs)
    if len(panels) % 2:
        figure.axes[-1].set_axis_off()
    figure.savefig(path)


def series(rows: Sequence[Mapping], stage: str, prefix: str) -> dict[str, list[tuple[int, float]]]:
    """name -> (step, value) of the numbers of a stage whose names begin with `prefix`."""
    found: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        if row["stage"] == stage:
            for name, value in row.items():
                if name.startswith(prefix):
                    found.setdefault(name, []).append((row["step"], value))
    return dict(sorted(found.items()))


def draw_panel(
    axes: Axes,
    title: str,
    drawn: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]],
    runs: Mapping[str, TrainingLog],
) -> None:
    """A line for every length of every run: its colour is the length's, its dashes the run's."""
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.set_xlabel("step", fontsize=9, color=MUTED)
    for number, (run, lines) in enumerate(drawn.items()):
        for name, points in lines.items():
            level = name.partition("/level")[2]
            said = [run] * (len(drawn) > 1)
            said += [f"length {runs[run].lengths[int(level)]}"] if level else []
            color = COLORS[(int(level) if level else number) % len(COLORS)]
            style = {"color": color, "ls": DASHES[number % len(DASHES)], "label": ", ".join(said)}
            axes.plot(*zip(*points, strict=True), lw=1.4, marker="o", ms=2.5, **style)
    if any(axes.get_legend_handles_labels()[1]):
        axes.legend(fontsize=8, frameon=False)
    axes.grid(color=GRID, lw=0.8)
    axes.spines[["top", "right"]].set_visible(False)


def plot_curves(path: str | PathLike, reports: Mapping[str, Mapping]) -> None:
    """Accuracy against GMACs: one run as it draws itself, or several over each other."""
    first = next(iter(reports.values()))
    views = first["protocol"]["views"]
    if len(reports) == 1:
        title = f"{next(iter(reports))}, {views} views"
        curve = first.get("curve", {})
        points = {"adaptive": first["adaptive"], **first["baselines"]} if curve else {}
        plot_accuracy_vs_cost(path, fixed=first["per_length"], curves=curve, points=points, title=title)
        return
    for name, report in reports.items():
        if report["protocol"]["views"] != views:
            raise InputError(
                f"{name} was tested on {report['protocol']['views']} views, {next(iter(reports))} on "
                f"{views}; only results of the same views compare"
            )
    curves = {}
    for name, report in reports.items():
        if "curve" in report:
            curves[name] = report["curve"]["assigner"]
        curves[f"{name}, fixed lengths"] = report["per_length"]
    plot_accuracy_vs_cost(path, fixed=[], curves=curves, title=f"{len(reports)} runs, {views} views")
