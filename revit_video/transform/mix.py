"""Mixup (arXiv:1710.09412) and CutMix (arXiv:1905.04899) of a batch of clips, on its device."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from revit_video.sample.spatial import cut_box
from revit_video.types import InputError

Box = tuple[int, int, int, int]  # top, bottom, left, right


@dataclass(frozen=True)
class Mix:
    """Mixes every clip with the same clip of its partner: row 0 with 1, 2 with 3, ... of the whole batch of
    a step.

    One draw per step, from the seed and the step alone: with the rows, it tells every process and every
    token length the same mix, however the rows are shared out. Partners must be in the same process; a clip
    without its partner stays as it is, so pairs (2i, 2i + 1) should not be torn apart.

    Args:
        mixup, cutmix: alpha of the Beta(alpha, alpha) from which the weight of a clip is drawn; 0: never
            this kind.
        num_classes: K of the targets.
        prob: of a step that is mixed.
        switch_prob: share of cutmix where both kinds are on.
        seed: of all draws.
        targets_of: labels (M,) to distributions (M, K); None: one-hot.
    """

    mixup: float
    cutmix: float
    num_classes: int
    prob: float = 1.0
    switch_prob: float = 0.5
    seed: int = 0
    targets_of: Callable[[Tensor], Tensor] | None = None

    def __call__(self, clips: Tensor, labels: Tensor, *, step: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Mixed clips and targets; the given tensors are left alone.

        Args:
            clips: (M, C, T, H, W), normalised: V clips of B videos, those of a video side by side.
            labels: (M,), whole numbers.
            step: of the run, the same in all processes.
            rows: (B,), places of the videos in the batch of the step, over all processes.

        Returns:
            clips (M, C, T, H, W) and targets (M, K), floats that add up to 1.
        """
        if len(labels) != len(clips) or (len(clips) % len(rows) if len(rows) else len(clips)):
            raise InputError(
                f"got {len(clips)} clips with {len(labels)} labels of {len(rows)} videos; there must be as "
                "many labels as clips, and equally many clips of every video"
            )
        targets = self._targets(labels).to(clips.device)
        weight, box = self.draw(step, height=clips.shape[-2], width=clips.shape[-1])
        if weight == 1 or not len(clips):
            return clips, targets
        partner = partners(rows, per_video=len(clips) // len(rows)).to(clips.device)
        # A clip that is its own partner comes out of both kinds, and of its target, unchanged.
        if box is None:
            mixed = torch.lerp(clips[partner], clips, weight)
        else:
            top, bottom, left, right = box
            mixed = clips.clone()
            mixed[..., top:bottom, left:right] = clips[..., top:bottom, left:right][partner]
        return mixed, torch.lerp(targets[partner], targets, weight)

    def draw(self, step: int, *, height: int, width: int) -> tuple[float, Box | None]:
        """What happens at a step: the weight of a clip against its partner, and for cutmix the box that the
        partner fills. The weight is what is left of the area then. 1: nothing is mixed.
        """
        rng = random.Random(f"{self.seed}/mix/{step}")
        mixed, cut = rng.random() < self.prob, rng.random() < self.switch_prob
        if not self.mixup or not self.cutmix:
            cut = self.cutmix > 0
        alpha = self.cutmix if cut else self.mixup
        if not mixed or not alpha:
            return 1.0, None
        weight = rng.betavariate(alpha, alpha)
        if not cut:
            return weight, None
        box = cut_box(height, width, 1 - weight, rng)
        return 1 - (box[1] - box[0]) * (box[3] - box[2]) / (height * width), box

    def _targets(self, labels: Tensor) -> Tensor:
        if self.targets_of is not None:
            return self.targets_of(labels)
        return F.one_hot(labels, self.num_classes).float()


def partners(rows: Tensor, *, per_video: int) -> Tensor:
    """(M,): the place of every clip's partner, its own where the partner is missing."""
    place = {row: index for index, row in enumerate(rows.tolist())}
    video = torch.tensor([place.get(row ^ 1, index) for row, index in place.items()], dtype=torch.long)
    return (video[:, None] * per_video + torch.arange(per_video)).flatten()
