"""The two steps of a conversion in one call."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from revit_video.backbones.core import ReViT
from revit_video.competitors.dvt import DVT
from revit_video.convert.dvt import convert_dvt
from revit_video.convert.fit import fit
from revit_video.convert.rename import rename
from revit_video.convert.report import Tally


def convert_state_dict(
    state: Mapping[str, Tensor],
    source: str | None = None,
    *,
    target: ReViT | DVT | None = None,
    resize: str = "bicubic",
    new_head: bool = False,
    origin: str = "the state dict",
) -> tuple[dict[str, Tensor], list[dict]]:
    """Weights of another project in our names, and a row for every group of them.

    Args:
        source: a key of FAMILIES; None: by the names in `state`.
        target: the model they are for, with any token lengths, frames, crop and classes. None: they are only
            renamed, exactly, for one token length: that of their own position table (and with `proj_v`, which
            only the trajectory attention of mode `fixed` reads).
        resize: how position tables change their grid, see convert.resize.
        new_head: keep the target's own head.
        origin: what to call the weights in errors, such as the name of their file.

    Raises:
        InputError: a name has no rule, a parameter has no source, or sizes differ; the message lists all.
    """
    if isinstance(target, DVT):
        return convert_dvt(state, target, new_head=new_head, origin=origin)
    renamed = rename(state, source, origin=origin)
    if target is not None:
        return fit(renamed, target, origin=origin, resize=resize, new_head=new_head)
    tally = Tally()
    for name, tensor in renamed.tensors.items():
        tally.add(name, "renamed", tensor)
    for name, (why, tensor) in renamed.dropped.items():
        tally.add(f"theirs: {name}", f"dropped: {why}", tensor)
    return renamed.tensors, tally.rows()
