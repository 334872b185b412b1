"""One length of a ReViT in an official layout, so that nobody is locked in."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from revit_video.backbones.core import ReViT
from revit_video.convert import motionformer, timesformer, timm_vit
from revit_video.convert.rename import to_their_shape
from revit_video.convert.rules import Table, inverse, listed, translate
from revit_video.layers.block import DividedBlock, JointBlock
from revit_video.types import InputError

LAYOUTS = ("timesformer", "motionformer", "timm_vit")
BASE_CROP = 224  # pixels that the official Motionformer makes its position table for, whatever the crop


def to_official(
    model_or_state: ReViT | Mapping[str, Tensor],
    family: str,
    level: int = 0,
    *,
    heads: tuple[int, int] | None = None,
    base_crop: int = BASE_CROP,
) -> dict[str, Tensor]:
    """The weights that one level runs, under the official names, without the prefix `model.`.

    Official parameters that are dead, and that ReViT has not, are zeros.

    Args:
        model_or_state: a model, or its state dict (then what is no parameter, such as an activation or the
            epsilon of the norms, is not checked).
        family: timesformer, motionformer or timm_vit.
        heads: motionformer: EPIC's numbers of verbs and nouns, for two heads.
        base_crop: motionformer: pixels that its position table is for; the official code fixes 224.

    Raises:
        InputError: the layout cannot hold what the level computes.
    """
    if family not in LAYOUTS:
        raise InputError(f"family is {family!r}, but must be one of: {', '.join(LAYOUTS)}")
    is_model = isinstance(model_or_state, nn.Module)
    state = _apart(model_or_state) if is_model else dict(model_or_state)
    levels = _levels(state)
    if not 0 <= level < levels:
        raise InputError(f"level is {level}, but the model has the levels 0 to {levels - 1}")
    if is_model:
        _refuse_settings(model_or_state, family, level)
    one = one_level(state, level)
    table = _table(family, one)
    official, lost = {}, []
    for key, tensor in one.items():
        theirs = translate(key, table)
        if isinstance(theirs, str):
            official[theirs] = to_their_shape(key, tensor).clone()
        else:
            lost.append(key)
    if lost:
        raise InputError(f"the layout of {family} has no place for {listed(lost)}; try another family")
    return _restore(family, official, one, heads=heads, base_crop=base_crop)


def one_level(state: Mapping[str, Tensor], level: int) -> dict[str, Tensor]:
    """What one level of a ReViT reads, as the state of a model with that level alone."""
    levels = _levels(state)
    students = len(state["distill_tokens"]) if "distill_tokens" in state else 0
    first = levels - students  # the first level with a distillation token
    one = {}
    for key, tensor in state.items():
        found = re.fullmatch(r"(patch_embeds|pos_tables)\.(\d+)(.*)", key)
        if found:
            if int(found[2]) == level:
                one[f"{found[1]}.0{found[3]}"] = tensor
        elif key == "distill_tokens" or key.startswith("head_distill."):
            if level >= first:
                one[key] = tensor[level - first : level - first + 1] if key == "distill_tokens" else tensor
        elif key.endswith((".scale", ".shift")):
            one[key] = tensor[level : level + 1]
        else:
            one[key] = tensor
    return one


def _levels(state: Mapping[str, Tensor]) -> int:
    """How many levels the state of a model has; refused where they share what is usually a level's own."""
    tables = sum(key.startswith("pos_tables.") for key in state)
    stems = len({key.split(".")[1] for key in state if key.startswith("patch_embeds.")})
    students = len(state.get("distill_tokens", ()))
    if not tables == stems == len(state["norm.scale"]) or students > tables:
        raise InputError(
            f"a state with {stems} patch embeddings, {tables} position tables and {len(state['norm.scale'])} "
            "rows in each norm is of a model whose lengths share some of them; give the model itself"
        )
    return tables


