"""What all lists of videos share: reading a small text file, refusing a list whose videos are not there."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

from revit_video.types import InputError, VideoSample


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        InputError: it is missing (the message names its nearest neighbours of that kind) or no UTF-8 text.
    """
    if not path.is_file():
        others = sorted(file.name for file in path.parent.glob(f"*{path.suffix}"))
        near = difflib.get_close_matches(path.name, others, n=3, cutoff=0.4) or others[:3]
        hint = (
            f"in its folder there are {', '.join(near)}"
            if near
            else f"no {path.suffix} file is in its folder"
        )
        raise InputError(f"no file {path}; {hint}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is no UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}"
        ) from None


def refuse_missing_videos(samples: Sequence[VideoSample], *, source: Path, hint: str) -> None:
    """One InputError for all videos that do not exist: how many, the first three, and what to try."""
    missing = [sample.path for sample in samples if not os.path.isfile(sample.path)]
    if missing:
        first = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise InputError(
            f"{len(missing)} of the {len(samples)} videos of {source} do not exist: {first}; {hint}"
        )


def shorten(text: str, most: int = 80) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
