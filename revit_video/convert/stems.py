"""Patch embeddings of one geometry for every level of another model."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import Tensor, nn

from revit_video.backbones.core import ReViT
from revit_video.convert.resize import inflate_kernel
from revit_video.convert.rules import listed
from revit_video.types import InputError

PREFIX = "patch_embeds.0."


def fit_stems(
    source: Mapping[str, Tensor], target: ReViT, *, origin: str
) -> tuple[dict[str, Tensor], dict[str, str], set[str]]:
    """The state of all `target.patch_embeds`, what became of each tensor, and the source's names used.

    A level of the source's own sizes gets the weights as they are, every other one what `grow_from` makes of
    them (pseudo-inverse resampling of the kernels, statistics copied; the middle of a kernel that all levels
    share).
    """
    theirs = {key.removeprefix(PREFIX): value for key, value in source.items() if key.startswith(PREFIX)}
    ours = target.patch_embeds[0].state_dict()
    if theirs.keys() != ours.keys():
        raise InputError(
            f"{origin} has another patch embedding than the model: it has {listed(theirs) or 'none'}, the "
            f"model {listed(ours)}; set patch_embed to its kind, or choose the model it was trained as"
        )
    theirs, inflated = _as_deep(theirs, ours, origin=origin)
    stem = _source_stem(theirs, target, origin=origin)
    state, became = {}, {}
    for level, module in enumerate(copy.deepcopy(target.patch_embeds)):
        same = all(theirs[key].shape == value.shape for key, value in module.state_dict().items())
        if same:
            module.load_state_dict(theirs)
        else:
            module.grow_from(stem)
        for key, value in module.state_dict().items():
            name = f"patch_embeds.{level}.{key}"
            kept = same or theirs[key].shape == value.shape
            state[name] = value
            became[name] = ("used" if level == 0 else "copied to shorter lengths") if kept else "resized"
            if target.shares_patches and not kept:
                became[name] = "the middle of the shared kernel, zero around it"
            if inflated and key == "proj.weight":
                became[name] = f"inflated to tubelets{'' if kept else ', resized'}"
    return state, became, {f"{PREFIX}{key}" for key in theirs}


def _as_deep(
    theirs: dict[str, Tensor], ours: Mapping[str, Tensor], *, origin: str
) -> tuple[dict[str, Tensor], bool]:
    """A kernel of single frames as one of tubelets, where the model has those."""
    if "proj.weight" not in theirs:
        return theirs, False
    kernel, frames = theirs["proj.weight"], ours["proj.weight"].shape[2]
    deep = ours["proj.weight"].ndim == 5
    if kernel.ndim == 4 and deep:
        return {**theirs, "proj.weight": inflate_kernel(kernel, frames)}, True
    tubelets = [k.shape[2] if k.ndim == 5 else 1 for k in (kernel, ours["proj.weight"])]
    if tubelets[0] != tubelets[1]:
        raise InputError(
            f"{origin} embeds tubelets of {tubelets[0]} frames, the model of {tubelets[1]}; set "
            f"tubelet={tubelets[0]}"
        )
    return theirs, False


def _source_stem(theirs: dict[str, Tensor], target: ReViT, *, origin: str) -> nn.Module:
    """The embedding of level 0 with the source's weights, its kernel of the source's size."""
    stem = copy.deepcopy(target.patch_embeds[0])
    if "proj.weight" in theirs:
        kernel = theirs["proj.weight"]
        kind = nn.Conv3d if kernel.ndim == 5 else nn.Conv2d
        stem.proj = kind(kernel.shape[1], kernel.shape[0], tuple(kernel.shape[2:]))
    other = [
        f"{key} {tuple(theirs[key].shape)} (model: {tuple(value.shape)})"
        for key, value in stem.state_dict().items()
        if theirs[key].shape != value.shape
    ]
    if other:
        raise InputError(
            f"{origin} has a patch embedding of other sizes: {listed(other)}; level 0 must be split as in "
            "the trained model (crop = its patch size x the longest token length)"
        )
    stem.load_state_dict(theirs)
    return stem.to(next(target.parameters()).dtype)
