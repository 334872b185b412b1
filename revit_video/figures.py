"""The pictures that `tools/plot.py` draws, from the files of finished runs or the numbers of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from revit_video import build
from revit_video.competitors.length_scaling import COLUMNS, scaling_rows
from revit_video.report.length_plots import plot_scaling
from revit_video.report.tables import console_table
from revit_video.report.throughput_plots import plot_throughput
from revit_video.report.training_plots import plot_curves, plot_training, read_log, read_report
from revit_video.stages.pictures import draw_sheet
from revit_video.types import InputError

RUNS = {  # of any number of runs: what is read of each, and how they are drawn
    "training": (read_log, plot_training),
    "curve": (read_report, plot_curves),
    "throughput": (read_report, plot_throughput),
}
FILES = {"throughput": "accuracy_vs_throughput"}  # names of pictures; of the others their own


@dataclass(frozen=True)
class Asked:
    """A command line: words are folders of runs, or settings as key=value (`sheet`)."""

    what: str
    words: Sequence[str] = ()
    out: Path | None = None
    model: str | None = None
    token_lengths: Sequence[int] | None = None
    measure: int | None = None  # clips of a batch


def draw(asked: Asked) -> Path:
    """Draw what is asked for; the path of the picture.

    Raises:
        InputError: something is missing, or given that this picture does not look at.
    """
    runs = [Path(word) for word in asked.words if "=" not in word]
    settings = [word for word in asked.words if "=" in word]
    _check(asked, runs, settings)
    if asked.what == "lengths":
        out = asked.out or Path(f"{asked.model or 'deit_small'}_lengths.png")
        draw_lengths(out, asked)
        return out
    out = asked.out or runs[0] / f"{FILES.get(asked.what, asked.what)}.png"
    if asked.what == "sheet":
        draw_run_sheet(out, runs[0], settings)
        return out
    read, draw_runs = RUNS[asked.what]
    names = [run.resolve().name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run) for run in runs]
    draw_runs(out, {name: read(run) for name, run in zip(names, runs, strict=True)})
    return out


def _check(asked: Asked, runs: Sequence[Path], settings: Sequence[str]) -> None:
    what = asked.what
    if what == "lengths" and asked.words:
        raise InputError(f"plot lengths draws a model, not {asked.words[0]}; give --model NAME instead")
    if what != "lengths" and not runs:
        raise InputError(f"plot {what} needs the output_dir of a run")
    if what == "sheet" and len(runs) > 1:
        raise InputError(f"plot sheet draws one run, not {len(runs)}; call it once for each")
    if what != "sheet" and settings:
        raise InputError(f"plot {what} takes no settings, got {settings[0]}; only plot sheet does")
    for name in ("model", "token_lengths", "measure"):
        if what != "lengths" and getattr(asked, name) is not None:
            raise InputError(f"--{name.replace('_', '-')} is for plot lengths, not for plot {what}")
    if asked.measure is not None and asked.measure < 1:
        raise InputError(f"--measure is {asked.measure}, but must be the clips of a batch, at least 1")


def draw_run_sheet(out: Path, run: Path, settings: Sequence[str]) -> None:
    """Clips of the test list by the length that a trained run's router sends them to."""
    checkpoint = run / "recognizer.pt"
    if not checkpoint.is_file():
        raise InputError(f"{run} holds no recognizer.pt; give the output_dir of a run with an assigner")
    config = build.checkpoint_config(checkpoint, list(settings))
    draw_sheet(build.test_job(config, checkpoint, build.build_device(config)), out)


def draw_lengths(out: Path, asked: Asked) -> None:
    """Training cost and parameters over the number of lengths, as a table too."""
    name, lengths = asked.model or "deit_small", tuple(asked.token_lengths or (14, 10, 7, 4))
    measure = asked.measure or 0
    rows = scaling_rows(name, lengths, measure=measure)
    columns = COLUMNS if measure else {key: COLUMNS[key] for key in COLUMNS if key != "step_ms"}
    title = f"{name}: what each further token length costs"
    console_table(rows, columns, title=title)
    plot_scaling(out, rows, title=title)
