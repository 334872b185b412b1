"""Places of square crops."""

from __future__ import annotations

import random

from revit_video.types import InputError


def crop_box(height: int, width: int, size: int, position: int) -> tuple[int, int]:
    """(top, left) of a crop of `size` x `size` pixels; `position` moves it along the frame's longer side.

        height < width        height > width
        +-----+-----+-----+   +-----+
        |  0  |  1  |  2  |   |  0  |     0: left or top
        +-----+-----+-----+   |  1  |     1: centre
                              |  2  |     2: right or bottom
                              +-----+

    Along the shorter side the crop is central; a square frame counts as wide. Half pixels are rounded up, as
    the official TimeSformer and Motionformer code does. Crops overlap where the frame is short.
    """
    _check(height, width, size)
    if position not in (0, 1, 2):
        raise InputError(f"crop position is {position}, but must be 0, 1 or 2")
    tops, lefts = ((0, (rest + 1) // 2, rest) for rest in (height - size, width - size))
    return (tops[position], lefts[1]) if height > width else (tops[1], lefts[position])


def random_crop_box(
    height: int, width: int, size: int, rng: random.Random, *, rule: str = "centred"
) -> tuple[int, int]:
    """(top, left) of a random crop of `size` x `size` pixels; every place is equally likely.

    The official rule (any but "centred") draws from 0 up to, but without, the last place: its
    randint(0, height - size) excludes the end. The rightmost column and the lowest row are never seen.
    """
    _check(height, width, size)
    missed = 0 if rule == "centred" else 1
    top, left = (rng.randint(0, max(side - size - missed, 0)) for side in (height, width))
    return top, left


def _check(height: int, width: int, size: int) -> None:
    if size < 1 or size > min(height, width):
        raise InputError(f"cannot crop {size}x{size} from a frame {height} pixels high and {width} wide")
