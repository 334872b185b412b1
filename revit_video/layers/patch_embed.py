"""Frames to patch tokens. One embedding per token length: sharing its kernel costs 14 points (the paper's
Table 3).
"""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from revit_video.types import InputError, TokenGrid


def patch_and_padding(crop: int, tokens: int) -> tuple[int, int, int]:
    """Kernel (= stride) and the padding before and after that give exactly `tokens` patches along `crop`
    pixels.

    224 px:  14 -> (16, 0, 0)   10 -> (24, 8, 8)   7 -> (32, 0, 0)

    The smallest patch that covers the crop; of an even crop the smallest even one, as the paper's 24 (not 23)
    px.
    """
    smallest = math.ceil(crop / tokens)
    for patch in (smallest + (smallest % 2 if crop % 2 == 0 else 0), smallest):
        padding = patch * tokens - crop
        before, after = padding // 2, padding - padding // 2
        if after < patch:  # else the last patch would hold nothing of the picture
            return patch, before, after
    raise InputError(
        f"a crop of {crop} px cannot be split into {tokens} patches; use fewer tokens or a larger crop"
    )


class ConvPatchEmbed(nn.Module):
    """A linear map of non-overlapping patches, zero-padded at the border where the crop is no multiple of
    them.

    Shape: frames (M, C, H, W) to tokens (M, h*w, D), row by row.
    """

    def __init__(self, dim: int, grid: TokenGrid, crop: tuple[int, int], *, channels: int = 3) -> None:
        super().__init__()
        rows, top, bottom = patch_and_padding(crop[0], grid.height)
        columns, left, right = patch_and_padding(crop[1], grid.width)
        self.symmetric = (top, left) == (bottom, right)
        self.padding = (left, right, top, bottom)
        patch = (rows, columns)
        self.proj = nn.Conv2d(
            channels, dim, patch, stride=patch, padding=(top, left) if self.symmetric else 0
        )

    def forward(self, frames: Tensor) -> Tensor:
        if not self.symmetric:
            frames = F.pad(frames, self.padding)
        return self.proj(frames).flatten(2).transpose(1, 2)


class ResizePatchEmbed(nn.Module):
    """The frame is made smaller so that one patch size fits every length: the cheapest input path.

    Shape: frames (M, C, H, W) to tokens (M, h*w, D), row by row.
    """

    def __init__(self, dim: int, grid: TokenGrid, patch: tuple[int, int], *, channels: int = 3) -> None:
        super().__init__()
        self.size = (patch[0] * grid.height, patch[1] * grid.width)
        self.proj = nn.Conv2d(channels, dim, patch, stride=patch)

    def forward(self, frames: Tensor) -> Tensor:
        if frames.shape[-2:] != self.size:
            frames = F.interpolate(
                frames, size=self.size, mode="bilinear", antialias=True, align_corners=False
            )
        return self.proj(frames).flatten(2).transpose(1, 2)


def build_patch_embed(
    kind: str, dim: int, grid: TokenGrid, *, crop: tuple[int, int], longest: TokenGrid
) -> nn.Module:
    """`kind`: conv or resize. `longest` is the grid whose patch size `resize` uses for every length."""
    if kind == "conv":
        return ConvPatchEmbed(dim, grid, crop)
    if kind == "resize":
        patch = (crop[0] // longest.height, crop[1] // longest.width)
        return ResizePatchEmbed(dim, grid, patch)
    raise InputError(f"patch_embed is {kind!r}, but must be one of: conv, resize")
