"""What the steps since the last look add up to: mean losses, speed, waiting, memory, use of the device."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from revit_video.train.world import World

TOTALS = ("clips", "gmacs")  # sums that are no means per clip
PASSES = 3  # of a training step in forward passes: one forward, twice its work backward


def means(sums: Mapping[str, Tensor | float]) -> dict[str, float]:
    """Sums over clips, `clips` of them, as means per clip; none of no clips."""
    clips = float(sums.get("clips", 0.0))
    return {name: float(value) / clips for name, value in sums.items() if name not in TOTALS} if clips else {}


class Meter:
    """Sums over steps, read and cleared now and then. Adding does not wait for the device.

    Args:
        device: whose memory is told; None: the host's.
        peak_flops: operations per second that the device of each process could reach; asked at the first
            reading that needs it.
    """

    def __init__(
        self, device: torch.device | None = None, *, peak_flops: Callable[[], float] | None = None
    ) -> None:
        self.device, self.peak_flops = device, peak_flops
        self.peak: float | None = None
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

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Time that is not spent on training steps, such as a look at the validation list."""
        began = time.perf_counter()
        yield
        self.started += time.perf_counter() - began

    def add(self, sums: Mapping[str, Tensor | float]) -> None:
        """Sums over the clips of one step of this process: `clips` is how many they are, `gmacs` what their
        forward passes cost.
        """
        for name, value in sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def read(self, world: World) -> dict[str, float]:
        """Means per clip over all processes since the last reading, and how the work went.

        clips_per_s; waiting_percent of all processes' time for data; memory_gib of the process that has most,
        the largest since the run began; mfu_percent where the steps told their `gmacs`: model FLOPs
        utilisation, forward and backward, of the peak of all devices (PaLM, arXiv:2204.02311, appendix B).
        """
        own = {name: float(value) for name, value in self.sums.items()}  # waits for the device
        seconds = time.perf_counter() - self.started
        rows = world.gather((own, self.waited_s, memory_bytes(self.device)))
        sums: dict[str, float] = {}
        for part, _, _ in rows:
            for name, value in part.items():
                sums[name] = sums.get(name, 0.0) + value
        report = {
            **means(sums),
            "clips_per_s": sums.get("clips", 0.0) / seconds,
            "waiting_percent": 100 * sum(waited for _, waited, _ in rows) / (seconds * world.size),
            "memory_gib": max(memory for _, _, memory in rows) / 2**30,
        }
        if sums.get("gmacs") and self.peak_flops is not None:
            self.peak = self.peak or self.peak_flops()
            flops = 2e9 * PASSES * sums["gmacs"]
            report["mfu_percent"] = 100 * flops / (seconds * self.peak * world.size)
        self._clear()
        return report


def memory_bytes(device: torch.device | None) -> int:
    """The most that was in use at once: tensors on a GPU, else all of this process."""
    if device is not None and device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def in_short(report: Mapping[str, float]) -> str:
    """A reading for the line of the console."""
    loss = f"loss {report['loss']:.3f}" if "loss" in report else "no clips"
    return f"{loss}  {report['clips_per_s']:.1f} clips/s  waiting {report['waiting_percent']:.0f}%"
