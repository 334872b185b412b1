"""What a run says while it works: numbers into files (train/scalars.py), a progress bar on a terminal, plain
lines elsewhere.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from revit_video.train.scalars import JsonLines, Scalars, TensorBoard, WandB


class RunLog:
    """Lines for the reader and scalars by step.

    Args:
        folder: gets `log.jsonl` and `tensorboard/`; None logs to the console only.
        wandb: project at Weights & Biases that gets the scalars too; "": none.
        settings: of the run, for that project.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        console: Console | None = None,
        wandb: str = "",
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.console = console or Console(highlight=False)
        self.places: list[Scalars] = []
        if folder is not None:
            folder = Path(folder)
            folder.mkdir(parents=True, exist_ok=True)
            self.places = [JsonLines(folder / "log.jsonl"), TensorBoard(folder / "tensorboard")]
            if wandb:
                self.places.append(WandB(folder, wandb, settings=settings or {}))

    def say(self, text: str) -> None:
        """One line for the reader of the console."""
        self.console.print(text, markup=False, soft_wrap=True)

    def resume(self, stage: str, step: int) -> None:
        """The stage goes on from this step: what is written of it and of later ones is taken back."""
        for place in self.places:
            place.resume(stage, step)

    def scalars(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        for place in self.places:
            place.write(stage, step, values)

    def progress(self, title: str, total: int, *, start: int = 0, unit: str = "step") -> "ProgressLine":
        return ProgressLine(self, title, total, start=start, unit=unit)

    def close(self) -> None:
        for place in self.places:
            place.close()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_) -> None:
        self.close()


class ProgressLine:
    """Count, rate, remaining time and a note: a bar on a terminal, else a plain line now and then."""

    def __init__(
        self, log: RunLog, title: str, total: int, *, start: int, unit: str, every_s: float = 20.0
    ) -> None:
        self.log, self.title, self.total, self.unit, self.every_s = log, title, total, unit, every_s
        self.done = self.start = start
        self.started = self.said = time.monotonic()
        self.done_when_said = start
        self.bar = None
        if log.console.is_terminal:
            self.bar = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(),
                console=log.console,
            )
            self.bar.start()
            self.task = self.bar.add_task(title, total=total, completed=start, note="")

    def advance(self, count: int = 1, note: str = "") -> None:
        self.done += count
        now = time.monotonic()
        if self.bar is not None:
            rate = (self.done - self.start) / max(now - self.started, 1e-9)
            self.bar.update(self.task, completed=self.done, note=f"{note}  {rate:.1f} {self.unit}/s")
        elif now - self.said >= self.every_s:
            rate = (self.done - self.done_when_said) / (
                now - self.said
            )  # of late: growing slows the steps down
            self.said, self.done_when_said = now, self.done
            note, left = f"{note}  {rate:.1f} {self.unit}/s", (self.total - self.done) / rate
            self.log.say(f"{self.title}: {self.done}/{self.total}  {note}  {left:.0f} s left")

    def close(self) -> None:
        took = time.monotonic() - self.started
        if self.bar is not None:
            self.bar.stop()
        self.log.say(f"{self.title}: {self.done}/{self.total} in {took:.0f} s")

    def __enter__(self) -> "ProgressLine":
        return self

    def __exit__(self, *_) -> None:
        self.close()
