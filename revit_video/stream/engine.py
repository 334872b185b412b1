"""The one engine: whatever a window comes from, this is what becomes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from revit_video.build.windows import window_parts
from revit_video.data.classes import label_name
from revit_video.decode import open_video
from revit_video.decode.rgb import ToRGB
from revit_video.evaluate.heads import label_probabilities
from revit_video.evaluate.metrics import average_views
from revit_video.recognizer import Recognizer
from revit_video.sample.windows import WindowGrid
from revit_video.stream.cutter import Cutter, Missed, Window
from revit_video.stream.smoothing import Event, EventFinder, Smoothing
from revit_video.stream.source import FrameSource, Gap
from revit_video.types import Ranking, View


@dataclass(frozen=True)
class WindowResult:
    """What the model says of one window, smoothed over those before it. Probabilities fall; `parts` as in
    `Prediction`. `lag_s`: of live streams, how long ago the window ended.
    """

    source: str
    number: int
    start_s: float
    end_s: float
    class_names: tuple[str, ...]
    probabilities: tuple[float, ...]
    token_length: int
    gmacs_per_view: float
    lag_s: float | None = None
    parts: tuple[Ranking, ...] = ()


Emit = Callable[[WindowResult | Missed | Event], None]


class Engine:
    """Windows of frames to class probabilities, each at its own token length.

    Args:
        length: a token length of the model, or "adaptive".
        top: how many classes a result has.
    """

    def __init__(self, recognizer: Recognizer, *, length: int | str = "adaptive", top: int = 5) -> None:
        parts = window_parts(recognizer.config)
        self.rule, self.transform = parts["rule"], parts["transform"]
        self.crops, self.batch_size = parts["crops"], parts["batch_size"]
        self.recognizer, self.top = recognizer, top
        self.level = recognizer.level_of(length)

    @property
    def short_side(self) -> int:
        """Of the frames that windows are made of, in pixels."""
        return self.transform.max_short_side

    @torch.inference_mode()
    def probabilities(self, windows: Iterable[Window[np.ndarray]]) -> tuple[Tensor, list[int], list[float]]:
        """Of N windows: class probabilities (N, K), the mean over crops; token lengths; GMACs per view."""
        run, router = self.recognizer.run, self.recognizer.router
        clips = torch.stack([clip for window in windows for clip in self._crops(window)])
        views = run.to_clips(clips, dtype=run.dtype).unflatten(0, (-1, len(self.crops)))  # (N, X, C, T, H, W)
        if self.level is None:
            routed = router.forward_views(views)
            logits, levels, costs = routed.logits, routed.levels.tolist(), routed.gmacs.tolist()
        else:
            logits, levels = router.run_level(views, self.level), [self.level] * len(views)
            costs = [router.costs[self.level]] * len(views)
        lengths = [self.recognizer.backbone.token_lengths[level] for level in levels]
        return average_views(logits, self.recognizer.heads).cpu(), lengths, costs

    def run(
        self,
        source: str,
        items: Iterable[Window[np.ndarray] | Missed],
        emit: Emit,
        *,
        grid: WindowGrid,
        smoothing: Smoothing,
        confidence: float,
        batch_size: int | None = None,
        lag_s: Callable[[float], float] | None = None,
    ) -> None:
        """Tells `emit` everything about a stream: results and missed windows in order, events as they end.

        batch_size: windows that share a pass (None: as in the checkpoint's test). lag_s: see `LiveSource`.
        """
        events = EventFinder(confidence, emit)
        try:
            for group in grouped(items, batch_size or self.batch_size):
                if isinstance(group, Missed):
                    emit(group)
                    if group.gap:
                        smoothing.forget()
                        events.end()
                    continue
                for window, new, length, cost in zip(group, *self.probabilities(group), strict=True):
                    lag = lag_s(window.end_s) if lag_s else None
                    result = self._result(source, window, smoothing(new), length, cost, lag)
                    emit(result)
                    best = result.class_names[0], result.probabilities[0]
                    events.window(source, speaks_for(window, grid), *best)
        finally:
            events.end()

    def _crops(self, window: Window[np.ndarray]) -> Iterator[Tensor]:
        frames = np.stack(window.frames)
        for crop in self.crops:
            yield self.transform(frames, View(tuple(range(len(frames))), 0, crop), 0, None)[0]

    def _result(
        self, source: str, window: Window, probabilities: Tensor, length: int, cost: float, lag: float | None
    ) -> WindowResult:
        names, heads = self.recognizer.class_names, self.recognizer.heads
        labels = label_probabilities(probabilities, heads)
        best = labels.topk(min(self.top, len(labels)))
        return WindowResult(
            source=source,
            number=window.number,
            start_s=window.start_s,
            end_s=window.end_s,
            class_names=tuple(label_name(i, names, heads) for i in best.indices.tolist()),
            probabilities=tuple(best.values.tolist()),
            token_length=length,
            gmacs_per_view=cost,
            lag_s=lag,
            parts=self.recognizer.parts_of(probabilities, self.top),
        )


def cut_online(
    source: FrameSource,
    cutter: Cutter,
    *,
    short_side: int,
    seconds: float | None = None,
    watch: Callable | None = None,
) -> Iterator[Window[np.ndarray] | Missed]:
    """The windows of a source, frame by frame. seconds: stop there. watch: sees every frame."""
    to_rgb, size = ToRGB(), None
    for item in source:
        if isinstance(item, Gap):
            cutter.gap(item.why)
            continue
        if seconds is not None and item.time_s >= seconds:
            break
        if size is not None and item.size != size:
            before, after = (f"{width}x{height}" for height, width in (size, item.size))
            cutter.gap(f"pictures of {before} became {after}")
        size = item.size
        if watch is not None:
            watch(item)
        yield from cutter.push(item.time_s, partial(item.rgb, to_rgb, short_side))
    yield from cutter.finish()


def cut_seeking(
    path: str, times: list[float], cutter: Cutter[int], *, short_side: int, seconds: float | None = None
) -> Iterator[Window[np.ndarray] | Missed]:
    """The same windows of a file whose frames' times are known: the reader seeks, so what lies between the
    windows is not decoded.
    """
    with open_video(path) as video:

        def read(items: Iterable[Window[int] | Missed]) -> Iterator[Window[np.ndarray] | Missed]:
            for item in items:
                if isinstance(item, Window):
                    frames = video.frames(item.frames, short_side)
                    item = Window(item.number, item.start_s, item.end_s, tuple(frames))
                yield item

        for number, time_s in enumerate(times):
            if seconds is not None and time_s >= seconds:
                break
            yield from read(cutter.push(time_s, partial(int, number)))
        yield from read(cutter.finish())


def grouped(items: Iterable[Window | Missed], size: int) -> Iterator[list[Window] | Missed]:
    """Up to `size` windows in a row as one list; what lies between them as it is."""
    group: list[Window] = []
    try:
        for item in items:
            if isinstance(item, Window):
                group.append(item)
                if len(group) < size:
                    continue
            if group:
                yield group
                group = []
            if isinstance(item, Missed):
                yield item
    except ValueError:  # a DecodeError: what came before the damage counts
        if group:
            yield group
        raise
    if group:
        yield group


def speaks_for(window: Window, grid: WindowGrid) -> tuple[float, float]:
    """The time around a window's middle that its result stands for."""
    middle, half = (window.start_s + window.end_s) / 2, min(grid.stride_s, grid.length_s) / 2
    return max(middle - half, window.start_s), min(middle + half, window.end_s)
