"""Step one of a conversion: their tensors under our names, at their own geometry, bit for bit.

What comes out is the state of a ReViT with one token length: the grid the weights were trained on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from revit_video.convert.families import detect_source, family_of, unwrapped
from revit_video.convert.rules import Dead, first_keys, listed, translate
from revit_video.types import InputError, TokenGrid

REQUIRED = ("class_token", "pos_tables.0", "norm.scale", "norm.shift")
TABLES = ("pos_tables.0", "time_table", "distill_tokens")  # theirs have a batch axis of one in front


@dataclass(frozen=True)
class Renamed:
    """Weights of one token length in our names, and what was known of them.

    theirs: our name -> their name, for messages.
    dropped: their name -> why nothing needs it, and what it was.
    heads: how many classes each list has, () for one list.
    """

    source: str
    is_video: bool
    tensors: dict[str, Tensor]
    grid: TokenGrid
    theirs: dict[str, str]
    dropped: dict[str, tuple[str, Tensor]]
    heads: tuple[int, ...] = ()

    @property
    def depth(self) -> int:
        return 1 + max(map(int, self._block_numbers()), default=-1)

    def _block_numbers(self) -> list[str]:
        return [key.split(".")[1] for key in self.tensors if key.startswith("blocks.")]


def rename(state: Mapping[str, Tensor], source: str | None = None, *, origin: str) -> Renamed:
    """The weights in our names; `source` is a key of FAMILIES, None: by the names in `state`.

    Raises:
        InputError: the source is not known, a name has no rule, or what every model of the kind has is not
            there.
    """
    state = unwrapped(state)
    source = source or detect_source(state, origin=origin)
    family = family_of(source)
    prepared = family.prepare(state)
    table = family.table(prepared)
    tensors, theirs, dropped, unknown = {}, {}, {}, []
    for key, tensor in prepared.items():
        ours = translate(key, table)
        if isinstance(ours, Dead):
            dropped[key] = ours.why, tensor
        elif ours is None:
            unknown.append(key)
        else:
            tensors[ours], theirs[ours] = to_our_shape(ours, tensor), key
    if unknown:
        raise InputError(
            f"{origin} has {len(unknown)} keys that {family.title} weights have not: {listed(unknown)}; its "
            f"first keys are {first_keys(state)}. Is it another kind of model? Name it with source (--source)"
        )
    lacking = list(dict.fromkeys([key for key in REQUIRED if key not in tensors] + _gaps(tensors)))
    if lacking:
        raise InputError(
            f"{origin} lacks {len(lacking)} parameters of {family.title} weights: {listed(lacking)} (our "
            f"names); its first keys are {first_keys(state)}. Is the file whole?"
        )
    grid = own_grid(tensors, prepared, origin=origin)
    return Renamed(source, family.is_video, tensors, grid, theirs, dropped, family.heads(state))


def to_our_shape(name: str, tensor: Tensor) -> Tensor:
    """Theirs have a batch axis in tables and tokens; our norms have one for the levels."""
    if name == "class_token":
        return tensor.flatten()
    if name in TABLES:
        return tensor.squeeze(0)
    return tensor[None] if name.endswith((".scale", ".shift")) else tensor


def to_their_shape(name: str, tensor: Tensor) -> Tensor:
    """The reverse of `to_our_shape`."""
    if name == "class_token":
        return tensor[None, None]
    if name in TABLES:
        return tensor[None]
    return tensor.squeeze(0) if name.endswith((".scale", ".shift")) else tensor


def own_grid(tensors: Mapping[str, Tensor], theirs: Mapping[str, Tensor], *, origin: str) -> TokenGrid:
    """The token grid that the position table was made for. Official models know square ones only."""
    rows, joint = len(tensors["pos_tables.0"]) - 1, "st_embed" in theirs
    places = theirs["pos_embed"].shape[1] - 1 if joint and "pos_embed" in theirs else rows
    frames = rows // places if joint else len(tensors["time_table"]) if "time_table" in tensors else 1
    side = math.isqrt(places)
    if side * side != places or (joint and frames * places != rows):
        raise InputError(
            f"{origin} has a position table of {1 + rows} rows; expected one for the class token and a "
            "square grid of patches"
        )
    return TokenGrid(frames, side, side)


def _gaps(tensors: Mapping[str, Tensor]) -> list[str]:
    """What some blocks have and others lack, and layers with a bias but no weight."""
    blocks: dict[int, set[str]] = {}
    for key in tensors:
        found = re.fullmatch(r"blocks\.(\d+)\.(.+)", key)
        if found:
            blocks.setdefault(int(found[1]), set()).add(found[2])
    every = sorted(set().union(*blocks.values()))
    gaps = [
        f"blocks.{i}.{name}"
        for i in range(1 + max(blocks, default=-1))
        for name in every
        if name not in blocks.get(i, ())
    ]
    alone = [key.removesuffix("bias") + "weight" for key in tensors if key.endswith(".bias")]
    return gaps + [key for key in alone if key not in tensors]
