"""From a decoded frame to its RGB pixels, scaled on the way."""

from __future__ import annotations

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from revit_video.decode.orientation import UPRIGHT, Orientation


class ToRGB:
    """Makes pictures of frames: bilinear with antialiasing, then turned as the file asks.

    A call takes the displayed size, before which the frame lies as it is stored, and gives uint8
    (height, width, 3).
    """

    def __init__(self, *, threads: int = 1) -> None:
        self._options = {"interpolation": "BILINEAR", "threads": threads}
        self._scale, self._pack = VideoReformatter(), VideoReformatter()  # they keep FFmpeg's tables

    def __call__(
        self, frame: av.VideoFrame, height: int, width: int, orientation: Orientation = UPRIGHT
    ) -> np.ndarray:
        height, width = orientation.size(height, width)
        if (frame.width, frame.height) != (width, height):
            # Straight to packed RGB FFmpeg scales colours at half the width if it is even, and slower.
            frame = self._scale.reformat(frame, width, height, "gbrp", **self._options)
        rgb = self._pack.reformat(frame, width, height, "rgb24", **self._options)
        plane = rgb.planes[0]
        picture = np.ndarray((height, width, 3), np.uint8, plane, strides=(plane.line_size, 3, 1))
        return orientation.apply(picture)
