"""`predict` with windows: inputs, engine and outputs put together."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from revit_video.decode import DecodeError
from revit_video.recognizer import Recognizer
from revit_video.sample.windows import WindowGrid, window_grid
from revit_video.stream.annotate import Annotated
from revit_video.stream.background import Waiting, in_background
from revit_video.stream.cutter import Cutter, Missed, Window
from revit_video.stream.engine import Engine, cut_online, cut_seeking
from revit_video.stream.inputs import Input, is_still
from revit_video.stream.live import LiveSource
from revit_video.stream.options import SINGLE
from revit_video.stream.outputs import (
    Console,
    Item,
    JsonLines,
    Output,
    file_of,
    open_output,
    refuse_existing,
    to_stdout,
)
from revit_video.stream.smoothing import Smoothing
from revit_video.stream.source import FileSource, FrameSource, PictureSource, frame_times
from revit_video.types import InputError

ROOM = 4  # windows that wait for the model


def predict_windows(recognizer: Recognizer, inputs: Sequence[Input], args: argparse.Namespace) -> int:
    """Exit code: 2 if an input could not be read, or not to its end. `args` are filled, see options."""
    files = planned_files(inputs, args.out)
    for path in {path for paths in files.values() for path in paths}:
        refuse_existing(path, overwrite=args.overwrite)
        if any(
            path.exists() and Path(given.address).exists() and path.samefile(given.address)
            for given in inputs
        ):
            raise InputError(f"{path} is to be read and written; choose another name for --out")
    engine = Engine(recognizer, length=args.length, top=args.top)
    Smoothing(windows=args.smooth, share=args.decay)  # refuses what is wrong before anything is written
    unreadable = 0
    with ExitStack() as stack:
        shown = JsonLines(to_stdout) if args.json else Console()
        shared: dict[Path, Output] = {}
        for path in dict.fromkeys(path for paths in files.values() for path in paths):
            if path.suffix.lower() not in SINGLE:
                shared[path] = open_output(path, overwrite=args.overwrite)
                stack.callback(shared[path].close)
        for given in inputs:
            try:
                outputs = [shown, *(shared[path] for path in files[given] if path in shared)]
                own = [path for path in files[given] if path not in shared]
                predict_one(engine, given, args, outputs=outputs, own=own)
            except DecodeError as error:
                if args.debug:
                    raise
                unreadable += 1
                print(f"error: {error}", file=sys.stderr, flush=True)
    return 2 if unreadable else 0


def predict_one(
    engine: Engine, given: Input, args: argparse.Namespace, *, outputs: Sequence[Output], own: Sequence[Path]
) -> None:
    """One video or stream through the engine, into `outputs` and into files of its `own`."""
    source = open_source(given, args)
    with ExitStack() as stack:
        stack.callback(source.close)
        fps = args.fps or source.fps
        if not source.fps_known and not args.fps:
            print(
                f"note: {source.name} does not say its frame rate; taken as {fps:g}, see --fps",
                file=sys.stderr,
            )
        grid = window_grid(engine.rule, fps=fps, window_s=args.window, stride_s=args.stride)
        outputs, annotated = [*outputs], None
        for path in own:
            if path.suffix.lower() == ".mp4":
                annotated = made = Annotated(
                    path, fps=fps, grid=grid, wait=not given.live, overwrite=args.overwrite
                )
            else:
                made = open_output(path, overwrite=args.overwrite)
            outputs.append(made)
            stack.callback(made.close)

        def emit(item: Item) -> None:
            for output in outputs:
                output.write(source.name, item)

        items = items_of(engine, given, source, grid, args, annotated)
        stack.enter_context(closing(items))  # before the source is
        engine.run(
            source.name,
            items,
            emit,
            grid=grid,
            smoothing=Smoothing(windows=args.smooth, share=args.decay),
            confidence=args.confidence,
            batch_size=1 if given.live or annotated else None,
            lag_s=source.lag_s if given.live else None,
        )


def items_of(
    engine: Engine,
    given: Input,
    source: FrameSource,
    grid: WindowGrid,
    args: argparse.Namespace,
    annotated: Annotated | None,
) -> Generator[Window | Missed]:
    """The windows of a source by the way that suits it."""
    cutter = Cutter(grid, max_gap_s=args.max_gap, pad=not given.live)
    size, seconds = engine.short_side, args.seconds
    sparse = grid.stride_s > grid.length_s and annotated is None
    times = frame_times(given.address) if sparse and isinstance(source, FileSource) else None
    if times is not None:
        return cut_seeking(given.address, times, cutter, short_side=size, seconds=seconds)
    watch = annotated.watch if annotated else None
    items = cut_online(source, cutter, short_side=size, seconds=seconds, watch=watch)
    if not given.live:
        return items
    return in_background(items, Waiting(room=ROOM, max_lag_s=args.max_lag, lag_s=source.lag_s))


def open_source(given: Input, args: argparse.Namespace) -> FrameSource:
    if given.live:
        options = dict(text.split("=", 1) for text in args.ffmpeg)
        return LiveSource(
            given.address,
            options=options,
            timeout_s=args.timeout,
            retries=args.retries,
            max_lag_s=args.max_lag,
        )
    if is_still(given):
        return PictureSource(given.address, fps=args.fps)
    return FileSource(given.address)


def planned_files(inputs: Sequence[Input], patterns: Sequence[str]) -> dict[Input, list[Path]]:
    """The files that each input's results go to; InputError where two videos cannot share one."""
    files = {given: [file_of(Path(pattern), given.name) for pattern in patterns] for given in inputs}
    taken: dict[Path, Input] = {}
    for given, paths in files.items():
        if len(set(paths)) < len(paths):
            raise InputError(f"--out names {paths[0]} twice")
        for path in paths:
            if path.suffix.lower() in SINGLE and taken.setdefault(path, given) is not given:
                raise InputError(
                    f"{path} is about one video, but {taken[path].address} and {given.address} would both go "
                    "there; write {name} into it, such as --out 'out/{name}.srt', and give videos other names"
                )
    return files
