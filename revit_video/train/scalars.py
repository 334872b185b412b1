"""Where the numbers of a run go, step by step: a file of JSON lines, TensorBoard, Weights & Biases.

Every stage counts its steps from 0. `resume(stage, step)` says that it goes on from a step; what was written
for that step and later ones, before the run was killed, is taken back.
"""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from revit_video.types import InputError


class Scalars(Protocol):
    def resume(self, stage: str, step: int) -> None: ...

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """A row for each reading: stage, step, time (seconds since 1970), values."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = open(path, "a", buffering=1)  # noqa: SIM115 closed in close()

    def resume(self, stage: str, step: int) -> None:
        """The file without the rows that the steps to come will write, and without a torn last one."""
        text = self.path.read_text()
        kept = [f"{line}\n" for line in text.splitlines() if is_before(line, stage, step)]
        if text == "".join(kept):
            return
        partial = self.path.with_suffix(".partial")
        with open(partial, "w") as file:
            file.writelines(kept)
            file.flush()
            os.fsync(file.fileno())
        self.file.close()
        partial.replace(self.path)
        self.file = open(self.path, "a", buffering=1)  # noqa: SIM115

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        row = {"stage": stage, "step": step, "time": round(time.time(), 2), **values}
        self.file.write(json.dumps(row) + "\n")

    def close(self) -> None:
        self.file.close()


def is_before(line: str, stage: str, step: int) -> bool:
    """Whether a row is of another stage or of an earlier step; a torn row is not."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return False
    return row["stage"] != stage or row["step"] < step


class TensorBoard:
    """A run of TensorBoard for each stage, which starts anew from the step that the stage goes on from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writers: dict[str, Any] = {}

    def resume(self, stage: str, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, not needed to predict

        if stage in self.writers:
            self.writers[stage].close()
        self.writers[stage] = SummaryWriter(str(self.folder / stage), purge_step=step)

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        if stage not in self.writers:
            self.resume(stage, 0)
        for name, value in values.items():
            self.writers[stage].add_scalar(name, value, step)

    def close(self) -> None:
        for writer in self.writers.values():
            writer.close()


class WandB:
    """A run of Weights & Biases, the same one after a restart. Steps that come again stand there twice: it
    takes nothing back.
    """

    def __init__(self, folder: Path, project: str, *, settings: Mapping[str, Any]) -> None:
        refuse_missing_wandb(project)
        import wandb

        named = folder / "wandb_id"
        if not named.exists():
            named.write_text(secrets.token_hex(4))
        self.run = wandb.init(
            project=project,
            id=named.read_text(),
            resume="allow",
            dir=str(folder),
            name=folder.name,
            config=dict(settings),
        )
        self.stages: set[str] = set()

    def resume(self, stage: str, step: int) -> None:
        """Nothing to take back."""

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        if stage not in self.stages:  # stages count their steps apart
            self.run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
            self.stages.add(stage)
        self.run.log({f"{stage}/step": step, **{f"{stage}/{name}": value for name, value in values.items()}})

    def close(self) -> None:
        self.run.finish()


def refuse_missing_wandb(project: str) -> None:
    """One line where Weights & Biases is asked for and not there."""
    if project and importlib.util.find_spec("wandb") is None:
        raise InputError(
            f"log.wandb is {project!r}, but wandb is not installed; pip install 'revit_video[wandb]', or "
            "leave log.wandb out"
        )
