"""Colours of a clip: jitter and greyscale. One draw for all frames."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

GREY = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)  # shares of R, G, B in a pixel's grey


@dataclass(frozen=True)
class ColorJitter:
    """Brightness, contrast, saturation and hue of `prob` of the clips.

    The first three are multiplied by 1 + U(-x, x), then the hue is moved by U(-x, x) of the colour circle; 0
    leaves a property alone.
    """

    brightness: float
    contrast: float
    saturation: float
    hue: float = 0.0
    prob: float = 1.0

    def __call__(self, clip: Tensor, rng: random.Random) -> Tensor:
        if rng.random() >= self.prob:
            return clip
        ranges = (self.brightness, self.contrast, self.saturation)
        brightness, contrast, saturation = (1 + rng.uniform(-most, most) for most in ranges)
        clip = change_colours(clip, brightness=brightness, contrast=contrast, saturation=saturation)
        return F.adjust_hue(clip, rng.uniform(-self.hue, self.hue)) if self.hue else clip


@dataclass(frozen=True)
class Grayscale:
    """`prob` of the clips without their colours."""

    prob: float

    def __call__(self, clip: Tensor, rng: random.Random) -> Tensor:
        return change_colours(clip, saturation=0.0) if rng.random() < self.prob else clip


def change_colours(
    clip: Tensor, *, brightness: float = 1.0, contrast: float = 1.0, saturation: float = 1.0
) -> Tensor:
    """The clip, uint8 (T, 3, H, W), with three properties multiplied; 1 is no change.

    brightness: of the pixels. contrast: of their distances from the mean grey of the frame. saturation: of
    their distances from their own grey. Each is as Pillow and torchvision define it. Pixels are rounded and
    cut to 0..255 once, at the end; so the order of the three does not matter, and they are one affine map of
    a frame's colours: one pass for all.
    """
    grey_only = GREY.expand(3, 3)  # R, G and B all get the grey
    matrix = brightness * contrast * (saturation * torch.eye(3) + (1 - saturation) * grey_only)
    mean = clip.mean(dim=(-2, -1), dtype=torch.float64) @ GREY  # (T,)
    shift = brightness * (1 - contrast) * mean + 0.5  # 0.5: to the nearest whole number
    changed = torch.empty_like(clip)
    for frame, offset, out in zip(clip, shift.tolist(), changed, strict=True):
        # Frame by frame, as one of 224 x 224 pixels stays in the processor's cache and a clip does not.
        flat = (matrix.float() @ frame.flatten(1).float()).add_(offset)
        out.copy_(flat.clamp_(0, 255).view_as(out))
    return changed