def _apart(model: ReViT) -> dict[str, Tensor]:
    """The state of a model, with its own copy for each level of what they share."""
    state, levels = dict(model.state_dict()), model.num_levels
    for level, grid in enumerate(model.grids):
        state[f"pos_tables.{level}"] = model.pos_tables.table(grid).detach()
        if model.shares_patches:
            shared = model.patch_embeds[0]
            state[f"patch_embeds.{level}.proj.weight"] = shared.kernel(level).detach()
            state[f"patch_embeds.{level}.proj.bias"] = shared.proj.bias.detach()
    rows = {key: value for key, value in state.items() if key.endswith((".scale", ".shift"))}
    return state | {key: value.expand(levels, -1) for key, value in rows.items()}


def _table(family: str, one: Mapping[str, Tensor]) -> Table:
    kernel = one.get("patch_embeds.0.proj.weight")
    if kernel is None:
        raise InputError(f"the layout of {family} has a single convolution as patch embedding, not a stem")
    if family == "motionformer":
        hint = {}  # what decides between its variants, by their names
        if kernel.ndim == 5:
            hint["patch_embed_3d.proj.weight"] = kernel
        if "time_table" not in one and len(one["pos_tables.0"]) > 2:
            hint["st_embed"] = one["pos_tables.0"]
        return inverse(motionformer.table(hint))
    if kernel.ndim == 5:
        raise InputError(f"the layout of {family} embeds single frames, the model tubelets; try motionformer")
    return inverse({"timesformer": timesformer, "timm_vit": timm_vit}[family].TABLE)


def _restore(
    family: str, official: dict[str, Tensor], one: Mapping[str, Tensor], *, heads, base_crop: int
) -> dict[str, Tensor]:
    if heads is not None and family != "motionformer":
        raise InputError(f"heads={heads} are Motionformer's; the layout of {family} has one head")
    if family == "timm_vit":
        return timm_vit.restore(official)
    if family == "timesformer":
        divided = any(key.startswith("blocks.0.temporal_attn.") for key in official)
        if divided and "time_embed" not in official:  # a clip of one frame
            official["time_embed"] = torch.zeros_like(official["cls_token"])
        return official
    kernel, classes = one["patch_embeds.0.proj.weight"], len(one["head.weight"])
    if heads is not None and sum(heads) != classes:
        raise InputError(f"heads={heads} have {sum(heads)} classes, the model {classes}")
    side = base_crop / kernel.shape[-1]
    places = int(side) ** 2
    rows = len(one["pos_tables.0"]) - 1
    joint = "st_embed" in official
    if side % 1 or (rows % places if joint else rows != places):
        patch, grid = kernel.shape[-1], math.isqrt(rows)
        raise InputError(
            f"the official Motionformer keeps the position table of {base_crop} px ({places} patches of "
            f"{patch} px) and resizes it on the way; this level has its own for {grid}x{grid}, which "
            "would be lost"
        )
    if joint:
        official["pos_embed"] = official["st_embed"].new_zeros(1, 1 + places, kernel.shape[0])
    elif "temp_embed" not in official:
        official["temp_embed"] = torch.zeros_like(official["cls_token"])
    return motionformer.restore(official, heads=heads)


def _refuse_settings(model: ReViT, family: str, level: int) -> None:
    """What no parameter shows, but the official forward pass lacks."""
    grid, block = model.grids[level], model.blocks[0]
    if model.shares_patches:
        embed, padding = model.patch_embeds[0], model.patch_embeds[0].paddings[level]
    else:
        embed = model.patch_embeds[level]
        padding = getattr(embed, "padding", ())
    joint = isinstance(block, JointBlock)
    kinds = {
        "timesformer": joint or isinstance(block, DividedBlock),
        "motionformer": not isinstance(block, DividedBlock) and not model.frames_apart,
        "timm_vit": joint and grid.frames == 1,
    }
    problems = {
        "another kind of attention": not kinds[family],
        "center_clips": model.center_clips,
        "frames of another shape than a square": grid.height != grid.width,
        "padded patches": any(padding),
        "a resized picture": getattr(embed, "size", model.crop) != model.crop,
        "residual_scale": getattr(block, "scale", 1.0) != 1.0,
        "norms of another epsilon than 1e-6": model.norm.eps != 1e-6,
    }
    found = [what for what, there in problems.items() if there]
    if found:
        raise InputError(
            f"the layout of {family} cannot hold level {level} of this model, which has {', '.join(found)}"
        )
