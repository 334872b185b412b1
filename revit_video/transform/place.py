"""Where the picture of a clip lies in the frame it was cut from.

A place is the upper two rows of an affine matrix, (2, 3): it takes a point (x, y, 1) of the clip's picture
to the point of the frame that is seen there. Both are in sides: (0, 0) is the upper left corner, (1, 1) the
lower right one. Crops, mirrors, turns and shears are all of that kind, and so is one after the other.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def stays() -> Tensor:
    """The place of the frame itself."""
    return torch.eye(2, 3, dtype=torch.float64)


def of_box(box: tuple[int, int, int, int], *, height: int, width: int) -> Tensor:
    """Of the box (top, left, its height, its width) of a frame of so many pixels."""
    top, left, rows, columns = box
    return _place([columns / width, 0, left / width], [0, rows / height, top / height])


def mirrored() -> Tensor:
    """Of the mirror image, left for right."""
    return _place([-1, 0, 1], [0, 1, 0])


def shifted(*, right: float = 0.0, down: float = 0.0) -> Tensor:
    """Of a picture whose content was moved by so many sides."""
    return _place([1, 0, -right], [0, 1, -down])


def sheared(*, x: float = 0.0, y: float = 0.0) -> Tensor:
    """Of a square picture that was sheared by these slopes, the upper left corner fixed."""
    return _place([1, x, 0], [y, 1, 0])


def turned(degrees: float) -> Tensor:
    """Of a square picture that was turned clockwise around its middle."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return _place([cos, sin, (1 - cos - sin) / 2], [-sin, cos, (1 + sin - cos) / 2])


def after(place: Tensor, change: Tensor) -> Tensor:
    """The place of a picture that lay at `place` and was then changed: `change` is the place of the new
    picture in the one before.
    """
    turn, start = place[:, :2], place[:, 2:]
    return torch.cat([turn @ change[:, :2], turn @ change[:, 2:] + start], dim=1)


def _place(x: list[float], y: list[float]) -> Tensor:
    return torch.tensor([x, y], dtype=torch.float64)
