"""Signals that ask a run to end, such as SLURM's before the time limit: heeded between two steps."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType

from revit_video.train.world import World

ASKING = (signal.SIGTERM, signal.SIGUSR1)
SAME_S = 5.0  # seconds; a launcher often passes on what its processes have been sent already


class StopSignals:
    """Within a `with` block SIGTERM and SIGUSR1 are noted. Another one that comes more than SAME_S after the
    first ends the process at once, as it would have without this.

        with StopSignals() as signals:
            ...
            if name := signals.asked(world): ...
    """

    def __init__(self) -> None:
        self.name, self.noted = "", 0.0
        self.before: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # no other one can have handlers
            self.before = {number: signal.signal(number, self._note) for number in ASKING}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.name:
            self.name, self.noted = signal.Signals(number).name, now
        elif now - self.noted > SAME_S:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def asked(self, world: World, *, at: str = "") -> str:
        """The name of the signal that any of the processes has got; "" if none has. All processes ask."""
        if not world.sum([float(bool(self.name))], at=at)[0]:
            return ""
        return next(filter(None, world.gather(self.name)))
