"""One patch kernel for all lengths, the other half of the paper's comparison (arXiv:2307.02092, Table 3)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from revit_video.layers.patch_embed import (
    ConvPatchEmbed,
    patch_and_padding,
    patch_projection,
    project_patches,
    resample_kernel,
)
from revit_video.types import TokenGrid


class SharedPatchEmbed(nn.Module):
    """The kernel of the largest patch; smaller ones take its centre, as Once-for-All does (arXiv:1908.09791).

    At 224 px lengths 14, 10 and 7 take the middle 16, 24 and all 32 pixels a side. Where the difference is
    odd, the part before the centre is the smaller one. Patches and padding are those of `ConvPatchEmbed`.

    Shape: clips (B, C, T, H, W) and a level to tokens (B, t, S, D).
    """

    def __init__(
        self,
        dim: int,
        grids: tuple[TokenGrid, ...],
        crop: tuple[int, int],
        *,
        tubelet: int = 1,
        channels: int = 3,
        even: bool = True,
    ) -> None:
        super().__init__()
        rows = [patch_and_padding(crop[0], grid.height, even=even) for grid in grids]
        columns = [patch_and_padding(crop[1], grid.width, even=even) for grid in grids]
        self.patches = [(r[0], c[0]) for r, c in zip(rows, columns, strict=True)]
        self.paddings = [(*c[1:], *r[1:]) for r, c in zip(rows, columns, strict=True)]
        largest = (max(r for r, _ in self.patches), max(c for _, c in self.patches))
        self.proj = patch_projection(channels, dim, largest, tubelet=tubelet)

    def forward(self, clips: Tensor, level: int) -> Tensor:
        left, right, top, bottom = self.paddings[level]
        inside = (top, left) if (top, left) == (bottom, right) else (0, 0)
        if inside != (top, left):
            clips = F.pad(clips, self.paddings[level])
        return project_patches(self.kernel(level), self.proj.bias, clips, inside)

    def kernel(self, level: int) -> Tensor:
        """What a level uses of the kernel: (D, C, [z,] p, q)."""
        return centre(self.proj.weight, self.patches[level])

    @torch.no_grad()
    def grow_from(self, other: ConvPatchEmbed) -> None:
        """The longest length starts as the embedding of a model with that length alone; what it does not see
        of the kernel starts at zero, so that a larger patch has the token of its middle.
        """
        weight, size = self.proj.weight, self.patches[0]
        fitted = patch_projection(weight.shape[1], len(weight), size, tubelet=(*weight.shape[2:-2], 1)[0])
        resample_kernel(other.proj, fitted.to(weight))
        weight.zero_()
        centre(weight, size).copy_(fitted.weight)
        self.proj.bias.copy_(fitted.bias)


def centre(kernel: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle of the last two axes, as a view."""
    for axis, side in zip((-2, -1), size, strict=True):
        kernel = kernel.narrow(axis, (kernel.shape[axis] - side) // 2, side)
    return kernel
