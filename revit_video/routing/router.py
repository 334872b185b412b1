"""Run every clip at its own length: group by level, one batch per group, results back in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from revit_video.evaluate.heads import Heads, confidence
from revit_video.evaluate.metrics import average_views
from revit_video.routing.rule import Rule


def run_at_levels(backbone: nn.Module, clips: Tensor, levels: Tensor, *, batch_size: int = 0) -> Tensor:
    """Logits (M, K) of clips (M, C, T, H, W), each at its own level (M,), in the order of `clips`.

    They are on the backbone's device; clips and levels may be on the host (`from_pixels`). Groups run as
    batches of at most `batch_size` clips (0: the whole group at once); a level nobody chose costs nothing.
    """
    logits = empty_logits(backbone, clips, len(clips))
    for level in levels.unique().tolist():
        rows = (levels == level).nonzero().squeeze(1)
        for part in rows.split(batch_size or len(rows)):
            logits[part] = backbone(clips[part], level).to(logits.dtype)
    return logits


def empty_logits(backbone: nn.Module, clips: Tensor, *shape: int) -> Tensor:
    """Room for logits (*shape, K): of the clips' kind, or of the backbone's where clips are pixels."""
    like = clips if clips.is_floating_point() else next(backbone.parameters())
    return like.new_empty(*shape, backbone.num_classes)


@dataclass(frozen=True)
class Routed:
    """What became of N clips. The lengths are those of `levels`; a cascade ran the ones below, too."""

    logits: Tensor  # (N, K); of `forward_views` (N, V, K)
    starts: Tensor  # (N,): the first level that ran
    levels: Tensor  # (N,): the last one, whose logits these are
    gmacs: Tensor  # (N,), per view: all passes and the assigner's look


class Router(nn.Module):
    """A backbone, an assigner and the rule that says which clip runs at which lengths: assigner, cascade or
    hybrid.

    Args:
        assigner: clips (M, C, T, H, W) to logits (M, L); None where the rule does not ask it. With networks
            of `from_pixels` all clips here are uint8 (M, T, C, H, W) on the host.
        costs: GMACs of a view at each level. look: GMACs of the assigner for a clip.
        heads: of several lists of classes; the confidence is then that of the most probable label.
    """

    def __init__(
        self,
        backbone: nn.Module,
        assigner: nn.Module | None,
        *,
        costs: Sequence[float],
        rule: Rule,
        look: float = 0.0,
        heads: Heads = (),
    ) -> None:
        super().__init__()
        self.backbone, self.assigner = backbone, assigner
        self.costs, self.rule, self.look, self.heads = tuple(costs), rule, look, heads

    def starts(self, clips: Tensor, *, batch_size: int = 0) -> Tensor:
        """First level (M,) of each clip, looked at in batches of at most `batch_size` (0: all at once)."""
        if not self.rule.looks or not len(clips):
            return torch.full((len(clips),), len(self.costs) - 1, device=clips.device)
        wishes = [self.assigner(part) for part in clips.split(batch_size or len(clips))]
        return self.rule.starts(torch.cat(wishes).float(), self.costs).to(clips.device)

    def forward(self, clips: Tensor, *, batch_size: int = 0) -> Routed:
        """Clips (M, C, T, H, W), each by itself; logits are (M, K)."""
        routed = self.forward_views(clips[:, None], batch_size=batch_size)
        return Routed(routed.logits[:, 0], routed.starts, routed.levels, routed.gmacs)

    def forward_views(self, views: Tensor, *, look_at: int | None = None, batch_size: int = 0) -> Routed:
        """Groups of views (N, V, C, T, H, W) that share their lengths: the crops of a clip, or all views of a
        video.

        The assigner looks at view `look_at` (None: the middle one); the confidence is that of the mean of the
        views' probabilities. Levels run from the shortest up, each on the clips that start or go on there, in
        batches of at most `batch_size` views.
        """
        num_views = views.shape[1]
        look_at = num_views // 2 if look_at is None else look_at
        starts = self.starts(views[:, look_at], batch_size=batch_size)
        at = starts.clone()  # the level that a clip is to run at next, or stopped at
        logits = empty_logits(self.backbone, views, len(views), num_views)
        for level in reversed(range(len(self.costs))):
            rows = (at == level).nonzero().squeeze(1)
            if len(rows):
                logits[rows] = self.run_level(views[rows], level, batch_size=batch_size)
                at[rows[~self.sure(logits[rows], level).to(at.device)]] = level - 1
        gmacs = self.rule.cost(starts, at, self.costs, look=self.look / num_views)
        return Routed(logits, starts, at, gmacs)

    def run_level(self, views: Tensor, level: int, *, batch_size: int = 0) -> Tensor:
        """Logits (N, V, K) of groups of views (N, V, ...) at one level."""
        flat = views.flatten(0, 1)
        levels = torch.full((len(flat),), level, device=flat.device)
        return run_at_levels(self.backbone, flat, levels, batch_size=batch_size).unflatten(0, views.shape[:2])

    def sure(self, logits: Tensor, level: int) -> Tensor:
        """Which groups (N,) stop at a level where their views have these logits (N, V, K)."""
        return self.rule.sure(confidence(average_views(logits, self.heads), self.heads), level)
