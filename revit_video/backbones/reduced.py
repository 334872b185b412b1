"""A backbone's blocks with a token reducer (layers/reduce.py) between attention and MLP."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from revit_video.layers.reduce import TUBES, Reduction, TokenState, reduced_units
from revit_video.types import InputError, TokenGrid

if TYPE_CHECKING:
    from revit_video.backbones.core import ReViT


def check_reducer(model: ReViT, reducer: Reduction) -> None:
    """Raises InputError where the model's tokens cannot be reduced so, at any of its lengths."""
    if not hasattr(reducer, "per_block"):
        raise InputError(
            f"reducer is {reducer!r}, but a backbone takes an object, such as competitors.evit.EViT(); "
            "names are known to competitors.zoo.create_model"
        )
    in_frame = reduced_units(model.blocks, reducer) == TUBES or model.frames_apart
    if model.frames_apart and model.aux_head is not None:
        raise InputError("frames that are kept apart lose other patches each, so aux_head cannot read them")
    for grid in model.grids:
        distilled = model.distill_tokens is not None and grid.level >= model.first_distilled
        units = grid.per_frame if in_frame else grid.frames * grid.per_frame
        reducer.check(units, depth=len(model.blocks), prefix=1 + distilled)


def through_fewer(
    model: ReViT,
    x: Tensor,
    grid: TokenGrid,
    prefix: int,
    reducer: Reduction,
    *,
    with_looks: bool = False,
    recompute: bool = False,
) -> tuple[Tensor, TokenState]:
    """The embedded tokens after all blocks, reduced on the way, and what those that are left stand for. The
    last two arguments are those of `ReViT.forward`.
    """
    if with_looks:
        raise InputError(
            "attention transfer compares where the class token looks on whole grids, which a token reducer "
            "does not leave; set revit.attention_transfer=0"
        )
    if reducer is not model.reducer:
        check_reducer(model, reducer)
    planes = grid.frames if model.blocks[0].reduces == TUBES else 1
    kept = TokenState.start(x, prefix=prefix, planes=planes)
    for block, step in zip(model.blocks, reducer.per_block(len(model.blocks)), strict=True):
        # A choice among tokens that the last MLP does not see would be for nothing.
        step = None if block.prefix_only else step
        last = block is model.blocks[-1]
        run = partial(checkpoint, block, use_reentrant=False) if recompute and not last else block
        x, kept = run(x, grid, prefix=prefix, kept=kept, reducer=step)
    return x, kept
