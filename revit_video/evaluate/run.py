"""Run a predictor over videos, each decoded once for all its views."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from revit_video.types import InputError


@dataclass(frozen=True)
class Scores:
    """Numbers per view, side by side: `values[name]` is (N, V, ...). `indices` (N,) are positions in the
    list, rising. Without a readable video `values` is empty.
    """

    values: dict[str, Tensor]
    labels: Tensor  # (N,)
    indices: Tensor  # (N,)
    unreadable: dict[int, str]  # index -> reason


@torch.inference_mode()
def score_views(
    predict: Callable[[Tensor], dict[str, Tensor]],
    batches: Iterable,
    *,
    to_clips: Callable[[Tensor], Tensor],
    views_per_forward: int,
    advance: Callable[[int], None] = lambda videos: None,
) -> Scores:
    """Feed all views of all videos through `predict`, at most `views_per_forward` at a time.

    batches: of data.Batch, clips uint8 (B, V, T, C, H, W). to_clips: puts uint8 (M, T, C, H, W) on the
        device, normalised.
    predict: clips (M, C, T, H, W) to named numbers (M, ...).
    """
    parts: dict[str, list[Tensor]] = {}
    labels, indices, unreadable = [], [], {}
    for batch in batches:
        unreadable |= {item.index: item.unreadable for item in batch.unreadable}
        if len(batch.labels):
            num_views = batch.clips.shape[1]
            flat = batch.clips.flatten(0, 1)
            pieces = [predict(to_clips(piece)) for piece in flat.split(views_per_forward)]
            for name in pieces[0]:
                joined = torch.cat([piece[name].float().cpu() for piece in pieces])
                parts.setdefault(name, []).append(joined.unflatten(0, (-1, num_views)))
            labels.append(batch.labels)
            indices.append(batch.indices)
        advance(len(batch.labels) + len(batch.unreadable))
    values = {name: torch.cat(chunks) for name, chunks in parts.items()}
    none = torch.empty(0, dtype=torch.long)
    return Scores(values, torch.cat([none, *labels]), torch.cat([none, *indices]), unreadable)


def merge_scores(parts: Sequence[Scores]) -> Scores:
    """What several processes have scored, as if one had scored the whole list. A part may be empty.

    Raises:
        InputError: no video of any part was readable.
    """
    unreadable = {index: reason for part in parts for index, reason in part.unreadable.items()}
    unreadable = dict(sorted(unreadable.items()))
    full = [part for part in parts if len(part.indices)]
    if not full:
        first = next(iter(unreadable.values()), "the list is empty")
        raise InputError(f"none of the {len(unreadable)} videos of the list can be read; first: {first}")
    indices = torch.cat([part.indices for part in full])
    order = indices.argsort()
    values = {name: torch.cat([part.values[name] for part in full])[order] for name in full[0].values}
    labels = torch.cat([part.labels for part in full])
    return Scores(values, labels[order], indices[order], unreadable)
