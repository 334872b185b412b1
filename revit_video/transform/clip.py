"""Two pipelines, one for training and one for evaluation, built on torchvision's v2 functions.

Both turn decoded frames, uint8 (T, H, W, C), into a clip, uint8 (T, C, crop, crop). All frames of a clip
share one draw. Clips stay uint8 until they are on the device (`normalise`), which moves a quarter of the
bytes.
"""

import random
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from revit_video.sample.spatial import crop_box, random_crop_box
from revit_video.types import View


class TrainTransform:
    """Short-side jitter, random crop, horizontal flip.

    Args:
        crop: pixels of the square crop.
        jitter: the short side is drawn between these two, ends included.
        flip: flip half of the clips. `flip_labels` maps the classes that turn into each other (left, right)
            when flipped.
        rule: of the place of the crop, see `random_crop_box`.
    """

    def __init__(
        self,
        crop: int,
        *,
        jitter: Sequence[int],
        flip: bool,
        flip_labels: Mapping[int, int] | None = None,
        rule: str = "centred",
    ) -> None:
        self.crop, self.jitter, self.flip, self.rule = crop, tuple(jitter), flip, rule
        self.flip_labels = dict(flip_labels or {})

    @property
    def max_short_side(self) -> int:
        return self.jitter[1]

    def short_side(self, rng: random.Random) -> int:
        return rng.randint(*self.jitter)

    def __call__(self, frames: np.ndarray, view: View, label: int, rng: random.Random) -> tuple[Tensor, int]:
        clip = as_clip(frames)
        top, left = random_crop_box(clip.shape[-2], clip.shape[-1], self.crop, rng, rule=self.rule)
        clip = F.crop(clip, top, left, self.crop, self.crop)
        if self.flip and rng.random() < 0.5:
            clip, label = F.horizontal_flip(clip), self.flip_labels.get(label, label)
        return clip, label


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
