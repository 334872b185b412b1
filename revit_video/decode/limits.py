"""How much time and memory one video may cost, whatever its header claims."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of one reader. Beyond them a file counts as unreadable: a DecodeError."""

    seconds: float = 60.0  # of work without a result: opening, counting, the way to the next wanted frame
    pixels: int = 1 << 26  # of one picture as it is stored; 67 million, twice an 8K frame
    bytes: int = 1 << 33  # of the frames that one call returns; 8 GiB


DEFAULT_LIMITS = Limits()


class Deadline:
    """Raises TimeoutError (an OSError, as the readers expect of their libraries) when the time is over."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.renew()

    def renew(self) -> None:
        self._end = time.monotonic() + self.seconds

    def check(self) -> None:
        if time.monotonic() > self._end:
            raise TimeoutError(f"took longer than the limit of {self.seconds:g} s")
