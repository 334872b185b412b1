"""Studies of trained runs, each a table: `tools/study.py` shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from revit_video.build.payback import payback
from revit_video.build.shift import shifted_job
from revit_video.report import extremes as extreme_table
from revit_video.report import fold_table
from revit_video.report import payback as payback_table
from revit_video.report.training_plots import read_report
from revit_video.stages import shift as shift_table
from revit_video.train.log import RunLog
from revit_video.types import InputError


@dataclass(frozen=True)
class Study:
    title: str
    rows: list[dict]
    columns: dict
    notes: Sequence[str] = ()


def study(what: str, words: Sequence[str], *, checkpoint: Path | None = None, most: int = 0) -> Study:
    """What a command line asks for.

    Args:
        what: shift | extremes | payback | folds.
        words: folders of runs; of shift, folders of videos and settings, key=value.
        checkpoint: of shift. most: of shift, videos of each folder; 0: all.
    """
    if (what == "shift") != (checkpoint is not None):
        raise InputError("--checkpoint goes with shift, and shift needs it: the recognizer.pt of a run")
    if most < 0:
        raise InputError(f"--videos is {most}, but must be at least 0")
    overrides = [word for word in words if "=" in word]
    folders = [Path(word) for word in words if "=" not in word]
    if what == "shift":
        return shift(checkpoint, folders, overrides, most=most)
    if overrides:
        raise InputError(f"{what} reads finished runs; {overrides[0]!r} is no folder of one")
    return {"extremes": extremes, "payback": payback_of_runs, "folds": folds}[what](folders)


def shift(checkpoint: Path, folders: Sequence[Path], overrides: Sequence[str], *, most: int = 0) -> Study:
    """A recognizer on the videos of folders, in turn."""
    if not folders:
        raise InputError("give at least one folder of videos")
    rows, notes = [], []
    for folder in folders:
        job, labelled = shifted_job(checkpoint, folder, overrides, most=most)
        rows += shift_table.shift_rows(
            folder.name, shift_table.shift_report(job, RunLog(), labelled=labelled), labelled=labelled
        )
        if not labelled:
            notes.append(
                f"{folder.name}: its classes are not the model's, so that nothing is said of accuracy: right "
                "is what the longest length says."
            )
    return Study(f"{checkpoint.name} on shifted videos", rows, shift_table.COLUMNS, notes)


def extremes(runs: Sequence[Path]) -> Study:
    rows = [{"run": run.name, **row} for run in runs for row in extreme_table.extreme_rows(read_report(run))]
    return Study("The easiest and the hardest videos", rows, with_run(extreme_table.COLUMNS, runs))


def payback_of_runs(runs: Sequence[Path]) -> Study:
    rows, notes = [], []
    for run in runs:
        found, said = payback(run)
        rows += [{"run": run.name, **row} for row in found]
        notes += [f"{run.name}: {line}" for line in said]
    return Study("When training pays", rows, with_run(payback_table.COLUMNS, runs), notes)


def folds(runs: Sequence[Path]) -> Study:
    rows, few = fold_table.fold_rows([read_report(run) for run in runs]), fold_table.too_few(len(runs))
    return Study(f"{len(runs)} folds", rows, fold_table.COLUMNS, [few] if few else [])


def with_run(columns: dict, runs: Sequence[Path]) -> dict:
    return columns if len(runs) == 1 else {"run": ("run", "")} | columns
