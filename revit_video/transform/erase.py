"""Random erasing (arXiv:1708.04896): a box of noise in place of a part of the picture."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from revit_video.sample.spatial import erase_box

ASPECT = (0.3, 1 / 0.3)  # width over height of the box


@dataclass(frozen=True)
class RandomErasing:
    """In `prob` of the clips a box of noise, the same box with the same noise in all frames, so that nothing
    seems to move there.

    Args:
        share: of the frame's area, smallest and largest.
        mean, std: of the noise, of R, G, B in 0..1: those that clips are normalised with, so that the
            model gets noise of mean 0 and variance 1 (but for what is cut at black and white).
    """

    prob: float
    share: tuple[float, float]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, clip: Tensor, rng: random.Random) -> Tensor:
        if rng.random() >= self.prob:
            return clip
        box = erase_box(clip.shape[-2], clip.shape[-1], rng, share=self.share, aspect=ASPECT)
        if box is None:
            return clip
        top, left, height, width = box
        erased = clip.clone()
        erased[..., top : top + height, left : left + width] = self._noise(height, width, rng)
        return erased

    def _noise(self, height: int, width: int, rng: random.Random) -> Tensor:
        """uint8 (C, height, width)"""
        generator = torch.Generator().manual_seed(rng.getrandbits(63))
        noise = torch.randn(len(self.mean), height, width, generator=generator)
        mean, std = (as_column(values) for values in (self.mean, self.std))
        return (255 * (mean + std * noise)).round_().clamp_(0, 255).to(torch.uint8)


def as_column(values: Sequence[float]) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1)
