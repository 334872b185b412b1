"""Video file -> frames: `with open_video("a.mp4") as video: video.frames([0, 8, 16], short_side=224)`."""

from __future__ import annotations

import difflib
import os

from revit_video.decode.decord_reader import DecordReader
from revit_video.decode.guard import GuardedReader
from revit_video.decode.limits import DEFAULT_LIMITS, Limits
from revit_video.decode.member import Member
from revit_video.decode.picture_reader import PictureReader, is_pictures
from revit_video.decode.pyav_reader import PyAVReader
from revit_video.decode.reader import DecodeError, VideoReader
from revit_video.decode.torchcodec_reader import TorchCodecReader
from revit_video.types import InputError

DECODERS: dict[str, type[VideoReader]] = {
    "pyav": PyAVReader,
    "decord": DecordReader,
    "torchcodec": TorchCodecReader,
}
DEFAULT_DECODER = "pyav"  # what decoder="auto" means
GUARDED = frozenset(("decord", "torchcodec"))  # in a process of their own: no limit of ours reaches into them

__all__ = ["DECODERS", "DecodeError", "Limits", "VideoReader", "open_video"]


def open_video(
    path: str | os.PathLike[str],
    decoder: str = "auto",
    *,
    threads: int = 1,
    limits: Limits = DEFAULT_LIMITS,
    guarded: bool | None = None,
) -> VideoReader:
    """A reader of one video; use it in a `with` statement.

    Args:
        path: a file on disk, no web address; a folder of pictures, its frames; one picture, a single frame;
            or any of these files in a tar shard, SHARD.tar/NAME[OFFSET+SIZE] (`member`).
        decoder: a name of DECODERS, or "auto" (pyav). decord is for comparison: it can be wrong, and hang.
            Pictures have a reader of their own, whatever the name.
        threads: decoding threads of this reader; 0 lets the decoder choose. One is right where each
            worker of a data loader reads its own video.
        limits: of time and memory.
        guarded: read in another process, which is killed at the time limit; None: where the decoder needs it.

    Raises:
        DecodeError: the file is missing, is no video, holds no frame, is cut off or breaks the limits.
        InputError: no decoder has this name, or it is not installed.
    """
    name = DEFAULT_DECODER if decoder == "auto" else decoder
    if name not in DECODERS:
        known = ["auto", *DECODERS]
        near = ", ".join(difflib.get_close_matches(name, known, n=1) or known)
        raise InputError(f"no decoder is named {decoder!r}; nearest: {near}")
    if is_pictures(path):
        return PictureReader(path, threads=threads, limits=limits)
    if name in GUARDED and Member.of(path):  # a copy on disk for every clip would be a hidden cost
        raise InputError(f"{path} lies in a shard, and {name} reads whole files only; use decoder=pyav")
    if guarded or (guarded is None and name in GUARDED):
        return GuardedReader(path, name, threads=threads, limits=limits)
    return DECODERS[name](path, threads=threads, limits=limits)
