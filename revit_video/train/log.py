"""What a run says while it works: JSON lines and TensorBoard always, a progress bar on a terminal, plain
lines elsewhere.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class RunLog:
    """Scalars of a run, by step.

    Args:
        folder: gets `log.jsonl` and `tensorboard/`; None logs to the console only.
    """

    def __init__(self, folder: str | Path | None = None, *, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self.file = self.board = None
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter  # slow to import, not needed to predict

            folder = Path(folder)
            folder.mkdir(parents=True, exist_ok=True)
            self.file = open(folder / "log.jsonl", "a", buffering=1)  # noqa: SIM115 closed in close()
            self.board = SummaryWriter(str(folder / "tensorboard"))

    def say(self, text: str) -> None:
        """One line for the reader of the console."""
        self.console.print(text, markup=False, soft_wrap=True)

    def scalars(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        if self.file is not None:
            self.file.write(
                json.dumps({"stage": stage, "step": step, "time": round(time.time(), 2), **values}) + "\n"
            )
            for name, value in values.items():
                self.board.add_scalar(f"{stage}/{name}", value, step)

    def progress(self, title: str, total: int, *, start: int = 0, unit: str = "step") -> "ProgressLine":
        return ProgressLine(self, title, total, start=start, unit=unit)

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.board.close()

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
