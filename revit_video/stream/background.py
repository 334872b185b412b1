"""Reading goes on while the model computes, and what has become too old makes room."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from revit_video.stream.cutter import Missed, Window

Item = TypeVar("Item")
LOOK_EVERY_S = 0.05


class Waiting:
    """Windows that wait for the model: at most `room` of them.

    When there is no room, the one that waits longest is given up if it ended more than `max_lag_s` ago.
    Otherwise the reader waits, and with it the stream.
    """

    def __init__(self, *, room: int, max_lag_s: float, lag_s: Callable[[float], float]) -> None:
        self.room, self.max_lag_s, self.lag_s = room, max_lag_s, lag_s
        self._items: deque[Window | Missed] = deque()
        self._changed = threading.Condition()
        self._ended = self._stopped = False
        self._error: BaseException | None = None

    def put(self, item: Window | Missed) -> bool:
        """False where nobody wants it any more."""
        with self._changed:
            while not self._stopped and self._windows() >= self.room and not self._give_up_oldest():
                self._changed.wait(LOOK_EVERY_S)
            self._items.append(item)
            self._changed.notify_all()
            return not self._stopped

    def end(self, error: BaseException | None = None) -> None:
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Window | Missed]:
        while True:
            with self._changed:
                while not self._items and not self._ended:
                    self._changed.wait(LOOK_EVERY_S)  # a wait without end would not see Ctrl-C everywhere
                if not self._items:
                    if self._error is not None:
                        raise self._error
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item

    def _windows(self) -> int:
        return sum(isinstance(item, Window) for item in self._items)

    def _give_up_oldest(self) -> bool:
        place = next(i for i, item in enumerate(self._items) if isinstance(item, Window))
        oldest = self._items[place]
        late = self.lag_s(oldest.end_s)
        if late <= self.max_lag_s:
            return False
        before = self._items[place - 1] if place else None
        why = f"the model is {late:.1f} s behind the stream"
        first, start = oldest.number, oldest.start_s
        if isinstance(before, Missed) and not before.gap and before.last == first - 1:
            first, start = before.first, before.start_s
            del self._items[place - 1]
            place -= 1
        self._items[place] = Missed(first, oldest.number, start, oldest.end_s, why, gap=False)
        return True


def in_background(items: Iterable[Window | Missed], waiting: Waiting) -> Iterator[Window | Missed]:
    """The same items, read by a thread of their own, less the windows that got too old."""

    def read() -> None:
        error = None
        try:
            for item in items:
                if not waiting.put(item):
                    break
        except BaseException as caught:  # goes to the one who asked for the items
            error = caught
        waiting.end(error)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield from waiting
    finally:
        waiting.stop()
        reader.join(timeout=1.0)
