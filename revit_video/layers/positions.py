"""Position tables: learned, started from small noise or from sines, and resized when a grid grows."""

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from revit_video.types import TokenGrid


def sine_table(positions: Tensor, dim: int) -> Tensor:
    """Sines and cosines of falling frequency: positions (N,) to (N, dim); dim is even."""
    frequencies = torch.exp(torch.arange(0, dim, 2) * (-torch.log(torch.tensor(10000.0)) / dim))  # (dim/2,)
    angles = positions[:, None].float() * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


def sine_grid(grid: TokenGrid, dim: int, *, unit: float = 14.0) -> Tensor:
    """Half of the channels tell the row, half the column: (h*w, dim). Coordinates run over `unit` at every
    length,
    so that the same place in the picture has the same code whatever the grid."""
    half = dim // 4 * 2
    y = (torch.arange(grid.height) + 0.5) * (unit / grid.height)
    x = (torch.arange(grid.width) + 0.5) * (unit / grid.width)
    rows = sine_table(y, half)[:, None].expand(-1, grid.width, -1)
    columns = sine_table(x, dim - half)[None].expand(grid.height, -1, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)


def sine_sequence(length: int, dim: int) -> Tensor:
    """T2T-ViT's fixed table (arXiv:2101.11986): the code of the token's number, the class token first."""
    return sine_table(torch.arange(length), dim)


def resize_grid_table(table: Tensor, source: TokenGrid, target: TokenGrid, *, prefix: int = 1) -> Tensor:
    """Bicubic resize of a (prefix + h*w, D) table to another grid; the prefix rows stay.

    A table over space and time, (prefix + t*h*w, D), is resized frame by frame.
    """
    if len(table) - prefix == source.per_frame:
        frames = [table]
    else:
        frames = [torch.cat([table[:prefix], frame]) for frame in table[prefix:].split(source.per_frame)]
    size, old = (target.height, target.width), (source.height, source.width)
    tables = [resample_abs_pos_embed(frame[None], size, old, num_prefix_tokens=prefix)[0] for frame in frames]
    return torch.cat([table[:prefix], *(resized[prefix:] for resized in tables)])
