"""What all cascades share: exits that run one after the other, each with an answer of its own."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn

from revit_video.backbones.core import ReViT

HEAD = re.compile(r"(.*\.)?(head|head_distill|aux_head|heads\.\d+)\.(weight|bias)")


def is_head(name: str) -> bool:
    """Whether a parameter has a row for each class: of a backbone's heads, or of those of any exit."""
    return HEAD.fullmatch(name) is not None


class Cascade(nn.Module):
    """A level is an exit, counted as everywhere: 0 is the dearest, the last exit. Exits count from 0, the
    cheapest. `forward` runs all exits up to a level; `early_exit.EarlyExit` lets each picture leave where it
    is sure.

    A cascade has `token_lengths`, one for each level, and `step`.
    """

    token_lengths: tuple[int, ...]
    level_of = ReViT.level_of

    @property
    def num_levels(self) -> int:
        return len(self.token_lengths)

    @property
    def num_exits(self) -> int:
        return len(self.token_lengths)

    def step(self, exit: int, clips: Tensor, passed: Any) -> tuple[Tensor, Any]:
        """One exit on images (B, 3, 1, H, W), after the one that handed on `passed` (None: the first): its
        logits (B, K), and what the next one needs.
        """
        raise NotImplementedError

    def forward(self, clips: Tensor, level: int = 0, *, all_exits: bool = False) -> Tensor | list[Tensor]:
        """Logits (B, K) of the exit of a level, after those before it; of all these with `all_exits`, in the
        order in which they run (through `forward`, so that wrappers see the call).
        """
        logits, passed = [], None
        for exit in range(self.num_exits - level):
            scores, passed = self.step(exit, clips, passed)
            logits.append(scores)
        return logits if all_exits else logits[-1]
