"""What a backbone costs at each of its token lengths.

The closed form of report/closed_forms.py is the number that is shown and budgeted with: it takes no time and
no memory. The suite holds it equal to both counters of report/macs.py for every model of the zoo, and
`cost_rows` to one of them again, on the meta device.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import replace
from functools import partial

import torch

from revit_video.backbones.core import ReViT
from revit_video.backbones.zoo import MODELS, create_model
from revit_video.layers.block import DividedBlock, JointBlock
from revit_video.layers.conv_stem import ConvStem
from revit_video.layers.lv_stem import LVStem
from revit_video.layers.mf_divided import MotionformerDividedBlock
from revit_video.layers.patch_embed import ConvPatchEmbed, ResizePatchEmbed
from revit_video.layers.reduce import TOKENS, Reduction
from revit_video.layers.shared_patch import SharedPatchEmbed
from revit_video.layers.t2t import Performer, T2TStem
from revit_video.layers.trajectory import TrajectoryBlock
from revit_video.report import closed_forms
from revit_video.report.closed_forms import Macs, Tokens, transformer
from revit_video.report.macs import count_macs_torch, count_norm_macs
from revit_video.types import InputError

COLUMNS = {  # of `cost_rows`, for report.tables
    "model": ("model", ""),
    "length": ("length", "d"),
    "frames": ("frames", "d"),
    "crop": ("crop", ""),
    "tokens": ("tokens", "d"),
    "params": ("parameters", ",d"),
    "patch_embed_gmacs": ("of it patch embedding", ".3f"),
    "distill_token_gmacs": ("distillation token", ".3f"),
    "attention_share": ("attention", ".1%"),
    "gmacs": ("GMACs per view", ".2f"),
    "views": ("views", ""),
    "total_gmacs": ("total GMACs", ".2f"),
}


def level_gmacs(model: ReViT, reducer: Reduction | None = None) -> list[float]:
    """GMACs per view of each level; `reducer` in place of the model's own."""
    if reducer is not None:
        model = copy(model)
        model.reducer = reducer
    return [closed_form_macs(model, level).total / 1e9 for level in range(model.num_levels)]


def cost_rows(
    names: Sequence[str],
    *,
    clips: int = 1,
    crops: int = 1,
    create: Callable[..., ReViT] = create_model,
    **changes,
) -> Iterator[dict]:
    """One row per model and token length, as soon as it is known; `changes` are arguments of every model,
    which `create` makes: competitors.zoo.create_model knows more names.

    Keys: model, length, frames (of the clip), crop, tokens (of it), params, gmacs (per view),
    patch_embed_gmacs and distill_token_gmacs (parts of it that a plain model of patch size 16 at that grid
    has not or has otherwise), attention_share, norm_gmacs (not in gmacs: what fvcore adds for norms), views
    (as "1x3": clips x crops) and total_gmacs.

    `params` counts what lies in memory: all lengths' parts together. `attention_share` is the part of the
    multiply-adds that depends on how many tokens meet: the scores of attention and its sums of values, in
    space and in time, in both steps of trajectory attention, in T2T's patch embedding. All else is linear
    layers and convolutions.
    """
    for name in names:
        with torch.device("meta"):  # sizes without numbers: no memory, no time
            model = create(name, **changes).eval()
            clip = torch.zeros(1, 3, model.num_frames, *model.crop)
        for grid in model.grids:
            macs = closed_form_macs(model, grid.level)
            counted = count_macs_torch(model, clip, level=grid.level)
            assert counted == macs.total, f"{name}: closed form {macs.total}, torch's counter {counted}"
            norms = count_norm_macs(model, clip, level=grid.level)
            yield _row(name, model, grid.level, macs, views=(clips, crops)) | {"norm_gmacs": norms / 1e9}


def _row(name: str, model: ReViT, level: int, macs: Macs, *, views: tuple[int, int]) -> dict:
    grid = model.grids[level]
    return {
        "model": name,
        "length": model.token_lengths[level],
        "frames": model.num_frames,
        "crop": f"{model.crop[0]}x{model.crop[1]}",
        "tokens": grid.frames * grid.per_frame,
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "patch_embed_gmacs": patch_embed_macs(model, level).total / 1e9,
        "distill_token_gmacs": (macs.total - closed_form_macs(model, level, prefix=1).total) / 1e9,
        "attention_share": macs.attention / macs.total,
        "gmacs": macs.total / 1e9,
        "views": f"{views[0]}x{views[1]}",
        "total_gmacs": macs.total / 1e9 * views[0] * views[1],
    }


def model_names(asked: Sequence[str]) -> list[str]:
    """The names as they are asked for; "all" stands for the whole zoo."""
    return [name for one in asked for name in (MODELS if one == "all" else [one])]


