"""`predict` without windows: one prediction per file."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from revit_video.decode import DecodeError
from revit_video.recognizer import Recognizer
from revit_video.types import Prediction, Ranking, Unreadable


def predict_files(recognizer: Recognizer, paths: Sequence[str], args: argparse.Namespace) -> int:
    """Prints a prediction for every file. Exit code: 2 if one could not be read."""
    unreadable = 0
    for path in paths:
        try:
            prediction = recognizer.predict(path, length=args.length, top=args.top)
        except DecodeError as error:
            if args.debug:
                raise
            unreadable += 1
            shown = asdict(Unreadable(path, str(error))) if args.json else f"{path}: not readable"
            print(f"error: {error}", file=sys.stderr)
        else:
            shown = asdict(prediction) if args.json else as_text(prediction)
        print(json.dumps(shown) if args.json else shown, flush=True)
    return 2 if unreadable else 0


def as_text(prediction: Prediction) -> str:
    lengths = ", ".join(map(str, prediction.token_lengths))
    cost = f"{prediction.gmacs_per_view:.3g} GMACs per view; token lengths of its clips: {lengths}"
    lines = [f"{prediction.path}  ({cost})"]
    for part in prediction.parts:
        lines += [f"  {part.kind}:", *ranked(part)]
    lines += ["  action:"] * bool(prediction.parts)
    return "\n".join(lines + ranked(prediction))


def ranked(classes: Prediction | Ranking) -> list[str]:
    """A line for each class."""
    pairs = zip(classes.class_names, classes.probabilities, strict=True)
    return [f"  {100 * p:5.1f}%  {name}" for name, p in pairs]
