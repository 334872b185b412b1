"""Small real videos for the tests, whose frames say their own number.

make_video(tmp_path / "a.mp4", 30)          30 frames, frame i shows i as a row of black and white bars
frame_numbers(frames)                       reads the numbers back, after any codec and any resizing
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BITS = 8  # bars per frame, so numbers to 255


def numbered_frames(num_frames: int, size: tuple[int, int] = (64, 48)) -> np.ndarray:
    """uint8 (T, H, W, 3): frame i is 8 upright bars, the bits of i from the left, the highest first."""
    width, height = size
    assert num_frames <= 1 << BITS and width >= BITS
    bits = np.arange(num_frames)[:, None] >> np.arange(BITS)[::-1] & 1  # (T, 8)
    columns = bits[:, np.arange(width) * BITS // width] * 255  # (T, W)
    return np.broadcast_to(columns[:, None, :, None], (num_frames, height, width, 3)).astype(np.uint8)


def frame_numbers(frames: np.ndarray) -> list[int]:
    """The numbers shown by frames (T, H, W, 3) of `make_video`."""
    width = frames.shape[2]
    centres = (2 * np.arange(BITS) + 1) * width // (2 * BITS)
    bits = frames[:, :, centres].mean(axis=(1, 3)) > 127  # (T, 8)
    return [int(number) for number in bits @ (1 << np.arange(BITS)[::-1])]


def make_video(
    path: str | Path,
    frames: np.ndarray | int,
    fps: float = 25,
    size: tuple[int, int] = (64, 48),
    codec: str = "libx264",
    *,
    gop: int = 12,
    bframes: int = 0,
    crf: int = 0,
    rotation: int = 0,
    pts: list[int] | None = None,
    pix_fmt: str = "yuv420p",
    codec_options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> str:
    """Writes a video; the ending of `path` decides the container. Returns the path as text.

    Args:
        frames: uint8 (T, H, W, 3), or how many numbered ones.
        size: (width, height) of numbered frames; odd ones need pix_fmt="yuv444p".
        crf: quality of H.264 and VP9, 0 is lossless (where the colours are).
        rotation: degrees that a player has to turn the video by, counter-clockwise; only in mp4 and mov.
        pts: time of each frame in units of 1 / fps; default 0, 1, 2, ...
    """
    if isinstance(frames, int):
        frames = numbered_frames(frames, size)
    rate = Fraction(fps).limit_denominator(1001)
    with av.open(str(path), "w", options=container_options or {}) as container:
        options = {"crf": str(crf), "preset": "ultrafast"} if codec.startswith("libx26") else {}
        stream = container.add_stream(codec, rate=rate, options=options | (codec_options or {}))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        stream.codec_context.gop_size = gop
        stream.codec_context.max_b_frames = bframes
        if rotation:
            stream.set_display_rotation(rotation)
        container.start_encoding()  # writes the header, also where no frame follows
        for i, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts, picture.time_base = i if pts is None else pts[i], 1 / rate
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return str(path)
