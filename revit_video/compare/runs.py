"""The runs of a comparison: every row with every seed, an ordinary run in a folder of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from revit_video import build
from revit_video.compare.rows import ADAPTIVE, EXITS, Comparison, Row, in_order, placeholders
from revit_video.config import Config, config_to_dict, load_config, save_config
from revit_video.pipeline import run_stages
from revit_video.stages.job import RunFolder
from revit_video.train.checkpoint import load_checkpoint, save_checkpoint
from revit_video.types import InputError

CHOOSING = ("labels", "assigner")  # stages of rows that choose a length, or an exit, for each clip


@dataclass(frozen=True)
class Study:
    """A comparison on a config: `rows` in an order in which they can be trained, their placeholders filled.

    given: the overrides of the command line. folder: of the comparison; a run is in ROW/seedN of it.
    """

    cfg: str
    given: tuple[str, ...]
    folder: Path
    rows: tuple[Row, ...]
    seeds: tuple[int, ...]

    @classmethod
    def of(
        cls, comparison: Comparison, cfg: str, given: Sequence[str], seeds: Sequence[int], folder: Path
    ) -> Study:
        facts = build.comparison_facts(load_config(cfg, given))
        rows = tuple(row.filled(placeholders(**facts)) for row in in_order(comparison.rows))
        return cls(cfg, tuple(given), folder, rows, tuple(seeds))

    def row(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    def path(self, row: Row, seed: int) -> Path:
        return self.folder / row.name / f"seed{seed}"

    def config(self, row: Row, seed: int, *changes: str) -> Config:
        """The settings of a run; `{seed}` in those of the command line is its seed. Its weights come from the
        run it starts from, all lengths of them.
        """
        own = [f"seed={seed}", f"output_dir={self.path(row, seed)}", "resume=auto", "stage=revit"]
        if row.starts_from is not None and row.train:
            start = RunFolder(self.path(self.row(row.starts_from), seed)).revit
            own += [f"model.init_from={start}", "revit.grow_share=0"]
        given = [text.replace("{seed}", str(seed)) for text in self.given]
        return load_config(self.cfg, [*given, *row.overrides, *own, *changes])


def run_row(study: Study, row: Row, seed: int) -> None:
    """Train what is not yet trained; a run that was killed goes on."""
    if row.starts_from is not None:
        source = RunFolder(study.path(study.row(row.starts_from), seed)).revit
        if not source.exists():
            raise InputError(f"it starts from {source}, which is not there: {row.starts_from} failed")
        if not row.train:
            take_over(study.config(row, seed), source, RunFolder(study.path(row, seed)))
    training = ("revit",) if row.train else ()
    for stage in training + (CHOOSING if row.reads in (ADAPTIVE, EXITS) else ()):
        run_stages(study.config(row, seed, f"stage={stage}"))


def take_over(config: Config, source: Path, folder: RunFolder) -> None:
    """Trained weights under other settings, as a checkpoint of their own."""
    if folder.revit.exists():
        return
    state = load_checkpoint(source, kind="revit")
    folder.revit.parent.mkdir(parents=True, exist_ok=True)
    save_config(config, folder.config)
    save_checkpoint({**state, "config": config_to_dict(config)}, folder.revit)


def training_cost(study: Study, row: Row, seed: int) -> dict[str, float]:
    """`build.training_plan` of a row, and the `gmacs` of what it starts from with it; nothing is read of a
    run, so that it is known beforehand.
    """
    plan = build.training_plan(study.config(row, seed, "model.init_from="))
    own = plan["gmacs"] if row.train else 0.0
    before = training_cost(study, study.row(row.starts_from), seed)["gmacs"] if row.starts_from else 0.0
    return {**plan, "gmacs": own + before}


def training_seconds(study: Study, row: Row, seed: int, *, clips: int) -> float:
    """Wall time of stage 1, of what the row starts from with it: the log's steps, at the speed of each. Each
    step counts once, however often the run was killed. clips: of a step.
    """
    seconds = 0.0
    if row.train:
        lines = RunFolder(study.path(row, seed)).log.read_text().splitlines()
        seconds = steps_seconds([json.loads(line) for line in lines], clips=clips)
    if row.starts_from is not None:
        seconds += training_seconds(study, study.row(row.starts_from), seed, clips=clips)
    return seconds


def steps_seconds(rows: Sequence[Mapping], *, clips: int) -> float:
    """From the readings of a log, each of the steps since the one before."""
    total, done = 0.0, 0
    for row in rows:
        if row["stage"] == "revit" and row.get("clips_per_s"):
            total += (row["step"] + 1 - done) * clips / row["clips_per_s"]
            done = row["step"] + 1
    return total
