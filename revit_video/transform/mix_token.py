"""MixToken (LV-ViT, arXiv:2104.10858, section 3.2): a box of tokens from another clip, after the stem.

CutMix pastes pixels, so a patch may hold two pictures, and its label would be neither's. MixToken pastes
whole tokens. Every clip takes the box from its partner, which is the clip at the mirrored place of the same
pass: the batch reversed. To take it twice gives back what was there.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

TokenBox = tuple[float, float, float, float]  # top, bottom, left, right, from 0 to 1 of the frame's side


@dataclass(frozen=True)
class MixToken:
    """One draw per step, from the seed and the step alone: all processes, passes and token lengths have it.

    alpha: of the Beta(alpha, alpha) from which the share that a clip keeps is drawn; 1 in the paper.
    """

    alpha: float
    seed: int = 0

    def draw(self, step: int) -> TokenBox:
        """A box of the frame's proportions around any point; what reaches beyond the frame is cut off."""
        rng = random.Random(f"{self.seed}/mix_token/{step}")
        side = sqrt(1 - rng.betavariate(self.alpha, self.alpha))
        (top, bottom), (left, right) = (_span(rng.random(), side) for _ in range(2))
        return top, bottom, left, right


def box_on_grid(box: TokenBox, height: int, width: int) -> Tensor:
    """(height, width) bool: the tokens of a grid that are inside. Every edge goes to the nearest grid line,
    so each token length sees the box to half of its own tokens; it may have none in it.
    """
    sides = (height, height, width, width)
    top, bottom, left, right = (round(edge * side) for edge, side in zip(box, sides, strict=True))
    inside = torch.zeros(height, width, dtype=torch.bool)
    inside[top:bottom, left:right] = True
    return inside


def from_partner(values: Tensor, inside: Tensor) -> Tensor:
    """(B, ..., N, C) with the places `inside` (N,) taken from the reversed batch."""
    return torch.where(inside[:, None], values.flip(0), values)


def _span(middle: float, side: float) -> tuple[float, float]:
    return max(0.0, middle - side / 2), min(1.0, middle + side / 2)
