"""What the steps since the last look add up to: mean losses, clips per second, waiting."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor

from revit_video.train.world import World


def means(sums: Mapping[str, Tensor | float]) -> dict[str, float]:
    """Sums over clips, `clips` of them, as means per clip; none of no clips."""
    clips = float(sums.get("clips", 0.0))
    return {name: float(value) / clips for name, value in sums.items() if name != "clips"} if clips else {}


class Meter:
    """Sums over steps, read and cleared now and then. Adding does not wait for the device."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.sums: dict[str, Tensor | float] = {}
        self.waited_s, self.started = 0.0, time.perf_counter()

    def waiting_for(self, batches: Iterable) -> Iterator:
        """The batches, with the time that each one was waited for."""
        source = iter(batches)
        while True:
            began = time.perf_counter()
            batch = next(source, None)
            self.waited_s += time.perf_counter() - began
            if batch is None:
                return
            yield batch

    def add(self, sums: Mapping[str, Tensor | float]) -> None:
        """Sums over the clips of one step of this process; `clips` is how many they are."""
        for name, value in sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def read(self, world: World) -> dict[str, float]:
        """Means per clip over all processes since the last reading, clips per second and waiting percent."""
        names = sorted(self.sums)
        seconds = time.perf_counter() - self.started
        waited, *values = world.sum([self.waited_s, *(float(self.sums[name]) for name in names)])
        sums = dict(zip(names, values, strict=True))
        self._clear()
        return {
            **means(sums),
            "clips_per_s": sums.get("clips", 0.0) / seconds,
            "waiting_percent": 100 * waited / (seconds * world.size),
        }
