"""Two pipelines, one for training and one for evaluation, built on torchvision's v2 functions.

Both turn decoded frames, uint8 (T, H, W, C), into a clip, uint8 (T, C, crop, crop). All frames of a clip
share one draw. Clips stay uint8 until they are on the device (`normalise`), which moves a quarter of the
bytes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from revit_video.sample.spatial import (
    crop_box,
    draw_short_side,
    random_crop_box,
    resized_crop_box,
    resized_crop_side,
)
from revit_video.transform.place import after, mirrored, of_box
from revit_video.transform.rand_augment import RandAugment
from revit_video.types import View

Step = Callable[[Tensor, random.Random], Tensor]  # uint8 (T, C, H, W) to the same, all frames alike


@dataclass(frozen=True)
class ResizedCrop:
    """Random-resized crop: a box of a share of the frame, `share[0]` to `share[1]`, and of width over height
    `aspect[0]` to `aspect[1]`, resized to the crop. See `resized_crop_box`.
    """

    share: tuple[float, float]
    aspect: tuple[float, float]

    def short_side(self, crop: int, rng: random.Random) -> int:
        """Of a frame that has enough pixels for its box: the smaller the box, the larger the frame."""
        return resized_crop_side(rng.uniform(*self.share), crop, aspect=self.aspect)

    def box(self, clip: Tensor, crop: int, rng: random.Random) -> tuple[int, int, int, int]:
        """(top, left, height, width) of what is resized."""
        return resized_crop_box(*clip.shape[-2:], crop, rng, share=self.share, aspect=self.aspect)

    def __call__(self, clip: Tensor, crop: int, rng: random.Random) -> Tensor:
        return F.resized_crop(clip, *self.box(clip, crop, rng), [crop, crop], antialias=True)


class TrainTransform:
    """Short-side jitter and random crop (or random-resized crop), horizontal flip, then `steps`.

    Every draw comes from the `rng` that is handed in, in a fixed order.

    Args:
        crop: pixels of the square crop.
        jitter: the short side is drawn between these two, ends included.
        flip: flip half of the clips. `flip_labels` maps the classes that turn into each other (left, right)
            when flipped.
        rule: of the place of the crop, see `random_crop_box`.
        jitter_rule: of the short side, see `draw_short_side`.
        resized_crop: in place of jitter and crop. The larger side of `jitter` is then only what a cache of
            frames keeps.
        steps: what is done to the pixels of the finished crop, in this order. They get a contiguous clip.
    """

    def __init__(
        self,
        crop: int,
        *,
        jitter: Sequence[int],
        flip: bool,
        flip_labels: Mapping[int, int] | None = None,
        rule: str = "centred",
        jitter_rule: str = "whole",
        resized_crop: ResizedCrop | None = None,
        steps: Sequence[Step] = (),
    ) -> None:
        self.crop, self.jitter, self.flip, self.rule = crop, tuple(jitter), flip, rule
        self.flip_labels = dict(flip_labels or {})
        self.jitter_rule, self.resized_crop, self.steps = jitter_rule, resized_crop, tuple(steps)

    @property
    def max_short_side(self) -> int:
        return self.jitter[1]

    def short_side(self, rng: random.Random) -> int:
        if self.resized_crop is not None:
            return self.resized_crop.short_side(self.crop, rng)
        return draw_short_side(*self.jitter, rng, rule=self.jitter_rule)

    def __call__(self, frames: np.ndarray, view: View, label: int, rng: random.Random) -> tuple[Tensor, int]:
        return self.placed(frames, view, label, rng)[:2]

    def placed(
        self, frames: np.ndarray, view: View, label: int, rng: random.Random
    ) -> tuple[Tensor, int, Tensor]:
        """The clip, its label, and where its picture lies in the frames, see transform.place."""
        clip = as_clip(frames)
        height, width = clip.shape[-2:]
        if self.resized_crop is not None:
            box = self.resized_crop.box(clip, self.crop, rng)
            clip = F.resized_crop(clip, *box, [self.crop, self.crop], antialias=True)
        else:
            corner = random_crop_box(height, width, self.crop, rng, rule=self.rule)
            box = (*corner, self.crop, self.crop)
            clip = F.crop(clip, *box)
        place = of_box(box, height=height, width=width)
        if self.flip and rng.random() < 0.5:
            clip, label = F.horizontal_flip(clip), self.flip_labels.get(label, label)
            place = after(place, mirrored())
        if self.steps:
            clip = clip.contiguous()
        for step in self.steps:
            if isinstance(step, RandAugment):  # the one that moves what it leaves
                clip, change = step.placed(clip, rng)
                place = after(place, change)
            else:
                clip = step(clip, rng)
        return clip, label, place


class EvalTransform:
    """The view's crop (left/top, centre or right/bottom) of frames whose short side is `short_side` (0: the
    crop).
    """

    def __init__(self, crop: int, *, short_side: int = 0) -> None:
        self.crop, self.max_short_side = crop, short_side or crop

    def short_side(self, rng: random.Random) -> int:
        return self.max_short_side

    def __call__(self, frames: np.ndarray, view: View, label: int, rng: random.Random) -> tuple[Tensor, int]:
        clip = as_clip(frames)
        top, left = crop_box(clip.shape[-2], clip.shape[-1], self.crop, view.crop)
        return F.crop(clip, top, left, self.crop, self.crop), label


def as_clip(frames: np.ndarray) -> Tensor:
    """(T, H, W, C) array to (T, C, H, W) tensor, without a copy."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2)


def resize_short_side(frames: np.ndarray, short_side: int) -> np.ndarray:
    """Antialiased bilinear resize of (T, H, W, C) frames; the long side is rounded down, as in decode."""
    height, width = frames.shape[1:3]
    if min(height, width) == short_side:
        return frames
    size = [side * short_side // min(height, width) for side in (height, width)]
    return F.resize(as_clip(frames), size, antialias=True).permute(0, 2, 3, 1).contiguous().numpy()


def normalise(
    clips: Tensor,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    channel_order: str = "rgb",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """uint8 (B, T, C, H, W) to (B, C, T, H, W) with (x / 255 - mean) / std per channel.

    `mean` and `std` are of R, G, B. With `channel_order` "bgr" the model gets the channels in that order; all
    that comes before (augmentation, pictures of clips) is RGB.
    """
    scale = torch.tensor([1 / (255 * s) for s in std], device=clips.device).view(-1, 1, 1)
    shift = torch.tensor([m / s for m, s in zip(mean, std, strict=True)], device=clips.device).view(-1, 1, 1)
    clips = (clips * scale - shift).to(dtype).transpose(1, 2)
    return clips.flip(1) if channel_order == "bgr" else clips
