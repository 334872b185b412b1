"""LV-ViT's patch embedding "4_2" (arXiv:2104.10858): three convolutions at half resolution, then patches.

    conv1 7x7 stride 2, bn1, ReLU -> conv2 3x3, bn2, ReLU -> conv3 3x3, bn3, ReLU -> proj to D

The parameters carry the official names: theirs `patch_embed.NAME` is `patch_embeds.LEVEL.NAME` of a ReViT,
with NAME conv{1,2,3}.weight, bn{1,2,3}.{weight,bias,running_mean,running_var,num_batches_tracked} and
proj.{weight,bias}. Facts from the paper and official outputs; own code.
"""

from torch import nn

from revit_video.layers.patch_embed import patch_and_padding
from revit_video.layers.staged_stem import StagedStem, split_side
from revit_video.types import TokenGrid


class LVStem(StagedStem):
    """`proj` splits the half resolution map as `patch_and_padding` does a crop, so that every level has its
    grid exactly; at 224 px: 14 -> kernel 8, padding 0; 10 -> kernel 12, padding 4; 7 -> kernel 16, padding 0.

    Args:
        width: channels of the convolutions; 64, and 128 in LV-ViT-L.

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

    def stages(self) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
        return [(self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)]


def half_split(crop: int, tokens: int) -> tuple[int, int, int]:
    """`patch_and_padding` of the half resolution map of `crop` pixels."""
    return patch_and_padding((crop + 1) // 2, tokens)
