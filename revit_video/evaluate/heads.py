"""One linear head over several class lists side by side, such as EPIC-KITCHENS' verbs and nouns.

`heads` says how many classes each list has, () that there is one list. Scores (..., K) hold the lists one
after the other, K = sum(heads); every list has its own softmax. A label is all its parts as one number, the
last list running fastest: first * heads[1] + second (see types.Split). It is right where every part is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Heads = tuple[int, ...]
NAMES = ("verb", "noun")  # of the lists where there are two; a label is then an action


def split_scores(scores: Tensor, heads: Heads = ()) -> tuple[Tensor, ...]:
    """Scores (..., K) of each list: (..., K1), (..., K2), ..."""
    return scores.split(heads, dim=-1) if heads else (scores,)


def split_labels(labels: Tensor, heads: Heads = ()) -> tuple[Tensor, ...]:
    """Labels of any shape as the labels of each list."""
    parts: list[Tensor] = []
    for size in reversed(heads[1:]):
        labels, last = labels // size, labels % size
        parts.insert(0, last)
    return (labels, *parts)


def join_labels(parts: Sequence[Tensor], heads: Heads = ()) -> Tensor:
    """The way back of `split_labels`."""
    label = parts[0]
    for part, size in zip(parts[1:], heads[1:], strict=True):
        label = label * size + part
    return label


def softmax(logits: Tensor, heads: Heads = ()) -> Tensor:
    """Probabilities (..., K) in float32; those of each list add up to one."""
    parts = [part.float().softmax(dim=-1) for part in split_scores(logits, heads)]
    return torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]


def label_losses(logits: Tensor, labels: Tensor, heads: Heads = ()) -> Tensor:
    """Minus the log-probability of labels (...) under logits (..., K): the sum over the lists."""
    parts = zip(split_scores(logits, heads), split_labels(labels, heads), strict=True)
    losses = [F.cross_entropy(part.movedim(-1, 1), truth, reduction="none") for part, truth in parts]
    return torch.stack(losses).sum(dim=0) if len(losses) > 1 else losses[0]


def best_labels(scores: Tensor, heads: Heads = ()) -> Tensor:
    """The most probable label (...) of scores or logits (..., K): the best of each list."""
    return join_labels([part.argmax(dim=-1) for part in split_scores(scores, heads)], heads)


def label_probabilities(probabilities: Tensor, heads: Heads = ()) -> Tensor:
    """Of every label, (..., K1 * K2), from those of the classes (..., K): the product over the lists."""
    first, *others = split_scores(probabilities, heads)
    for other in others:
        first = (first[..., :, None] * other[..., None, :]).flatten(-2)
    return first


def confidence(probabilities: Tensor, heads: Heads = ()) -> Tensor:
    """How probable the most probable label is, (...): the product of each list's largest probability."""
    parts = [part.amax(dim=-1) for part in split_scores(probabilities, heads)]
    return torch.stack(parts).prod(dim=0) if len(parts) > 1 else parts[0]
