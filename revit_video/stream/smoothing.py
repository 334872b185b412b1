"""Probabilities of one window after the other, made steady, and runs of one class in them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from revit_video.types import InputError


def mean_of(recent: Sequence[Tensor]) -> Tensor:
    """The mean of the probabilities (K,) of some windows."""
    return torch.stack(tuple(recent)).mean(dim=0)


def decayed(before: Tensor | None, new: Tensor, share: float) -> Tensor:
    """Exponential smoothing: the new window's probabilities count `share`, all before it the rest."""
    return new if before is None else torch.lerp(before, new, share)


class Smoothing:
    """The mean over the last `windows`, or, with `share`, exponential. A gap makes it start anew."""

    def __init__(self, *, windows: int = 1, share: float | None = None) -> None:
        if windows < 1:
            raise InputError(f"smoothing is over {windows} windows, but must be over at least 1")
        if share is not None and not 0 < share <= 1:
            raise InputError(f"the newest window's share is {share:g}, but must be above 0 and at most 1")
        self.share = share
        self._recent: deque[Tensor] = deque(maxlen=windows)

    def __call__(self, new: Tensor) -> Tensor:
        if self.share is None:
            self._recent.append(new)
            return mean_of(self._recent)
        smooth = decayed(self._recent[-1] if self._recent else None, new, self.share)
        self._recent.append(smooth)
        return smooth

    def forget(self) -> None:
        self._recent.clear()


@dataclass(frozen=True)
class Event:
    """One class for some time, with the mean of its probability over the windows."""

    source: str
    start_s: float
    end_s: float
    class_name: str
    probability: float
    windows: int


class EventFinder:
    """Runs of windows whose best class is the same and at least `confidence` probable.

    A window speaks for the time around its middle, half a stride to each side (half a window where windows do
    not touch), so that events do not overlap.
    """

    def __init__(self, confidence: float, emit: Callable[[Event], None]) -> None:
        if not 0 <= confidence <= 1:
            raise InputError(f"the confidence is {confidence:g}, but must be from 0 to 1")
        self.confidence, self.emit = confidence, emit
        self._run: Event | None = None

    def window(self, source: str, span: tuple[float, float], class_name: str, probability: float) -> None:
        """`span`: the time that the window speaks for."""
        run = self._run
        if probability < self.confidence:
            self.end()
        elif run is not None and run.class_name == class_name:
            mean = (run.probability * run.windows + probability) / (run.windows + 1)
            self._run = Event(source, run.start_s, span[1], class_name, mean, run.windows + 1)
        else:
            self.end()
            self._run = Event(source, *span, class_name, probability, 1)

    def end(self) -> None:
        """Nothing follows on what came before: at a gap, and at the end."""
        if self._run is not None:
            run, self._run = self._run, None
            self.emit(run)
