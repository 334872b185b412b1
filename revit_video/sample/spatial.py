"""Sizes of frames and places of crops and boxes in them, fixed and drawn."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from revit_video.types import InputError

JITTER_RULES = ("whole", "uniform", "inverse_uniform")
TRIES = 10  # draws of a box before the rule for boxes that do not fit
LARGEST = 4  # crops: the largest short side that a random-resized crop asks for


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


def draw_short_side(shortest: int, longest: int, rng: random.Random, *, rule: str = "whole") -> int:
    """Pixels of the short side of a training clip, from `shortest` to `longest`.

    whole: every whole number alike. uniform: U(shortest, longest), rounded, so that the two ends come half as
    often. inverse_uniform: 1 / U(1 / longest, 1 / shortest), rounded, which favours small sides. The latter
    two are those of the official SlowFast, TimeSformer and Motionformer code (`INV_UNIFORM_SAMPLE`).
    """
    if rule == "whole":
        return rng.randint(shortest, longest)
    if rule == "uniform":
        return round(rng.uniform(shortest, longest))
    if rule == "inverse_uniform":
        return round(1 / rng.uniform(1 / longest, 1 / shortest))
    raise InputError(f"the rule of the short side is {rule!r}, but must be one of {', '.join(JITTER_RULES)}")


def resized_crop_side(share: float, crop: int, *, aspect: Sequence[float]) -> int:
    """The short side at which the box of `share` of a frame holds at least `crop` pixels each way, whatever
    the proportions of the frame and of the box (within `aspect`, see `resized_crop_box`). It ends at 4 crops,
    as few files have more pixels than that.
    """
    return min(math.ceil(crop / (_narrowest(aspect) * math.sqrt(share))), LARGEST * crop)


def resized_crop_box(
    height: int, width: int, crop: int, rng: random.Random, *, share: Sequence[float], aspect: Sequence[float]
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a random box, to be resized to `crop` x `crop`.

    Its share of the frame's area is uniform between the two of `share` and its width over height log-uniform
    between the two of `aspect`, among all pairs whose box fits into the frame: the distribution of
    torchvision's RandomResizedCrop. The frame must have been scaled to `resized_crop_side` of a share drawn
    from all of `share`: how large that share was is read off the frame's short side, and takes the part of
    the box's share. So the frame is as large as its box needs.
    """
    _check(height, width, 1)
    low, high = share
    drawn = _share_of_side(min(height, width), crop, rng, share=share, aspect=aspect)
    along = (drawn - low) / (high - low) if high > low else 0.0  # 0..1: where between the two
    for _ in range(TRIES):
        ratio = math.exp(rng.uniform(*map(math.log, aspect)))
        largest = min(high, width / height / ratio, ratio * height / width)  # share of which the box fits
        # Ratios of which few shares fit are taken more rarely, which makes all fitting pairs equally likely.
        if rng.random() * (high - low) <= largest - low:
            area = (low + along * (largest - low)) * height * width
            box = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
            break
    else:  # a frame so narrow that hardly anything fits: the largest box of the nearest aspect
        ratio = min(max(width / height, aspect[0]), aspect[1])
        box = round(width / ratio), round(height * ratio)
    box = tuple(min(max(1, pixels), side) for pixels, side in zip(box, (height, width), strict=True))
    return rng.randint(0, height - box[0]), rng.randint(0, width - box[1]), *box


def erase_box(
    height: int, width: int, rng: random.Random, *, share: Sequence[float], aspect: Sequence[float]
) -> tuple[int, int, int, int] | None:
    """(top, left, height, width) of a random box to be erased: share of the area uniform, width over height
    log-uniform. None where no draw of several fits inside (arXiv:1708.04896).
    """
    for _ in range(TRIES):
        area = rng.uniform(*share) * height * width
        ratio = math.exp(rng.uniform(*map(math.log, aspect)))
        box = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 1 <= box[0] < height and 1 <= box[1] < width:
            return rng.randint(0, height - box[0]), rng.randint(0, width - box[1]), *box
    return None


def cut_box(height: int, width: int, share: float, rng: random.Random) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of a box with the frame's proportions and `share` of its area around a
    random pixel. What reaches beyond the frame is cut off, so that the box may get smaller (CutMix,
    arXiv:1905.04899).
    """
    edges = []
    for side in (height, width):
        length, middle = int(side * math.sqrt(share)), rng.randrange(side)
        begin = middle - length // 2
        edges += [max(begin, 0), min(begin + length, side)]
    return tuple(edges)


def _narrowest(aspect: Sequence[float]) -> float:
    """Short over long side of the narrowest box."""
    return min(aspect[0], 1 / aspect[1])


def _share_of_side(
    side: int, crop: int, rng: random.Random, *, share: Sequence[float], aspect: Sequence[float]
) -> float:
    """A share, uniform among those of which `resized_crop_side` makes this short side."""
    low, high = ((crop / (_narrowest(aspect) * max(pixels, 1))) ** 2 for pixels in (side, side - 1))
    if side >= LARGEST * crop:
        low = share[0]
    low, high = (min(max(bound, share[0]), share[1]) for bound in (low, high))
    return rng.uniform(low, high)


def _check(height: int, width: int, size: int) -> None:
    if size < 1 or size > min(height, width):
        raise InputError(f"cannot crop {size}x{size} from a frame {height} pixels high and {width} wide")
