"""The options of `predict` that concern windows. Imports nothing heavy: --help shall be quick."""

from __future__ import annotations

import argparse
from pathlib import Path

from revit_video.types import InputError

DEFAULTS = {
    "smooth": 1,
    "confidence": 0.5,
    "out": [],
    "overwrite": False,
    "max_gap": 1.0,
    "max_lag": 2.0,
    "timeout": 10.0,
    "retries": 5,
    "ffmpeg": [],
}
ABOVE_ZERO = ("window", "stride", "fps", "seconds", "max_gap", "max_lag", "timeout")
SINGLE = (".srt", ".mp4")  # about one video each
ENDINGS = (".jsonl", ".csv", *SINGLE)


def add_options(made: argparse.ArgumentParser) -> None:
    """None: not given. Whoever gives one of them wants windows."""
    group = made.add_argument_group(
        "windows", "one result after the other from long videos and live streams; any of these asks for it"
    )
    add = group.add_argument
    add("--window", type=float, metavar="S", help="seconds of a window (default: the checkpoint's clip)")
    add("--stride", type=float, metavar="S", help="seconds from one to the next (half a window)")
    add("--smooth", type=int, metavar="N", help="mean of the last N windows' probabilities (1)")
    add("--decay", type=float, metavar="A", help="exponential smoothing: the newest window counts A, 0..1")
    add("--confidence", type=float, metavar="P", help="of an event's windows, at least (0.5)")
    hint = (
        "FILE.jsonl, .csv, .srt or .mp4 (labels on the frames, no sound); may come again. {name}: the video's"
    )
    add("--out", action="append", metavar="FILE", help=hint)
    add("--overwrite", action="store_true", default=None, help="replace files that exist")
    add("--seconds", type=float, metavar="S", help="stop after the first S seconds")
    add("--fps", type=float, metavar="F", help="frame rate that the checkpoint's frames are counted in")
    add("--max-gap", type=float, metavar="S", help="no frame for so long is a gap (1)")
    add("--max-lag", type=float, metavar="S", help="live: windows older than this make room (2)")
    add("--timeout", type=float, metavar="S", help="live: silence after which to reconnect (10)")
    add("--retries", type=int, metavar="N", help="live: attempts to reconnect in a row (5)")
    add(
        "--ffmpeg",
        action="append",
        metavar="KEY=VALUE",
        help="live: option of FFmpeg's input, such as framerate=30",
    )


NAMES = ("window", "stride", "decay", "seconds", "fps", *DEFAULTS)


def wants_windows(args: argparse.Namespace) -> bool:
    return any(getattr(args, name) is not None for name in NAMES)


def fill(args: argparse.Namespace) -> None:
    """Defaults in place of None, and everything checked that can be without a checkpoint."""
    if args.smooth is not None and args.decay is not None:
        raise InputError("--smooth and --decay are two ways to smooth; choose one")
    for name, value in DEFAULTS.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    for name in ABOVE_ZERO:
        value = getattr(args, name)
        if value is not None and not 0 < value < float("inf"):
            raise InputError(f"--{name.replace('_', '-')} is {value:g}, but must be above 0")
    if args.retries < 0:
        raise InputError(f"--retries is {args.retries}, but must be at least 0")
    wrong = [text for text in args.ffmpeg if not text.partition("=")[0] or "=" not in text]
    if wrong:
        raise InputError(f"--ffmpeg is {wrong[0]!r}, but must be KEY=VALUE, such as framerate=30")
    for text in args.out:
        if Path(text).suffix.lower() not in ENDINGS:
            raise InputError(f"--out is {text!r}, but must end in one of {', '.join(ENDINGS)}")
