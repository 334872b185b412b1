"""Token labelling (LV-ViT, arXiv:2104.10858, section 3): a loss for every patch, and what a patch shows.

    loss = CE(class head, clip's target) + weight * mean over patches of CE(aux head, patch's target)

The patch's target comes from a label map of the whole image, sampled where the patch of this very clip lies,
at each token length on its own grid. Without maps every patch has the target of its clip.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor

from revit_video.backbones.outputs import Outputs
from revit_video.evaluate.heads import Heads
from revit_video.layers.reduce import TokenState
from revit_video.train.losses import class_loss, one_hot_targets
from revit_video.transform.mix_token import TokenBox, box_on_grid, from_partner
from revit_video.types import TokenGrid


@dataclass(frozen=True)
class TokenLabels:
    """Label maps of a batch, and where its clips lie in them.

    maps: (B, 2, k, H, W), values and classes of the cells of the whole image, see data.label_maps.
    places: (B, 2, 3), of each clip in its image, see transform.place.
    """

    maps: Tensor
    places: Tensor
    num_classes: int

    def rows(self, rows: slice | list[int]) -> TokenLabels:
        return replace(self, maps=self.maps[rows], places=self.places[rows])

    def of_patches(self, height: int, width: int) -> Tensor:
        """Distributions (B, height * width, K) of the patches of a grid: the mean of the map over the patch
        (RoIAlign, arXiv:1703.06870), then the softmax over all classes, those without a value counting as 0.
        """
        values, classes = self.maps[:, 0], self.maps[:, 1].long()  # (B, k, H, W)
        shape = (len(self.maps), self.num_classes, *values.shape[2:])
        cells = values.new_zeros(shape).scatter(1, classes, values).flatten(2)  # (B, K, H*W)
        weights = sampling_weights(self.places, grid=(height, width), cells=shape[2:])
        return (weights.to(cells) @ cells.mT).softmax(dim=-1)

    def of_clips(self) -> Tensor:
        """Distributions (B, K) of the clips: as of a grid of one patch."""
        return self.of_patches(1, 1)[:, 0]


def sampling_weights(places: Tensor, *, grid: tuple[int, int], cells: tuple[int, int]) -> Tensor:
    """What each cell of a map adds to each patch of a clip: (B, h * w, H * W), rows that add up to one.

    A patch is the mean of ceil(H / h) x ceil(W / w) points on it, each bilinear among the cells' middles; at
    the border of the map the outermost cell goes on. For a box that is not turned it is RoIAlign with that
    many points.
    """
    points = [ceil(cell / patch) for patch, cell in zip(grid, cells, strict=True)]
    along = [(torch.arange(g * p).double() + 0.5) / (g * p) for g, p in zip(grid, points, strict=True)]
    y, x = torch.meshgrid(*along, indexing="ij")
    here = torch.stack([x, y, torch.ones_like(x)], dim=-1).to(places.device)  # (h*p, w*q, 3)
    there = torch.einsum("yxc,bdc->dbyx", here, places.double())
    hats = []
    for where, count in zip(there, (cells[1], cells[0]), strict=True):
        middle = (where * count - 0.5).clamp(0, count - 1)[..., None]
        hats.append((1 - (middle - torch.arange(count, device=places.device)).abs()).clamp_min(0))
    by_x, by_y = (hat.unflatten(2, (-1, points[1])).unflatten(1, (-1, points[0])) for hat in hats)
    weights = torch.einsum("bhpwqy,bhpwqx->bhwyx", by_y, by_x) / (points[0] * points[1])
    return weights.flatten(3).flatten(1, 2)


def with_true_class(predicted: Tensor, labels: Tensor) -> Tensor:
    """Targets (B, K) of the clips, in part what the map says of them and in part the true class: half each
    where the map's best class is the true one, else 0.9 and 0.1 (the official code's `ground_truth`).
    """
    share = 0.9 - 0.4 * (predicted.argmax(dim=-1) == labels)[:, None].to(predicted)
    return share * predicted + (1 - share) * F.one_hot(labels, predicted.shape[-1])


@dataclass(frozen=True)
class PatchTask:
    """What the patches of a step learn, and how its clips are mixed by tokens.

    weight: of the patches' loss; 0: off. labels: what each patch shows; None: the target of its clip.
    box: of MixToken; None: tokens are not mixed.
    """

    weight: float = 0.0
    labels: TokenLabels | None = None
    box: TokenBox | None = None

    def rows(self, rows: slice | list[int]) -> PatchTask:
        """Of some of the clips; of none, as in a pass that a process only takes part in, without labels."""
        return self if self.labels is None else replace(self, labels=self.labels.rows(rows) if rows else None)

    def swap(self, grid: TokenGrid, device: torch.device) -> Tensor | None:
        """(h, w) bool, the tokens that are taken from the partner, for `ReViT.forward`."""
        return None if self.box is None else box_on_grid(self.box, grid.height, grid.width).to(device)

    def clip_targets(
        self, targets: Tensor, swap: Tensor | None, *, num_classes: int, heads: Heads = ()
    ) -> Tensor:
        """Targets of the clips at this length: each has its partner's in the share of the swapped tokens."""
        if swap is None:
            return targets
        soft = targets if targets.ndim == 2 else one_hot_targets(targets, num_classes, heads)
        return torch.lerp(soft, soft.flip(0), swap.double().mean().to(soft))

    def loss(
        self,
        out: Outputs,
        targets: Tensor,
        swap: Tensor | None,
        *,
        grid: TokenGrid,
        smoothing: float = 0.0,
        heads: Heads = (),
    ) -> Tensor:
        """Of the patches, with its weight; targets (B,) or (B, K) are the clips' own, not mixed.

        In place of the outputs in the box, which the official code takes back to their own clip, the labels
        are taken to where their tokens are: the same sum, and it also holds where patches were dropped.
        """
        num_classes = out.aux_logits.shape[-1]
        if self.labels is not None:
            labels = self.labels.of_patches(grid.height, grid.width)
        else:
            soft = targets if targets.ndim == 2 else one_hot_targets(targets, num_classes, heads)
            labels = soft[:, None].expand(-1, grid.per_frame, -1)
        if swap is not None:
            labels = from_partner(labels, swap.flatten())
        labels = labels.repeat(1, grid.frames, 1)
        return self.weight * patch_loss(out.aux_logits, labels, out.kept, smoothing=smoothing, heads=heads)


def patch_loss(
    aux_logits: Tensor,
    labels: Tensor,
    kept: TokenState | None = None,
    *,
    smoothing: float = 0.0,
    heads: Heads = (),
) -> Tensor:
    """Mean cross-entropy of aux_logits (B, U, K) against soft labels (B, U0, K) of all places. Where patches
    were reduced, of those that survive: a fused one has no label.
    """
    if kept is None:
        return class_loss(aux_logits.flatten(0, 1), labels.flatten(0, 1), smoothing=smoothing, heads=heads)
    labels, there = surviving_labels(labels, kept)
    return class_loss(aux_logits[there], labels[there], smoothing=smoothing, heads=heads)


def surviving_labels(labels: Tensor, kept: TokenState) -> tuple[Tensor, Tensor]:
    """Labels (B, U0, ...) of the patches that are left, (B, U, ...), and which of these have one (B, U): all
    but the fused ones, as EViT's authors answer for LV-ViT (youweiliang/evit, issue 13).
    """
    places = kept.places()
    rows = torch.arange(len(labels), device=labels.device)[:, None]
    return labels[rows, places.clamp_min(0)], places >= 0
