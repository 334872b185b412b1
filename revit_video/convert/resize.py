"""Tables and kernels of one geometry for another one.

`resize` names the rule of the position tables, and with it that of the time table:

bicubic        rows and columns by bicubic interpolation, as official Motionformer and DeiT; time linear
nearest        rows and columns by nearest neighbour, time too: the official TimeSformer's forward pass
flat_nearest   nearest neighbour along the list of all patches: the official TimeSformer's `load_pretrained`.
               It mixes up rows as soon as the width changes; here only to repeat old results
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from revit_video.layers.positions import resize_grid_table
from revit_video.types import InputError, TokenGrid

RESIZES = ("bicubic", "nearest", "flat_nearest")


def check_resize(resize: str) -> None:
    if resize not in RESIZES:
        raise InputError(f"resize is {resize!r}, but must be one of: {', '.join(RESIZES)}")


def nearest_index(old: int, new: int) -> Tensor:
    """floor(i * old / new): the place each new entry is read from."""
    return torch.arange(new) * old // new


def resize_positions(table: Tensor, source: TokenGrid, target: TokenGrid, *, resize: str) -> Tensor:
    """A table (1 + h*w, D) for another grid; row 0, the class token's, stays as it is.

    Level 0 gets the official rule. Shorter levels of a ReViT get under `bicubic` what `ReViT.grow` gives
    them, which is antialiased, as they shrink.
    """
    if (source.height, source.width) == (target.height, target.width):
        return table
    rows = table[1:].to(torch.promote_types(table.dtype, torch.float32))
    if resize == "flat_nearest":
        return torch.cat([table[:1], table[1:][nearest_index(source.per_frame, target.per_frame)]])
    if resize == "nearest":
        if source.per_frame == target.per_frame:
            return table  # the official model compares the number of patches only
        picture = table[1:].unflatten(0, (source.height, source.width))
        picture = picture[nearest_index(source.height, target.height)]
        return torch.cat([table[:1], picture[:, nearest_index(source.width, target.width)].flatten(0, 1)])
    if target.level > 0:
        return resize_grid_table(table, source, target)
    picture = rows.T.unflatten(1, (source.height, source.width))[None]  # (1, D, h, w)
    size = (target.height, target.width)
    picture = F.interpolate(picture, size=size, mode="bicubic", align_corners=False)
    return torch.cat([table[:1], picture[0].flatten(1).T.to(table.dtype)])


def resize_time(table: Tensor, frames: int, *, resize: str) -> Tensor:
    """A table (t, ...) for another number of frames; every axis but the first stays."""
    if len(table) == frames:
        return table
    if resize != "bicubic":
        return table[nearest_index(len(table), frames)]
    line = table.flatten(1).T[None].to(torch.promote_types(table.dtype, torch.float32))
    line = F.interpolate(line, size=frames, mode="linear", align_corners=False)
    return line[0].T.reshape(frames, *table.shape[1:]).to(table.dtype)


def resize_joint(table: Tensor, source: TokenGrid, target: TokenGrid, *, resize: str) -> Tensor:
    """A table over space and time (1 + t*h*w, D): frame by frame in space, then in time."""
    frames = [
        resize_positions(torch.cat([table[:1], frame]), source, target, resize=resize)[1:]
        for frame in table[1:].split(source.per_frame)
    ]
    return torch.cat(
        [table[:1], resize_time(torch.stack(frames), target.frames, resize=resize).flatten(0, 1)]
    )


def inflate_kernel(kernel: Tensor, frames: int) -> Tensor:
    """A patch kernel (D, C, p, q) as one over `frames` frames that reads the middle one alone (Motionformer):
    (D, C, frames, p, q).
    """
    deep = kernel.new_zeros(*kernel.shape[:2], frames, *kernel.shape[2:])
    deep[:, :, frames // 2] = kernel
    return deep
