"""The layouts of weights that are understood, by name, and which of them a state dict has."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from revit_video.convert import huggingface, lvvit, motionformer, t2t_vit, timesformer, timm_vit
from revit_video.convert.rules import State, Table, first_keys
from revit_video.types import InputError

WRAPPERS = ("module.", "model.", "_orig_mod.")  # DistributedDataParallel, TimeSformer's class, torch.compile


@dataclass(frozen=True)
class Family:
    """One layout. `table` may look at the state: which parameters are dead depends on the variant.

    marks: regexes; a state dict with a key that matches one belongs here.
    prepare: splits and joins tensors where theirs and ours are not one to one, before the table.
    heads: how many classes each list has, () for one list, see evaluate.heads.
    """

    title: str
    marks: tuple[str, ...]
    table: Callable[[State], Table]
    prepare: Callable[[State], State] = field(default=dict)
    is_video: bool = False
    heads: Callable[[State], tuple[int, ...]] = lambda state: ()


FAMILIES: dict[str, Family] = {
    "timesformer": Family(
        "official TimeSformer", (r"time_embed", r"blocks\.\d+\.temporal_.*"), timesformer.table, is_video=True
    ),
    "motionformer": Family(
        "official Motionformer",
        (r"patch_embed_3d\..*", r"temp_embed", r"st_embed"),
        motionformer.table,
        motionformer.prepare,
        is_video=True,
        heads=motionformer.heads,
    ),
    "hf_timesformer": Family(
        "Hugging Face TimeSformer",
        (r"timesformer\..*", r"embeddings\.time_embeddings", r"encoder\.layer\.\d+\.temporal_.*"),
        huggingface.table,
        huggingface.prepare,
        is_video=True,
    ),
    "lvvit": Family("LV-ViT", (r"aux_head\..*", r"patch_embed\.conv\d\..*"), lvvit.table),
    "t2t_vit": Family("T2T-ViT", (r"tokens_to_token\..*",), t2t_vit.table),
    "timm_vit": Family("timm ViT or DeiT", (), timm_vit.table, timm_vit.prepare),  # what is left
}
PLAIN_VIT = ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight")
OURS = ("class_token", "pos_tables.0")


def unwrapped(state: State) -> dict:
    """The state dict without the prefixes that a wrapper put in front of every name."""
    named = dict(state)
    while True:
        prefix = next((p for p in WRAPPERS if named and all(k.startswith(p) for k in named)), None)
        if prefix is None:
            return named
        named = {key.removeprefix(prefix): value for key, value in named.items()}


def detect_source(state: Mapping, *, origin: str = "the state dict") -> str:
    """The name of the family whose keys these are, without prefixes.

    A space-only TimeSformer has the names of a plain ViT and is taken for one; the conversion is the same.

    Raises:
        InputError: none fits, or more than one does.
    """
    found = [
        name
        for name, family in FAMILIES.items()
        if any(re.fullmatch(mark, key) for mark in family.marks for key in state)
    ]
    if not found and all(key in state for key in PLAIN_VIT):
        return "timm_vit"
    if len(found) == 1:
        return found[0]
    if all(key in state for key in OURS):
        raise InputError(
            f"{origin} is in this project's own names already; load it as a checkpoint, without conversion"
        )
    known = ", ".join(f"{name} ({family.title})" for name, family in FAMILIES.items())
    what = f"could be any of {', '.join(found)}" if found else "is of no known layout"
    raise InputError(
        f"{origin} {what}: its first keys are {first_keys(state)}; name the source, one of: {known}"
    )


def family_of(source: str) -> Family:
    if source not in FAMILIES:
        raise InputError(f"source is {source!r}, but must be one of: {', '.join(FAMILIES)}")
    return FAMILIES[source]
