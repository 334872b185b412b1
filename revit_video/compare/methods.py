"""The methods of `tools/compare.py methods=[...]`: rows of any config, in plain sight.

Overrides say what a method is and nothing else; optimizer, epochs, augmentation and views are the config's.
`revit.grow_share=0` stands where there is nothing to grow: one length, or networks of their own.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from revit_video.compare.rows import ADAPTIVE, EXITS, Comparison, Published, Row
from revit_video.types import InputError

ALONE = ("revit.grow_share=0", "model.distill_token=false")
KEEP_WARMUP = ("model.reducer_warmup_epochs=$a_30th", "model.reducer_shrink_epochs=$a_third")
CASCADE = (
    *ALONE,
    "model.options.backbone=$model",
    "model.options.class_token_only=false",  # the next exit reuses the patches of the last block
    "router.budget_gmacs=$budget_gmacs",
)


def one_length(length: str, *overrides: str) -> tuple[str, ...]:
    """A length trained alone."""
    return (f"model.token_lengths=[{length}]", *ALONE, *overrides)


def reduced(reducer: str, *overrides: str) -> tuple[str, ...]:
    """The longest length with a token reducer."""
    return one_length("$longest", f"model.options.reducer={{{reducer}}}", *overrides)


METHODS: dict[str, Row] = {
    row.name: row
    for row in (
        *(Row(name, one_length(f"${name}")) for name in ("longest", "middle", "shortest")),
        *(
            Row(f"{name}_same_cost", one_length(f"${name}", f"solver.max_steps=${name}_steps"))
            for name in ("longest", "middle", "shortest")
        ),
        Row("revit", reads=ADAPTIVE),
        Row(
            "fewer_frames",
            one_length("$longest", "data.num_frames=$half_frames", "data.sampling_rate=$double_rate"),
        ),
        Row("dvt", ("model.name=dvt", *CASCADE), reads=EXITS),
        Row("depth", ("model.name=depth", "model.token_lengths=[$longest]", *CASCADE), reads=EXITS),
    )
}
NUMBERED: dict[str, Callable[[str], tuple[str, ...]]] = {  # with a number behind it: evit_0.7, tome_r13
    "evit_": lambda keep: reduced(f"name: evit, keep: {keep}"),
    "tome_r": lambda r: reduced(f"name: tome, r: {r}"),
    "random_drop_": lambda keep: reduced(f"name: random_drop, keep: {keep}"),
}
ORACLE, OFF_THE_SHELF = "_oracle", "_off_the_shelf"  # endings: from the trained longest; it, as it is
VIDEO_ONLY, IMAGES_ONLY = ("fewer_frames",), ("dvt", "depth")

IMAGENET = (
    Published("DeiT-S", 79.8, 4.6, "EViT, arXiv:2202.07800"),
    Published("EViT-DeiT-S, keep .7", 79.5, 3.0, "EViT's repository"),
    Published("EViT-DeiT-S, keep .5", 78.5, 2.3, "EViT's repository"),
    Published("EViT-DeiT-S, keep .7, off the shelf", 78.5, 3.0, "EViT, arXiv:2202.07800"),
    Published("ToMe-DeiT-S, r 13", 79.36, 2.71, "ToMe, arXiv:2210.09461"),
    Published("ReViT-DeiT-S, 14x14", 79.83, 4.61, "ReViT, arXiv:2307.02092, table 2"),
    Published("ReViT-DeiT-S, 10x10", 76.86, 2.31, "ReViT, arXiv:2307.02092, table 2"),
    Published("ReViT-DeiT-S, 7x7", 74.21, 1.15, "ReViT, arXiv:2307.02092, table 2"),
)


def method(name: str) -> Row:
    """The row of a name.

    EViT has the warm-up of its paper, at the same part of the training: 10 and 100 of 300 epochs. Where it
    starts from trained weights there is none, as in its fine-tuning.
    """
    if name in METHODS:
        return METHODS[name]
    found = re.fullmatch(rf"({'|'.join(NUMBERED)})([0-9.]+)({ORACLE}|{OFF_THE_SHELF})?", name)
    if not found:
        known = [
            *METHODS,
            "evit_0.7",
            "tome_r13",
            "random_drop_0.7",
            "tome_r13_off_the_shelf",
            "evit_0.7_oracle",
        ]
        near = ", ".join(difflib.get_close_matches(name, known, n=3)) or ", ".join(known)
        raise InputError(f"no method named {name!r}. Nearest: {near}")
    family, number, ending = found.groups()
    row = Row(name, NUMBERED[family](number))
    if ending is not None:
        return replace(row, starts_from="longest", train=ending == ORACLE)
    return replace(row, overrides=row.overrides + KEEP_WARMUP) if family == "evit_" else row


def comparison_of(names: Sequence[str], *, images: bool) -> Comparison:
    """The rows of some methods, with those they start from.

    Raises:
        InputError: there is no such method, or it is not for this kind of data.
    """
    chosen: dict[str, Row] = {}
    for name in names:
        row = method(name)
        if name in (VIDEO_ONLY if images else IMAGES_ONLY):
            ours, other = ("images", "videos") if images else ("videos", "images")
            raise InputError(f"{name} is for {other}, but by data.num_frames these are {ours}; leave it out")
        if row.starts_from is not None:
            chosen.setdefault(row.starts_from, METHODS[row.starts_from])
        chosen[name] = row
    return Comparison(tuple(chosen.values()), IMAGENET if images else ())
