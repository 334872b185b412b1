"""Early convolutions in place of large patches (Xiao et al., arXiv:2106.14881), a stem for every length.

    at every stage 3x3 stride 2, BatchNorm, ReLU, its width doubled -> proj to D, which sets the grid

Their stem ends in another stage of stride 2 and a 1x1 convolution, which makes 14x14 tokens of 224 px and no
other grid. Here the last stage is a linear map of patches of the /8 map, so that every length has its own.
"""

from collections.abc import Sequence
from functools import partial

from torch import nn

from revit_video.layers.patch_embed import patch_and_padding
from revit_video.layers.staged_stem import StagedStem, split_side
from revit_video.types import InputError, TokenGrid


class ConvStem(StagedStem):
    """At 224 px `proj` cuts the 28x28 map so: 14 -> kernel 2; 10 -> kernel 3, padding 1; 7 -> kernel 4.

    Args:
        widths: channels of the stages, each of which halves the picture; None: an eighth, a quarter and half
            of `dim`, as in the paper (48, 96, 192 at 384).

    Raises:
        InputError: the map of the last stage cannot be split into the grid, or a width is no channel.
    """

    def __init__(
        self,
        dim: int,
        grid: TokenGrid,
        crop: tuple[int, int],
        *,
        widths: Sequence[int] | None = None,
        channels: int = 3,
    ) -> None:
        widths = [dim // 8, dim // 4, dim // 2] if widths is None else list(widths)
        if not widths or min(widths) < 1:
            raise InputError(
                f"widths of the conv_stem are {widths}, but must be one or more numbers of at least 1, such "
                "as [48, 96, 192]"
            )
        split = partial(map_split, stages=len(widths))
        remedy = f", or other widths than {widths}: each stage halves the picture"
        for pixels, tokens in zip(crop, (grid.height, grid.width), strict=True):
            split_side(split, pixels, tokens, stem="early convolutions", remedy=remedy)
        last = tuple(map_side(pixels, stages=len(widths)) for pixels in crop)
        super().__init__(dim, grid, last, channels=widths[-1], even=False)
        inputs = [channels, *widths[:-1]]
        self.convs = nn.ModuleList(
            nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False)
            for before, width in zip(inputs, widths, strict=True)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)

    def stages(self) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
        return list(zip(self.convs, self.norms, strict=True))


def map_side(pixels: int, *, stages: int) -> int:
    """The side of the map after so many stages of stride 2."""
    for _ in range(stages):
        pixels = (pixels + 1) // 2
    return pixels


def map_split(crop: int, tokens: int, *, stages: int) -> tuple[int, int, int]:
    """The smallest patches of the last stage's map that make `tokens` of them, and their padding."""
    return patch_and_padding(map_side(crop, stages=stages), tokens, even=False)
