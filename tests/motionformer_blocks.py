"""Motionformer's blocks at a small size, and the equations they are compared with (benchmarks/plain.py)."""

import sys
from pathlib import Path

import torch
from conftest import randomize
from torch import Tensor, nn

from revit_video.layers.block import Trunk
from revit_video.layers.mf_divided import MotionformerDividedBlock
from revit_video.types import TokenGrid

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from plain import add_dead_weights, motionformer_divided_block, trajectory_block

GRIDS = [TokenGrid(3, 2, 4, level=1), TokenGrid(2, 3, 3, level=1), TokenGrid(1, 5, 2, level=1)]
EXACT = {"rtol": 1e-9, "atol": 1e-9}


def build(kind: type, *, dim: int = 24, heads: int = 3, prefix_only: bool = False, **options) -> nn.Module:
    """A block of two levels in float64, all of it random."""
    block = kind(Trunk(dim, heads, 2), drop_path_rate=0.1, prefix_only=prefix_only, **options)
    return randomize(block.double(), seed=0).eval()


def draw(grid: TokenGrid, prefix: int, *, batch: int = 2, dim: int = 24) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (batch, prefix + grid.frames * grid.per_frame, dim)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def plain(block: nn.Module, x: Tensor, grid: TokenGrid, prefix: int) -> Tensor:
    """What the equations make of the block's weights, which stay the leaves of the gradients."""
    state = {f"blocks.0.{name}": leaf for name, leaf in block.named_parameters()}
    shape = {"level": grid.level, "heads": block.attn.heads, "frames": grid.frames, "prefix": prefix}
    if isinstance(block, MotionformerDividedBlock):
        return motionformer_divided_block(x, state, "blocks.0", **shape)
    add_dead_weights(state)
    return trajectory_block(x, state, "blocks.0", **shape)
