# ruff: noqa: RUF009  (`items` is a dataclasses.field)
"""Settings of the backbone."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from revit_video.settings.checks import check, items, one_of, within


@dataclass(frozen=True)
class ModelConfig:
    name: str = "timesformer_base"  # a name of backbones.zoo
    token_lengths: list[int] = items(14, 10, 7)  # patches per side of a frame, longest first
    patch_embed: str = ""  # "": the model's own | conv: a kernel per length | conv_stem: early convolutions
    # per length | resize: the frame is resized | shared: the middle of one kernel
    positions: str = "separate"  # tables: one per length | shared: one, zeros around it | shared_bicubic: one
    norms: str = "separate"  # rows of LengthNorm: one per length | shared: one for all
    distill_token: bool = True  # the shorter lengths carry a token that learns from the longest
    drop_path: float = 0.1  # chance that the last block is skipped; falls to 0 at the first
    options: dict[str, Any] = field(default_factory=dict)  # more arguments of create_model: dim, depth, ...
    reducer_warmup_epochs: float = 0.0  # evit: epochs with all patches, before its keep rate begins to fall
    reducer_shrink_epochs: float = 0.0  # evit: epochs in which it falls; both 0: it is there from the start
    init_from: str = ""  # checkpoint to start from, of any lengths; its head is dropped for other classes

    def __post_init__(self) -> None:
        one_of(self, "patch_embed", ("", "conv", "conv_stem", "resize", "shared"))
        one_of(self, "positions", ("separate", "shared", "shared_bicubic"))
        one_of(self, "norms", ("separate", "shared"))
        within(self, 0, 0.99, "drop_path")
        within(self, 0, math.inf, "reducer_warmup_epochs", "reducer_shrink_epochs")
        lengths = self.token_lengths
        falling = sorted(set(lengths), reverse=True)
        check(self, "token_lengths", falling and falling[-1] >= 1, "one or more lengths, each at least 1")
        check(self, "token_lengths", lengths == falling, f"falling, each length once: {falling}")
