# ruff: noqa: RUF009  (`items` is a dataclasses.field)
"""Settings of the backbone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from revit_video.settings.checks import check, items, one_of, within


@dataclass(frozen=True)
class ModelConfig:
    name: str = "timesformer_base"  # a name of backbones.zoo
    token_lengths: list[int] = items(14, 10, 7)  # patches per side of a frame, longest first
    patch_embed: str = ""  # "": the model's own | conv: a kernel per length | resize: the frame is resized
    distill_token: bool = True  # the shorter lengths carry a token that learns from the longest
    drop_path: float = 0.1  # chance that the last block is skipped; falls to 0 at the first
    options: dict[str, Any] = field(default_factory=dict)  # more arguments of create_model: dim, depth, ...
    init_from: str = ""  # checkpoint to start from; its head is dropped if the number of classes differs

    def __post_init__(self) -> None:
        one_of(self, "patch_embed", ("", "conv", "resize"))
        within(self, 0, 0.99, "drop_path")
        lengths = self.token_lengths
        falling = sorted(set(lengths), reverse=True)
        check(self, "token_lengths", falling and falling[-1] >= 1, "one or more lengths, each at least 1")
        check(self, "token_lengths", lengths == falling, f"falling, each length once: {falling}")
