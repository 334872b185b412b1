"""What convolutional stems have in common: convolutions with BatchNorm and ReLU, then patches of the map."""

from collections.abc import Callable
from contextlib import suppress

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from revit_video.layers.patch_embed import ConvPatchEmbed
from revit_video.types import InputError


class StagedStem(ConvPatchEmbed):
    """The stem of one level, BatchNorms included: their running statistics at a level are of what `proj` of
    that level trained, so a BatchNorm that several levels shared would fit none of them in evaluation.

    A subclass says what its stages are; `proj` cuts the map of the last one into the grid.

    Shape: clips (B, C, T, H, W) to tokens (B, T, S, D).
    """

    def stages(self) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
        """The convolutions from the picture on, each with the norm after it."""
        raise NotImplementedError

    def forward(self, clips: Tensor) -> Tensor:
        frames = clips.transpose(1, 2)  # (B, T, C, H, W)
        maps = frames.flatten(0, 1)
        for conv, bn in self.stages():
            maps = F.relu(bn(conv(maps)), inplace=True)  # (B*T, width, h, w)
        return super().forward(maps.unflatten(0, frames.shape[:2]).transpose(1, 2))

    @torch.no_grad()
    def grow_from(self, other: "StagedStem") -> None:
        """Convolutions and BatchNorms (with their statistics) copied, `proj` resampled to its own kernel."""
        super().grow_from(other)
        for ours, theirs in zip(self.stages(), other.stages(), strict=True):
            for module, source in zip(ours, theirs, strict=True):
                module.load_state_dict(source.state_dict())


def split_side(
    split: Callable[[int, int], tuple[int, ...]], crop: int, tokens: int, *, stem: str, remedy: str = ""
) -> tuple[int, ...]:
    """`split(crop, tokens)`; where that refuses, an InputError that names what the crop allows, and may name
    another `remedy`.
    """
    possible = []
    for n in range(1, crop // 4 + 2):
        with suppress(InputError):
            split(crop, n)
            possible.append(n)
    if tokens not in possible:
        raise InputError(
            f"the stem of {stem} cannot make {tokens} tokens of {crop} px; it can make "
            f"{', '.join(map(str, possible)) or 'none'}; choose one of these, or another crop{remedy}"
        )
    return split(crop, tokens)
