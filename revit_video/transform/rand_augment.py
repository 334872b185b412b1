"""RandAugment (arXiv:1909.13719) for clips: a few operations out of a table, drawn once for all frames.

The table and its ranges are those of timm's `rand-...-inc1`, which the DeiT and the Motionformer recipes
name: every operation gets stronger with the magnitude. None mirrors the picture, so labels that tell left
from right stay right.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from revit_video.transform.colour import change_colours
from revit_video.transform.place import after, sheared, shifted, stays, turned

FULL = 10.0  # the magnitude at which operations have their full strength, the largest one

Fill = Sequence[float]  # RGB in 0..255 of what comes in from outside the picture
Apply = Callable[[Tensor, float, Fill], Tensor]


def _warp(clip: Tensor, fill: Fill, *, angle: float = 0.0, shear: tuple[float, float] = (0.0, 0.0)) -> Tensor:
    """Turned by `angle` degrees around the centre, or sheared by slopes along x and y around the upper left
    corner.
    """
    return F.affine(
        clip,
        angle=angle,
        translate=[0, 0],
        scale=1.0,
        shear=[math.degrees(math.atan(slope)) for slope in shear],
        interpolation=InterpolationMode.BILINEAR,
        fill=list(fill),
        center=[0, 0] if any(shear) else None,
    )


def _shift(clip: Tensor, fill: Fill, *, right: int = 0, down: int = 0) -> Tensor:
    """Moved by whole pixels."""
    height, width = clip.shape[-2:]
    moved = torch.tensor(fill).to(torch.uint8).view(-1, 1, 1).repeat(len(clip), 1, height, width)
    rows, columns = slice(max(down, 0), height + min(down, 0)), slice(max(right, 0), width + min(right, 0))
    from_rows = slice(max(-down, 0), height - max(down, 0))
    from_columns = slice(max(-right, 0), width - max(right, 0))
    moved[..., rows, columns] = clip[..., from_rows, from_columns]
    return moved


# Comparisons are turned into bytes, as torch.where takes several times as long on them.
def _solarize(clip: Tensor, threshold: int) -> Tensor:
    """Pixels from the threshold on are inverted."""
    return clip ^ clip.ge(threshold).view(torch.uint8).neg() if threshold < 256 else clip


def _solarize_add(clip: Tensor, amount: int) -> Tensor:
    """The amount, at most 110, is added to the darker half of the values."""
    return clip + clip.lt(128).view(torch.uint8) * amount


def _sharpen(clip: Tensor, factor: float) -> Tensor:
    channels_last = clip.contiguous(memory_format=torch.channels_last)  # several times faster in there
    return F.adjust_sharpness(channels_last, factor).contiguous()


def _factor(x: float) -> float:
    """From 0.1 to 1.9; 1 is no change."""
    return max(0.1, 1 + 0.9 * x)


def _colours(name: str) -> Apply:
    return lambda clip, x, fill: change_colours(clip, **{name: _factor(x)})


@dataclass(frozen=True)
class Operation:
    """What is done to a clip, uint8 (T, 3, H, W), at a strength x from 0 to 1, or from -1 to 1 where both
    directions are `signed`. `place` is that of the new picture in the old one (transform.place), to half a
    pixel, of a square clip; None: nothing moves.
    """

    apply: Apply
    signed: bool = False
    place: Callable[[float], Tensor] | None = None


OPERATIONS: dict[str, Operation] = {
    # These three know no strength.
    "auto_contrast": Operation(lambda clip, x, fill: F.autocontrast(clip)),
    "equalize": Operation(lambda clip, x, fill: F.equalize(clip)),
    "invert": Operation(lambda clip, x, fill: F.invert(clip)),
    # From 4 bits a colour down to none, which is black.
    "posterize": Operation(lambda clip, x, fill: F.posterize(clip, 4 - int(4 * x))),
    "solarize": Operation(lambda clip, x, fill: _solarize(clip, 256 - int(256 * x))),
    "solarize_add": Operation(lambda clip, x, fill: _solarize_add(clip, int(110 * x))),
    "color": Operation(_colours("saturation"), signed=True),
    "contrast": Operation(_colours("contrast"), signed=True),
    "brightness": Operation(_colours("brightness"), signed=True),
    "sharpness": Operation(lambda clip, x, fill: _sharpen(clip, _factor(x)), signed=True),
    "rotate": Operation(
        lambda clip, x, fill: _warp(clip, fill, angle=30 * x), signed=True, place=lambda x: turned(30 * x)
    ),
    "shear_x": Operation(
        lambda clip, x, fill: _warp(clip, fill, shear=(0.3 * x, 0.0)),
        signed=True,
        place=lambda x: sheared(x=0.3 * x),
    ),
    "shear_y": Operation(
        lambda clip, x, fill: _warp(clip, fill, shear=(0.0, 0.3 * x)),
        signed=True,
        place=lambda x: sheared(y=0.3 * x),
    ),
    "translate_x": Operation(
        lambda clip, x, fill: _shift(clip, fill, right=round(0.45 * x * clip.shape[-1])),
        signed=True,
        place=lambda x: shifted(right=0.45 * x),
    ),
    "translate_y": Operation(
        lambda clip, x, fill: _shift(clip, fill, down=round(0.45 * x * clip.shape[-2])),
        signed=True,
        place=lambda x: shifted(down=0.45 * x),
    ),
}


@dataclass(frozen=True)
class RandAugment:
    """`num_ops` draws from the table, with replacement; each is carried out with probability `prob`.

    Args:
        magnitude: 0 to 10 are strengths 0 to 1, more than 10 is 10.
        std: of the magnitude, which is drawn anew for every operation.
        fill: RGB in 0..255 of what comes in from outside the picture.
    """

    num_ops: int
    magnitude: float
    std: float
    prob: float
    fill: tuple[float, ...]

    def __call__(self, clip: Tensor, rng: random.Random) -> Tensor:
        return self.placed(clip, rng)[0]

    def placed(self, clip: Tensor, rng: random.Random) -> tuple[Tensor, Tensor]:
        """The new clip, and where it lies in the given one, see transform.place."""
        place = stays()
        for name in rng.choices(tuple(OPERATIONS), k=self.num_ops):
            if rng.random() < self.prob:
                operation = OPERATIONS[name]
                strength = self._strength(operation, rng)
                clip = operation.apply(clip, strength, self.fill)
                if operation.place is not None:
                    place = after(place, operation.place(strength))
        return clip, place

    def _strength(self, operation: Operation, rng: random.Random) -> float:
        drawn = rng.normalvariate(self.magnitude, self.std)
        strength = min(max(drawn, 0.0), FULL) / FULL
        return -strength if operation.signed and rng.random() < 0.5 else strength
