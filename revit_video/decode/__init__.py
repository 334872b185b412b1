"""Video file -> frames: `with open_video("a.mp4") as video: video.frames([0, 8, 16], short_side=224)`."""

from __future__ import annotations

import difflib
import os

from revit_video.decode.decord_reader import DecordReader
from revit_video.decode.pyav_reader import PyAVReader
from revit_video.decode.reader import DecodeError, VideoReader
from revit_video.types import InputError

DECODERS: dict[str, type[VideoReader]] = {"pyav": PyAVReader, "decord": DecordReader}
DEFAULT_DECODER = "pyav"  # what decoder="auto" means

__all__ = ["DECODERS", "DecodeError", "VideoReader", "open_video"]


def open_video(path: str | os.PathLike[str], decoder: str = "auto", *, threads: int = 1) -> VideoReader:
    """A reader of one video file; use it in a `with` statement.

    Args:
        path: a file on disk, no web address.
        decoder: a name of DECODERS, or "auto" (pyav). decord is for comparison: it can be wrong, and hang.
        threads: decoding threads of this reader; 0 lets the decoder choose. One is right where each
            worker of a data loader reads its own video.

    Raises:
        DecodeError: the file is missing, is no video, holds no frame, or is cut off.
        InputError: no decoder has this name, or it is not installed.
    """
    name = DEFAULT_DECODER if decoder == "auto" else decoder
    if name not in DECODERS:
        known = ["auto", *DECODERS]
        near = ", ".join(difflib.get_close_matches(name, known, n=1) or known)
        raise InputError(f"no decoder is named {decoder!r}; nearest: {near}")
    return DECODERS[name](path, threads=threads)
