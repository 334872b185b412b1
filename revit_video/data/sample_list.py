"""A list of samples that worker processes share instead of copying.

A forked worker shares its parent's memory until one of them writes to it, and Python writes to every object
it looks at (its reference count). So a tuple of a million samples becomes a copy of 200 MiB in each worker;
as arrays, which hold no objects, they stay shared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np

from revit_video.types import VideoSample


class SampleList(Sequence[VideoSample]):
    """Samples as a few arrays: their paths and tags as bytes end to end, their numbers as columns."""

    def __init__(self, samples: Iterable[VideoSample]) -> None:
        samples = samples if isinstance(samples, Sequence) else list(samples)
        paths = [sample.path.encode("utf-8", "surrogateescape") for sample in samples]
        self._bytes = np.frombuffer(b"".join(paths), np.uint8)
        self._ends = np.cumsum([0, *map(len, paths)], dtype=np.int64)  # where paths end, after a leading 0
        tags = sorted({sample.tag for sample in samples})  # few: a data set has a handful of them
        number = {tag: place for place, tag in enumerate(tags)}
        self._tags = np.array(tags or [""])
        rows = ((s.label, number[s.tag], s.begin, s.end) for s in samples)
        self._numbers = np.fromiter((x for row in rows for x in row), np.int64).reshape(-1, 4)

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> VideoSample: ...
    @overload
    def __getitem__(self, index: slice) -> list[VideoSample]: ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        label, tag, begin, end = self._numbers[index].tolist()  # IndexError, past the end
        place = index % len(self)
        path = self._bytes[self._ends[place] : self._ends[place + 1]].tobytes()
        return VideoSample(path.decode("utf-8", "surrogateescape"), label, str(self._tags[tag]), begin, end)

    def __iter__(self) -> Iterator[VideoSample]:
        return (self[place] for place in range(len(self)))
