"""From the stored picture to the displayed one: the rotation and mirroring that a file asks for.

The display matrix of a stream (ISO/IEC 14496-12, 8.5.2: 16.16 fixed point, a b u c d v x y w) takes a
stored pixel (x, y) to (a x + c y, b x + d y). Cameras write quarter turns, some a mirror image; other
angles are rounded to the nearest quarter. FFmpeg's own angle of a mirror image is that of a half turn,
which would show it upside down.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Orientation:
    """First swap rows and columns, then mirror: to the left and right, and upside down."""

    swapped: bool = False
    mirrored: bool = False
    upended: bool = False

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) after, or before, turning: swapping is its own inverse."""
        return (width, height) if self.swapped else (height, width)

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """A view of the (H, W, 3) picture, as displayed."""
        if self.swapped:
            picture = picture.swapaxes(0, 1)
        return picture[:: -1 if self.upended else 1, :: -1 if self.mirrored else 1]


UPRIGHT = Orientation()


def orientation(matrix: bytes | None) -> Orientation:
    """What a display matrix of 36 bytes (this machine's byte order) asks for; without one, nothing."""
    if matrix is None or len(matrix) < 36:
        return UPRIGHT
    a, b, _, c, d = np.frombuffer(matrix, np.int32, 5).tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(False, a < 0, d < 0)
    return Orientation(True, c < 0, b < 0)
