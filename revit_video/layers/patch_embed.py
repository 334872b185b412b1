"""Clips to patch tokens. One embedding per token length: a shared kernel costs 14 points (Table 3).

Shape of every embedding: clips (B, C, T, H, W) to tokens (B, t, S, D), the patches of a frame row by row;
`tubelet` frames make one plane of tokens, t = T / tubelet.
"""

import math

import torch
import torch.nn.functional as F
from timm.layers import resample_patch_embed
from torch import Tensor, nn

from revit_video.types import InputError, TokenGrid


def patch_and_padding(crop: int, tokens: int, *, even: bool = True) -> tuple[int, int, int]:
    """Kernel (= stride) and the padding before and after that give exactly `tokens` patches along `crop`
    pixels.

    224 px:  14 -> (16, 0, 0)   10 -> (24, 8, 8)   7 -> (32, 0, 0)

    The smallest patch that covers the crop; of an even crop the smallest even one, as the paper's 24 (not 23)
    px. `even=False`: the smallest in any case, as DVT's (arXiv:2105.15075) 23 px with a padding of 3.
    """
    smallest = math.ceil(crop / tokens)
    for patch in (smallest + (smallest % 2 if even and crop % 2 == 0 else 0), smallest):
        padding = patch * tokens - crop
        before, after = padding // 2, padding - padding // 2
        if after < patch:  # else the last patch would hold nothing of the picture
            return patch, before, after
    raise InputError(
        f"a crop of {crop} px cannot be split into {tokens} patches; use fewer tokens or a larger crop"
    )


@torch.no_grad()
def resample_kernel(source: nn.Module, target: nn.Module) -> None:
    """Copy the bias and fit the kernel (D, C, [z,] p, q) of a patch projection to the size of another one, so
    that an enlarged patch gives the same token (FlexiViT's pseudo-inverse, arXiv:2212.08013, through timm).
    """
    kernel, size = source.weight, list(target.weight.shape[-2:])
    if kernel.ndim == 5:  # a tubelet: slice by slice
        slices = [resample_patch_embed(part, size) for part in kernel.unbind(2)]
        target.weight.copy_(torch.stack(slices, dim=2))
    else:
        target.weight.copy_(resample_patch_embed(kernel, size))
    target.bias.copy_(source.bias)


def project_patches(weight: Tensor, bias: Tensor, clips: Tensor, padding: tuple[int, int] = (0, 0)) -> Tensor:
    """The kernel (D, C, [z,] p, q) at every patch, or every tubelet of z frames, as tokens (B, t, S, D)."""
    if learns_in_bfloat16_on_a_cpu(clips):
        return product_of_patches(weight, bias, clips, padding)
    if weight.ndim == 5:
        maps = F.conv3d(clips, weight, bias, stride=weight.shape[2:], padding=(0, *padding))
        return maps.flatten(3).permute(0, 2, 3, 1)
    frames = clips.transpose(1, 2)  # (B, T, C, H, W)
    maps = F.conv2d(frames.flatten(0, 1), weight, bias, stride=weight.shape[2:], padding=padding)
    return maps.flatten(2).transpose(1, 2).unflatten(0, frames.shape[:2])


def learns_in_bfloat16_on_a_cpu(clips: Tensor) -> bool:
    """There the gradient of a kernel as large as a patch takes up to thirty times as long as that of the same
    matrix (docs/performance.md).
    """
    if clips.device.type != "cpu" or not torch.is_grad_enabled():
        return False
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else clips.dtype
    return dtype == torch.bfloat16


def product_of_patches(
    weight: Tensor, bias: Tensor, clips: Tensor, padding: tuple[int, int] = (0, 0)
) -> Tensor:
    """`project_patches` as one matrix product: the stride of the kernel is its size."""
    *depth, rows, columns = weight.shape[2:]
    frames = depth[0] if depth else 1
    top, left = padding
    x = F.pad(clips, (left, left, top, top))  # (B, C, T, H, W)
    x = x[..., : x.shape[-2] // rows * rows, : x.shape[-1] // columns * columns]
    x = x.unflatten(4, (-1, columns)).unflatten(3, (-1, rows)).unflatten(2, (-1, frames))
    patches = (
        x.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(2, 3)
    )  # (B, t, S, C * frames * rows * columns)
    return F.linear(patches, weight.flatten(1), bias)


class ConvPatchEmbed(nn.Module):
    """A linear map of non-overlapping patches, zero-padded at the border where the crop is no multiple of
    them. `even`: see `patch_and_padding`.
    """

    def __init__(
        self,
        dim: int,
        grid: TokenGrid,
        crop: tuple[int, int],
        *,
        tubelet: int = 1,
        channels: int = 3,
        even: bool = True,
    ) -> None:
        super().__init__()
        rows, top, bottom = patch_and_padding(crop[0], grid.height, even=even)
        columns, left, right = patch_and_padding(crop[1], grid.width, even=even)
        self.symmetric = (top, left) == (bottom, right)
        self.padding = (left, right, top, bottom)
        inside = (top, left) if self.symmetric else (0, 0)
        self.proj = patch_projection(channels, dim, (rows, columns), tubelet=tubelet, padding=inside)

    def forward(self, clips: Tensor) -> Tensor:
        if not self.symmetric:
            clips = F.pad(clips, self.padding)
        return project_patches(self.proj.weight, self.proj.bias, clips, self.proj.padding[-2:])

    def grow_from(self, other: "ConvPatchEmbed") -> None:
        resample_kernel(other.proj, self.proj)


class ResizePatchEmbed(nn.Module):
    """The frame is made smaller so that one patch size fits every length: the cheapest input path."""

    def __init__(
        self, dim: int, grid: TokenGrid, *, patch: tuple[int, int], tubelet: int = 1, channels: int = 3
    ) -> None:
        super().__init__()
        self.size = (patch[0] * grid.height, patch[1] * grid.width)
        self.proj = patch_projection(channels, dim, patch, tubelet=tubelet)

    def forward(self, clips: Tensor) -> Tensor:
        return project_patches(self.proj.weight, self.proj.bias, self.resize(clips))

    def resize(self, clips: Tensor) -> Tensor:
        """Clips (B, C, T, H, W) in the size of this length; such as have it already are left alone."""
        if clips.shape[-2:] == self.size:
            return clips
        frames = clips.transpose(1, 2)
        pixels = frames.flatten(0, 1).to(torch.promote_types(clips.dtype, torch.float32))
        # in float32 at least: torch has no antialiased resize of bfloat16 on a CPU
        small = F.interpolate(pixels, size=self.size, mode="bilinear", antialias=True, align_corners=False)
        return small.to(clips.dtype).unflatten(0, frames.shape[:2]).transpose(1, 2)

    def grow_from(self, other: "ResizePatchEmbed") -> None:
        resample_kernel(other.proj, self.proj)


def patch_projection(
    channels: int,
    dim: int,
    patch: tuple[int, int],
    *,
    tubelet: int = 1,
    padding: tuple[int, int] = (0, 0),
) -> nn.Conv2d | nn.Conv3d:
    """The convolution whose kernel is its stride: of one frame, or of `tubelet` frames."""
    if tubelet == 1:
        return nn.Conv2d(channels, dim, patch, stride=patch, padding=padding)
    kernel = (tubelet, *patch)
    return nn.Conv3d(channels, dim, kernel, stride=kernel, padding=(0, *padding))
