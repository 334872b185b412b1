"""Names to patch embeddings, in plain sight."""

import inspect
from collections.abc import Callable
from functools import partial

from torch import nn

from revit_video.layers.lv_stem import LVStem
from revit_video.layers.patch_embed import ConvPatchEmbed, ResizePatchEmbed
from revit_video.layers.t2t import T2TStem
from revit_video.types import InputError, TokenGrid

STEMS: dict[str, Callable[..., nn.Module]] = {
    "conv": ConvPatchEmbed,
    "resize": ResizePatchEmbed,
    "lv_stem": LVStem,
    "t2t_performer": partial(T2TStem, kind="performer"),
    "t2t_transformer": partial(T2TStem, kind="transformer"),
}


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
    """The patch embedding of one level.

    Args:
        kind: a key of STEMS.
        longest: the grid of level 0, whose patch size `resize` uses for every length.
        tubelet: frames that make one token.
        options: more arguments of the embedding (widths).
    """
    if kind not in STEMS:
        raise InputError(f"patch_embed is {kind!r}, but must be one of: {', '.join(STEMS)}")
    known = inspect.signature(STEMS[kind]).parameters
    if tubelet > 1:
        if "tubelet" not in known:
            raise InputError(f"patch_embed {kind!r} embeds single frames, not tubelets of {tubelet} frames")
        options["tubelet"] = tubelet
    if kind == "resize":
        options["patch"] = (crop[0] // longest.height, crop[1] // longest.width)
    for key in options.keys() - known.keys():
        own = [name for name in known if name not in ("dim", "grid", "crop", "patch", "tubelet", "kind")]
        raise InputError(f"patch_embed {kind!r} has no option {key!r}; it has: {', '.join(own)}")
    if kind == "resize":
        return ResizePatchEmbed(dim, grid, **options)
    return STEMS[kind](dim, grid, crop, **options)
