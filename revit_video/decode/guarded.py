"""The other side of guard.py: `python -m revit_video.decode.guarded FD DECODER` answers until nobody asks."""

from __future__ import annotations

import contextlib
import resource
import sys
from multiprocessing.connection import Connection
from typing import Any

from revit_video.decode import DECODERS
from revit_video.decode.limits import DEFAULT_LIMITS
from revit_video.decode.reader import DecodeError, VideoReader
from revit_video.types import InputError

MEMORY = DEFAULT_LIMITS.bytes + (4 << 30)  # for this process: the frames of one call, and the libraries


def serve(wire: Connection, decoder: str) -> None:
    """Opens, reads and closes one video after the other."""
    video: VideoReader | None = None
    name = path = ""  # of the video, as its owner calls it, and in full
    wire.send((None, "ready"))
    while True:
        try:
            kind, *details = wire.recv()
        except EOFError:
            return
        try:
            if kind == "open":
                name, path, threads, limits = details
                video = DECODERS[decoder](path, threads=threads, limits=limits)
                answer: Any = (video.fps, video.fps_known, video.height, video.width)
            elif kind == "num_frames":
                answer = video.num_frames
            elif kind == "read":
                answer = list(video._read(*details))
            else:
                answer = video.close() if video else None
            wire.send((None, answer))
        except Exception as error:  # ours or a library's: the owner decides
            wire.send((_as_owner_sees(error, name, path), None))


def _as_owner_sees(error: Exception, name: str, path: str) -> Exception:
    """The error with the file's own name, in a form that can travel."""
    if isinstance(error, DecodeError):
        return DecodeError(name, error.reader, error.reason, error.frame)
    if isinstance(error, InputError):
        return InputError(str(error).replace(path, name))
    if isinstance(error, MemoryError):
        return MemoryError(f"needs more than the limit of {MEMORY} bytes")
    return RuntimeError(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        serve(Connection(int(sys.argv[1])), sys.argv[2])
