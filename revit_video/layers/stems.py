"""Names to patch embeddings, in plain sight."""

import inspect
from collections.abc import Callable
from functools import partial

from torch import nn

from revit_video.layers.conv_stem import ConvStem
from revit_video.layers.lv_stem import LVStem
from revit_video.layers.patch_embed import ConvPatchEmbed, ResizePatchEmbed
from revit_video.layers.shared_patch import SharedPatchEmbed
from revit_video.layers.t2t import T2TStem
from revit_video.types import InputError, TokenGrid

STEMS: dict[str, Callable[..., nn.Module]] = {
    "conv": ConvPatchEmbed,
    "resize": ResizePatchEmbed,
    "conv_stem": ConvStem,
    "shared": SharedPatchEmbed,
    "lv_stem": LVStem,
    "t2t_performer": partial(T2TStem, kind="performer"),
    "t2t_transformer": partial(T2TStem, kind="transformer"),
}


def build_stems(
    kind: str, dim: int, grids: tuple[TokenGrid, ...], *, crop: tuple[int, int], tubelet: int = 1, **options
) -> list[nn.Module]:
    """The patch embedding of every level; of `shared` the only one, whose `forward` is told the level.

    Args:
        kind: a key of STEMS.
        tubelet: frames that make one token.
        options: more arguments of the embedding (widths).
    """
    if kind == "shared":
        return [SharedPatchEmbed(dim, grids, crop, **_known_options(kind, tubelet, options))]
    return [
        build_stem(kind, dim, grid, crop=crop, longest=grids[0], tubelet=tubelet, **options) for grid in grids
    ]


def build_stem(
    kind: str,
    dim: int,
    grid: TokenGrid,
    *,
    crop: tuple[int, int],
    longest: TokenGrid,
    tubelet: int = 1,
    **options,
) -> nn.Module:
    """The patch embedding of one level, see `build_stems`; `longest` is the grid of level 0, whose patch size
    `resize` uses for every length.
    """
    options = _known_options(kind, tubelet, options)
    if kind == "resize":
        options["patch"] = (crop[0] // longest.height, crop[1] // longest.width)
        return ResizePatchEmbed(dim, grid, **options)
    return STEMS[kind](dim, grid, crop, **options)


def _known_options(kind: str, tubelet: int, options: dict) -> dict:
    """Arguments of the embedding, `tubelet` among them where it is more than a frame."""
    if kind not in STEMS:
        raise InputError(f"patch_embed is {kind!r}, but must be one of: {', '.join(STEMS)}")
    known = inspect.signature(STEMS[kind]).parameters
    if tubelet > 1 and "tubelet" not in known:
        raise InputError(f"patch_embed {kind!r} embeds single frames, not tubelets of {tubelet} frames")
    given = ("dim", "grid", "grids", "crop", "patch", "tubelet", "kind")
    own = [name for name in known if name not in given]
    for key in options.keys() - set(own):
        raise InputError(f"patch_embed {kind!r} has no option {key!r}; it has: {', '.join(own)}")
    return {**options, "tubelet": tubelet} if tubelet > 1 else dict(options)
