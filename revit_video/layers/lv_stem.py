"""LV-ViT's patch embedding "4_2" (arXiv:2104.10858): three convolutions at half resolution, then patches.

    conv1 7x7 stride 2, bn1, ReLU -> conv2 3x3, bn2, ReLU -> conv3 3x3, bn3, ReLU -> proj to D

The parameters carry the official names: theirs `patch_embed.NAME` is `patch_embeds.LEVEL.NAME` of a ReViT,
with NAME conv{1,2,3}.weight, bn{1,2,3}.{weight,bias,running_mean,running_var,num_batches_tracked} and
proj.{weight,bias}. Facts from the paper and official outputs; own code.
"""

from collections.abc import Callable
from contextlib import suppress

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from revit_video.layers.patch_embed import ConvPatchEmbed, patch_and_padding
from revit_video.types import InputError, TokenGrid


class LVStem(ConvPatchEmbed):
    """The stem of one level, BatchNorms included: their running statistics at a level are of what `proj` of
    that level trained, so a BatchNorm that several levels shared would fit none of them in evaluation.

    `proj` splits the half resolution map as `patch_and_padding` does a crop, so that every level has its grid
    exactly; at 224 px: 14 -> kernel 8, padding 0; 10 -> kernel 12, padding 4; 7 -> kernel 16, padding 0.

    Args:
        width: channels of the convolutions; 64, and 128 in LV-ViT-L.

    Shape: clips (B, C, T, H, W) to tokens (B, T, S, D).

    Raises:
        InputError: the half resolution map cannot be split into the grid.
    """

    def __init__(
        self, dim: int, grid: TokenGrid, crop: tuple[int, int], *, width: int = 64, channels: int = 3
    ) -> None:
        for pixels, tokens in zip(crop, (grid.height, grid.width), strict=True):
            split_side(half_split, pixels, tokens, stem="LV-ViT")
        half = tuple((pixels + 1) // 2 for pixels in crop)
        super().__init__(dim, grid, half, channels=width)
        self.conv1 = nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.conv3 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1, self.bn2, self.bn3 = (nn.BatchNorm2d(width) for _ in range(3))

    def forward(self, clips: Tensor) -> Tensor:
        frames = clips.transpose(1, 2)  # (B, T, C, H, W)
        maps = frames.flatten(0, 1)
        for conv, bn in self._stages():
            maps = F.relu(bn(conv(maps)), inplace=True)  # (B*T, width, H/2, W/2)
        return super().forward(maps.unflatten(0, frames.shape[:2]).transpose(1, 2))

    @torch.no_grad()
    def grow_from(self, other: "LVStem") -> None:
        """Convolutions and BatchNorms (with their statistics) copied, `proj` resampled to its own kernel."""
        super().grow_from(other)
        for ours, theirs in zip(self._stages(), other._stages(), strict=True):
            for module, source in zip(ours, theirs, strict=True):
                module.load_state_dict(source.state_dict())

    def _stages(self) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
        return [(self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)]


def half_split(crop: int, tokens: int) -> tuple[int, int, int]:
    """`patch_and_padding` of the half resolution map of `crop` pixels."""
    return patch_and_padding((crop + 1) // 2, tokens)


def split_side(
    split: Callable[[int, int], tuple[int, ...]], crop: int, tokens: int, *, stem: str
) -> tuple[int, ...]:
    """`split(crop, tokens)`; where that refuses, an InputError that names what the crop allows."""
    possible = []
    for n in range(1, crop // 4 + 2):
        with suppress(InputError):
            split(crop, n)
            possible.append(n)
    if tokens not in possible:
        raise InputError(
            f"the stem of {stem} cannot make {tokens} tokens of {crop} px; it can make "
            f"{', '.join(map(str, possible)) or 'none'}; choose one of these, or another crop"
        )
    return split(crop, tokens)
