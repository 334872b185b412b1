"""Run every clip at its own length: group by level, one batch per group, results back in order."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from revit_video.routing.budget import biased_levels


def run_at_levels(backbone: nn.Module, clips: Tensor, levels: Tensor, *, batch_size: int = 0) -> Tensor:
    """Logits (M, K) of clips (M, C, T, H, W), each at its own level (M,), in the order of `clips`.

    Groups run as batches of at most `batch_size` clips (0: the whole group at once); a level nobody chose
    costs nothing.
    """
    logits = clips.new_empty(len(clips), backbone.num_classes)
    for level in levels.unique().tolist():
        rows = (levels == level).nonzero().squeeze(1)
        for part in rows.split(batch_size or len(rows)):
            logits[part] = backbone(clips[part], level).to(logits.dtype)
    return logits


class AssignerRouter(nn.Module):
    """The assigner's choice under a budget bias, and the backbone at that choice.

    Args:
        costs: GMACs of each level. bias: see `routing.budget.solve_bias`; 0 is the paper's argmax.
    """

    def __init__(
        self, backbone: nn.Module, assigner: nn.Module, *, costs: Sequence[float], bias: float
    ) -> None:
        super().__init__()
        self.backbone, self.assigner = backbone, assigner
        self.costs, self.bias = tuple(costs), bias

    def levels(self, clips: Tensor, *, batch_size: int = 0) -> Tensor:
        """Level of each clip (M,), looked at in batches of at most `batch_size` (0: all at once)."""
        wishes = [self.assigner(part) for part in clips.split(batch_size or len(clips))]
        return biased_levels(torch.cat(wishes).float(), self.costs, self.bias)

    def forward(self, clips: Tensor, *, batch_size: int = 0) -> tuple[Tensor, Tensor]:
        """Logits (M, K) and levels (M,)."""
        levels = self.levels(clips, batch_size=batch_size)
        return run_at_levels(self.backbone, clips, levels, batch_size=batch_size), levels

    def forward_views(self, clips: Tensor, *, batch_size: int = 0) -> tuple[Tensor, Tensor]:
        """Clips with their crops (N, X, C, T, H, W) to logits (N, X, K) and levels (N,): crops of one clip
        share its level.

        The assigner looks at the middle crop.
        """
        levels = self.levels(clips[:, clips.shape[1] // 2], batch_size=batch_size)
        crops = clips.shape[1]
        logits = run_at_levels(
            self.backbone, clips.flatten(0, 1), levels.repeat_interleave(crops), batch_size=batch_size
        )
        return logits.unflatten(0, (-1, crops)), levels


class CascadeRouter(nn.Module):
    """Shortest length first; a clip whose largest probability stays below `threshold` runs again at the next
    longer one.
    """

    def __init__(self, backbone: nn.Module, *, threshold: float) -> None:
        super().__init__()
        self.backbone, self.threshold = backbone, threshold

    def forward(self, clips: Tensor, *, batch_size: int = 0) -> tuple[Tensor, Tensor]:
        """Logits (M, K) and the level (M,) at which each clip stopped."""
        logits = clips.new_empty(len(clips), self.backbone.num_classes)
        levels = torch.zeros(len(clips), dtype=torch.long, device=clips.device)
        unsure = torch.arange(len(clips), device=clips.device)
        for level in reversed(range(self.backbone.num_levels)):
            at_level = torch.full_like(unsure, level)
            logits[unsure] = run_at_levels(self.backbone, clips[unsure], at_level, batch_size=batch_size)
            levels[unsure] = level
            unsure = unsure[logits[unsure].float().softmax(dim=-1).amax(dim=-1) < self.threshold]
            if not len(unsure):
                break
        return logits, levels
