"""Position tables: learned, started from small noise or from sines, and resized when a grid grows."""

import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from revit_video.types import TokenGrid

SHARINGS = ("separate", "shared", "shared_bicubic")


class PositionTables(nn.ParameterList):
    """The position tables of all levels, (1 + planes * h * w, D) each; row 0 is the class token's.

    Args:
        grids: of the levels, longest first.
        planes: of a table over space and time, the planes of tokens; 1: a table over space.
        sharing: how many tables there are (arXiv:2307.02092, Table 3).
            separate: one for every level.
            shared: one, of the shortest length's grid; it is the middle of a longer one's, zeros around it.
            shared_bicubic: one, of the longest length's grid, resized in every forward pass.
        trained: the tables learn.
    """

    def __init__(
        self,
        grids: tuple[TokenGrid, ...],
        dim: int,
        *,
        planes: int = 1,
        sharing: str = "separate",
        trained: bool = True,
    ) -> None:
        own = {"separate": grids, "shared": grids[-1:], "shared_bicubic": grids[:1]}[sharing]
        sizes = [1 + planes * grid.per_frame for grid in own]
        super().__init__(nn.Parameter(torch.zeros(size, dim), requires_grad=trained) for size in sizes)
        self.grids, self.sharing = own, sharing  # of each table

    def index(self, level: int) -> int:
        """Which of the tables a level reads."""
        return level if self.sharing == "separate" else 0

    def table(self, grid: TokenGrid) -> Tensor:
        """What the tokens of a level's grid get added: (1 + planes * h * w, D)."""
        own, table = self.grids[self.index(grid.level)], self[self.index(grid.level)]
        if (own.height, own.width) == (grid.height, grid.width):
            return table
        return (pad_grid_table if self.sharing == "shared" else resize_grid_table)(table, own, grid)

    @torch.no_grad()
    def grow(self, source: int) -> None:
        """Every level's own table starts from that of the level `source`, resized."""
        if self.sharing == "separate":
            for table, grid in zip(self, self.grids, strict=True):
                if grid.level != source:
                    table.copy_(resize_grid_table(self[source], self.grids[source], grid))


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


def pad_grid_table(table: Tensor, source: TokenGrid, target: TokenGrid) -> Tensor:
    """A (1 + t*h*w, D) table in the middle of a larger grid's, frame by frame; zeros around it.

    Where the difference is odd, there is one row or column more after the table than before it.
    """
    frames = table[1:].unflatten(0, (-1, source.height, source.width))  # (t, h, w, D)
    rows, columns = target.height - source.height, target.width - source.width
    border = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
    return torch.cat([table[:1], F.pad(frames, (0, 0, *border)).flatten(0, 2)])
