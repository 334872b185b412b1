"""Frames one after the other in, whole windows out. The memory is that of the windows that are open."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from revit_video.sample.windows import WindowGrid

Picture = TypeVar("Picture")


@dataclass(frozen=True)
class Window(Generic[Picture]):
    """One window: T pictures, of which some may be the same object."""

    number: int
    start_s: float
    end_s: float
    frames: tuple[Picture, ...]


@dataclass(frozen=True)
class Missed:
    """Windows `first` to `last` do not come, and why. `gap`: the stream itself has a hole there; otherwise
    its frames came, but the model was late.
    """

    first: int
    last: int
    start_s: float
    end_s: float
    why: str
    gap: bool = True


@dataclass
class _Open(Generic[Picture]):
    number: int
    deadlines: tuple[float, ...]
    frames: list[Picture] = field(default_factory=list)


class Cutter(Generic[Picture]):
    """Cuts a stream into the windows of a grid.

    A frame is kept until the next one comes, as only then it is known how long it is shown, and turned into
    a picture only if a window wants it, once for all windows.

    Args:
        max_gap_s: two frames further apart than this have a gap between them. Windows that reach into a gap
            are missed; all others come.
        pad: a stream that ends before its first window is whole gives that one all the same, the last frame
            repeated, as clips of short videos are made everywhere.
    """

    def __init__(self, grid: WindowGrid, *, max_gap_s: float, pad: bool) -> None:
        self.grid, self.max_gap_s, self.pad = grid, max_gap_s, pad
        self._open: deque[_Open[Picture]] = deque()
        self._next = 0  # the first window that is not open yet
        self._given = False
        self._time: float | None = None  # of the frame that is kept
        self._take: Callable[[], Picture] | None = None
        self._picture: list[Picture] = []  # that frame, once somebody wanted it
        self._why = ""  # there is a gap behind it

    def push(self, time_s: float, take: Callable[[], Picture]) -> Iterator[Window[Picture] | Missed]:
        """The next frame; `take` makes its picture. Times rise and start at 0."""
        if self._time is not None:
            why = self._why
            if not why and time_s - self._time > self.max_gap_s:
                why = f"no frame for {time_s - self._time:.2f} s"
            if why:
                yield from self._settle(min(time_s, self._time + self.grid.frame_s))
                yield from self._miss(time_s, why)
            else:
                yield from self._settle(time_s)
        self._time, self._take, self._picture, self._why = time_s, take, [], ""

    def gap(self, why: str) -> None:
        """What comes next does not follow on what came before."""
        self._why = self._why or why

    def finish(self) -> Iterator[Window[Picture]]:
        """The stream has ended: what the last frame completes."""
        if self._time is None:
            return
        end = self._time + self.grid.frame_s
        yield from self._settle(end)
        if self.pad and not self._given:
            frames = self._open[0].frames if self._open else []
            number = self._open[0].number if self._open else self._next
            frames += [self._shown()] * (len(self.grid.places) - len(frames))
            yield Window(number, self.grid.start(number), min(end, self.grid.end(number)), tuple(frames))
        self._open.clear()

    def _settle(self, time_s: float) -> Iterator[Window[Picture]]:
        """The kept frame is the one shown until `time_s`: every place before that takes it."""
        while (deadlines := self.grid.deadlines(self._next))[0] < time_s:
            self._open.append(_Open(self._next, deadlines))
            self._next += 1
        for window in self._open:
            while len(window.frames) < len(window.deadlines):
                if window.deadlines[len(window.frames)] >= time_s:
                    break
                window.frames.append(self._shown())
        while self._open and len(self._open[0].frames) == len(self._open[0].deadlines):
            window = self._open.popleft()
            self._given = True
            start, end = self.grid.start(window.number), self.grid.end(window.number)
            yield Window(window.number, start, end, tuple(window.frames))

    def _miss(self, time_s: float, why: str) -> Iterator[Missed]:
        """Everything that needs a frame of the gap, which ends at `time_s`, is lost."""
        first = self._open[0].number if self._open else self._next
        self._open.clear()
        self._next = max(self._next, self.grid.first_from(time_s))
        if self._next > first:
            last = self._next - 1
            yield Missed(first, last, self.grid.start(first), self.grid.end(last), why)

    def _shown(self) -> Picture:
        if not self._picture:
            self._picture.append(self._take())
        return self._picture[0]
