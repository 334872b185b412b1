"""Networks that are handed clips as they were decoded, uint8 (M, T, C, H, W) on the host, and take of them
what they need: the assigner its frames, a backbone of `patch_embed=resize` the pixels of the length it runs.

What they do not need is neither moved to the device nor normalised, and eight-bit pixels are resized in a
third of the time of floating-point ones (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from revit_video.backbones.core import ReViT
from revit_video.layers.patch_embed import ResizePatchEmbed
from revit_video.routing.assigner import Assigner, looked_at

ToClips = Callable[[Tensor], Tensor]  # uint8 (M, T, C, H, W) to normalised (M, C, T, H, W) on the device


def resizes_frames(backbone: nn.Module) -> bool:
    """Whether every length of a backbone has pixels of its own."""
    return isinstance(backbone, ReViT) and isinstance(backbone.patch_embeds[0], ResizePatchEmbed)


def resized(clips: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 (M, T, C, H, W) at another size, antialiased, in eight bits: within 1 of 255 of what
    `ResizePatchEmbed` computes of the same pixels.
    """
    if clips.shape[-2:] == size:
        return clips
    frames = clips.flatten(0, 1)
    smaller = F.interpolate(frames, size=size, mode="bilinear", antialias=True, align_corners=False)
    return smaller.unflatten(0, clips.shape[:2])


class BackboneFromPixels(nn.Module):
    """A backbone with frames of its own size for every length: uint8 (M, T, C, H, W) to logits (M, K)."""

    def __init__(self, backbone: ReViT, to_clips: ToClips) -> None:
        super().__init__()
        self.backbone, self.to_clips = backbone, to_clips
        self.num_classes, self.num_frames = backbone.num_classes, backbone.num_frames
        self.token_lengths, self.num_levels = backbone.token_lengths, backbone.num_levels

    def level_of(self, token_length: int) -> int:
        return self.backbone.level_of(token_length)

    def forward(self, clips: Tensor, level: int = 0) -> Tensor:
        size = self.backbone.patch_embeds[level].size
        return self.backbone(self.to_clips(resized(clips, size)), level)


class AssignerFromPixels(nn.Module):
    """An assigner that moves the frames it looks at alone: uint8 (M, T, C, H, W) to logits (M, L)."""

    def __init__(self, assigner: Assigner, to_clips: ToClips) -> None:
        super().__init__()
        self.assigner, self.to_clips = assigner, to_clips

    def forward(self, clips: Tensor) -> Tensor:
        seen = looked_at(clips.shape[1], self.assigner.frames)
        return self.assigner(self.to_clips(clips[:, list(seen)]))
