"""Weights of this project for other token lengths, frames or pixels: what was trained at one length alone
goes on as a ReViT, and a ReViT as one of its lengths.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from revit_video.backbones.core import ReViT
from revit_video.convert.resize import resize_time
from revit_video.layers.length_norm import LengthNorm
from revit_video.layers.patch_embed import ConvPatchEmbed, ResizePatchEmbed, patch_projection
from revit_video.layers.positions import resize_grid_table
from revit_video.layers.shared_patch import SharedPatchEmbed
from revit_video.types import InputError, TokenGrid

ONE_KERNEL = (ConvPatchEmbed, ResizePatchEmbed, SharedPatchEmbed)
BY_LEVEL = ("patch_embeds.", "pos_tables.", "distill_tokens", "time_table")  # and the norms


def same_geometry(source: ReViT, target: ReViT) -> bool:
    """Whether the tensors of one mean to the other what they say: the same grids of the same pixels."""
    ours, theirs = (
        (model.grids, model.crop, model.pos_tables.sharing, model.norm.shared, model.shares_patches)
        for model in (target, source)
    )
    return ours == theirs


@torch.no_grad()
def refit(source: ReViT, target: ReViT, *, origin: str) -> tuple[dict[str, Tensor], str]:
    """The weights of `source` for the geometry of `target`, and in a line where each length comes from. What
    does not depend on the geometry is as it was, heads too; `load_weights` tells whether it fits.

    A length that both have is taken as it is. Any other starts from the nearest one as it does when training
    grows: kernels by pseudo-inverse resampling, tables bicubic, norms copied. A distillation token that the
    source has not starts as the class token, and its head as the class token's. `source` is not changed; what
    depends on the length is set in `target`.

    Raises:
        InputError: the patch embeddings or the position tables are of other kinds.
    """
    levels = [nearest(source.token_lengths, length) for length in target.token_lengths]
    put_stems(source, target, levels, origin=origin)
    put_positions(source, target, levels, origin=origin)
    norms = [name for name, module in target.named_modules() if isinstance(module, LengthNorm)]
    known = dict(source.named_modules())
    for name in norms:
        if isinstance(known.get(name), LengthNorm):
            put_norm(known[name], target.get_submodule(name), levels)
    put_distilled(source, target, levels)
    by_level = (*BY_LEVEL, *(f"{name}." for name in norms))
    state = {key: value for key, value in source.state_dict().items() if not key.startswith(by_level)}
    own = target.state_dict()
    state |= {key: value for key, value in own.items() if key.startswith(by_level)}
    if target.head_distill is None or source.head_distill is None:
        state = {key: value for key, value in state.items() if not key.startswith("head_distill.")}
    if target.head_distill is not None and source.head_distill is None:
        state |= {f"head_distill.{key}": value for key, value in source.head.state_dict().items()}
    return state, changes(source, target, levels)


def nearest(lengths: tuple[int, ...], wanted: int) -> int:
    """The level whose length is nearest; of two the longer one."""
    return min(range(len(lengths)), key=lambda level: (abs(lengths[level] - wanted), level))


def put_stems(source: ReViT, target: ReViT, levels: list[int], *, origin: str) -> None:
    kinds = [type(model.patch_embeds[0]) for model in (source, target)]
    if kinds[0] is not kinds[1] and not all(kind in ONE_KERNEL for kind in kinds):
        names = [kind.__name__ for kind in kinds]
        raise InputError(f"{origin} has a {names[0]}, the model a {names[1]}; set model.patch_embed alike")
    if target.shares_patches:
        # A kernel that was shared before, or of one length, is taken whole; else the longest length's in the
        # middle.
        whole = source.shares_patches or len(set(levels)) == 1
        levels = levels[-1:] if whole else levels[:1]
    for stem, level in zip(target.patch_embeds, levels, strict=True):
        theirs = stem_of(source, level)
        if shapes(stem) == shapes(theirs):
            stem.load_state_dict(theirs.state_dict())
        else:
            stem.grow_from(theirs)


def shapes(stem: nn.Module) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in stem.state_dict().items()}


def stem_of(model: ReViT, level: int) -> nn.Module:
    """The patch embedding of a level; of a shared kernel what the level uses, as `grow_from` takes it."""
    if not model.shares_patches:
        return model.patch_embeds[level]
    shared = model.patch_embeds[0]
    kernel = shared.kernel(level)
    tubelet = kernel.shape[2] if kernel.ndim == 5 else 1
    stem = nn.Module()
    stem.proj = patch_projection(kernel.shape[1], len(kernel), tuple(kernel.shape[-2:]), tubelet=tubelet)
    stem.to(kernel)
    stem.proj.weight.copy_(kernel)
    stem.proj.bias.copy_(shared.proj.bias)
    return stem


def put_positions(source: ReViT, target: ReViT, levels: list[int], *, origin: str) -> None:
    tables = target.pos_tables
    for table, grid in zip(tables, tables.grids, strict=True):
        level = levels[grid.level]
        theirs, before = source.pos_tables.table(source.grids[level]), source.grids[level]
        if target.pos_init == "sine_1d" and theirs.shape != table.shape:
            continue  # computed for each length
        planes = [(len(one) - 1) // g.per_frame for one, g in ((theirs, before), (table, grid))]
        if (planes[0] == before.frames > 1) != (planes[1] == grid.frames > 1):
            raise InputError(
                f"{origin} and the model differ in whether one position table is over space and time; set "
                "model.options.joint_positions alike"
            )
        table.copy_(over_frames(resize_grid_table(theirs, before, grid), grid, planes[1]))
    if target.time_table is not None and source.time_table is not None:
        fitted = resize_time(source.time_table, len(target.time_table), resize="bicubic")
        target.time_table.copy_(fitted)


def over_frames(table: Tensor, grid: TokenGrid, planes: int) -> Tensor:
    """A table (1 + t*h*w, D) for another number of planes."""
    frames = table[1:].unflatten(0, (-1, grid.per_frame))
    return torch.cat([table[:1], resize_time(frames, planes, resize="bicubic").flatten(0, 1)])


def put_norm(theirs: LengthNorm, ours: LengthNorm, levels: list[int]) -> None:
    for row, level in enumerate(levels[: len(ours.scale)]):  # a shared row is the longest length's
        ours.scale[row] = theirs.scale[theirs.row(level)]
        ours.shift[row] = theirs.shift[theirs.row(level)]


def put_distilled(source: ReViT, target: ReViT, levels: list[int]) -> None:
    if target.distill_tokens is None:
        return
    first = target.first_distilled
    for row, (grid, level) in enumerate(zip(target.grids[first:], levels[first:], strict=True)):
        theirs = level - source.first_distilled
        if source.distill_tokens is not None and theirs >= 0:
            target.distill_tokens[row] = source.distill_tokens[theirs]
        else:
            target.distill_tokens[row] = source.class_token + target.pos_tables.table(grid)[0]


def changes(source: ReViT, target: ReViT, levels: list[int]) -> str:
    parts = []
    for length, level in zip(target.token_lengths, levels, strict=True):
        before = source.token_lengths[level]
        parts.append(f"{length} as it is" if before == length else f"{length} from {before}")
    line = f"token lengths: {', '.join(parts)}"
    if source.num_frames != target.num_frames:
        line += f"; {target.num_frames} frames from {source.num_frames}"
    if source.crop != target.crop:
        line += f"; {target.crop[0]}x{target.crop[1]} px from {source.crop[0]}x{source.crop[1]}"
    return line