def closed_form_macs(model: ReViT, level: int = 0, *, prefix: int | None = None) -> Macs:
    """Multiply-adds of one view, from the model's numbers alone; `prefix` overrides its prefix tokens.

    Raises:
        InputError: a kind of block or patch embedding that has no closed form.
    """
    if not isinstance(model, ReViT):
        return model.closed_form(level)
    n = tokens_of(model, level, prefix=prefix)
    aux_tokens = 0 if model.aux_head is None else _aux_tokens(model, level)
    blocks = None
    if model.reducer is not None:
        blocks, left = reduced_blocks(model, n)
        aux_tokens = min(aux_tokens, left.grid)
    return transformer(
        _block_form(model),
        n,
        depth=len(model.blocks),
        num_classes=model.num_classes,
        stem=patch_embed_macs(model, level),
        prefix_only=model.blocks[-1].prefix_only,
        pre_logits=model.pre_logits is not None,
        aux_tokens=aux_tokens,
        blocks=blocks,
    )


def reduced_blocks(model: ReViT, n: Tokens) -> tuple[Macs, Tokens]:
    """All blocks of a model that reduces its tokens, the choice itself included, and the tokens in the
    end.
    """
    form, frames, total = _block_form(model), 1, Macs()
    if model.blocks[0].reduces == TOKENS and not model.frames_apart:
        n = n.as_tokens()
    if model.frames_apart:
        n, frames, form = replace(n, frames=1), n.frames, closed_forms.joint
    for block, step in zip(model.blocks, model.reducer.per_block(len(model.blocks)), strict=True):
        if block.prefix_only or step is None:
            total += form(n, prefix_only=block.prefix_only)
            continue
        left = replace(n, patches=step.left(n.patches))
        total += closed_forms.shortened(form(n), n, left)
        own = step.products(n.patches, prefix=n.prefix, planes=n.frames, dim=n.dim, heads=n.heads)
        total, n = total + Macs(0, own), left
    return total * frames, n


def tokens_of(model: ReViT, level: int, *, prefix: int | None = None) -> Tokens:
    grid, block = model.grids[level], model.blocks[0]
    distilled = model.distill_tokens is not None and level >= model.first_distilled
    return Tokens(
        dim=model.class_token.numel(),
        heads=block.attn.heads,
        hidden=block.mlp.fc1.out_features,
        frames=grid.frames,
        patches=grid.per_frame,
        prefix=prefix or 1 + distilled,
    )


def _aux_tokens(model: ReViT, level: int) -> int:
    grid = model.grids[level]  # frames that are kept apart are averaged before the heads
    return grid.per_frame if model.frames_apart else grid.frames * grid.per_frame


def _block_form(model: ReViT) -> Callable[..., Macs]:
    block = model.blocks[0]
    if model.frames_apart:
        return closed_forms.space_only
    if type(block) is TrajectoryBlock:
        mode = "original" if block.attn.proj_v is None else "fixed"
        return partial(closed_forms.trajectory, mode=mode, landmarks=block.attn.landmarks)
    forms = {
        JointBlock: closed_forms.joint,
        DividedBlock: closed_forms.divided,
        MotionformerDividedBlock: closed_forms.mf_divided,
    }
    return _known(forms, block)


def patch_embed_macs(model: ReViT, level: int) -> Macs:
    """Of a level's patch embedding: where two lengths differ in more than the number of their tokens."""
    if not isinstance(model, ReViT):
        return model.patch_embed_form(level)
    stem, n = model.patch_embeds[0 if model.shares_patches else level], tokens_of(model, level)
    forms = {
        ConvPatchEmbed: _patches,
        ResizePatchEmbed: _patches,
        SharedPatchEmbed: partial(_centre, level=level),
        ConvStem: partial(_convs, crop=model.crop),
        LVStem: partial(_lv, crop=model.crop),
        T2TStem: _t2t,
    }
    return _known(forms, stem)(stem, n)


def _patches(stem: ConvPatchEmbed | ResizePatchEmbed, n: Tokens) -> Macs:
    *tubelet, rows, columns = stem.proj.kernel_size
    return closed_forms.patch_stem(n, patch=(rows, columns), tubelet=tubelet[0] if tubelet else 1)


def _centre(stem: SharedPatchEmbed, n: Tokens, *, level: int) -> Macs:
    tubelet = stem.proj.kernel_size[:-2]
    return closed_forms.patch_stem(n, patch=stem.patches[level], tubelet=tubelet[0] if tubelet else 1)


def _convs(stem: ConvStem, n: Tokens, *, crop: tuple[int, int]) -> Macs:
    widths = [conv.out_channels for conv in stem.convs]
    return closed_forms.conv_stem(n, crop=crop, patch=stem.proj.kernel_size, widths=widths)


def _lv(stem: LVStem, n: Tokens, *, crop: tuple[int, int]) -> Macs:
    width = stem.conv1.out_channels
    return closed_forms.lv_stem(n, crop=crop, patch=stem.proj.kernel_size, width=width)


def _t2t(stem: T2TStem, n: Tokens) -> Macs:
    kind = "performer" if type(stem.attention1) is Performer else "transformer"
    width = stem.project.in_features // 9
    return closed_forms.t2t_stem(n, kernel=stem.kernel, side=stem.side, width=width, kind=kind)


def _known(forms: dict, module: torch.nn.Module) -> Callable:
    if type(module) not in forms:
        raise InputError(
            f"{type(module).__name__} has no closed form of its cost; expected one of "
            f"{', '.join(kind.__name__ for kind in forms)}; add it to revit_video/report/closed_forms.py"
        )
    return forms[type(module)]
