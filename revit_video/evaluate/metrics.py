"""Accuracy and how sure we are of it."""

import torch
from torch import Tensor


def average_views(logits: Tensor) -> Tensor:
    """Class probabilities of a video (..., K) from the logits of its views (..., V, K): the mean of the
    softmaxes.
    """
    return logits.float().softmax(dim=-1).mean(dim=-2)


def hits(scores: Tensor, labels: Tensor, *, k: int = 1) -> Tensor:
    """Which rows of scores (N, K) have their label (N,) among the k largest: (N,) bool."""
    k = min(k, scores.shape[-1])
    return (scores.topk(k, dim=-1).indices == labels[:, None]).any(dim=-1)


def percent(hit: Tensor) -> float:
    """Share of true entries in percent; 0 of nothing is 0."""
    return 100.0 * hit.double().mean().item() if hit.numel() else 0.0


def bootstrap_interval(
    hit: Tensor, *, draws: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the accuracy (percent) over videos drawn with replacement."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(hit), (draws, len(hit)), generator=generator)
    means = 100.0 * hit.double()[rows].mean(dim=1)
    tail = (1 - level) / 2
    low, high = torch.quantile(means, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high


def paired_difference(ours: Tensor, theirs: Tensor, **options) -> dict[str, float]:
    """Accuracy of `ours` minus `theirs` (both (N,) bool over the same videos) in points, with its bootstrap
    interval.
    """
    difference = ours.double() - theirs.double()
    low, high = bootstrap_interval(difference, **options)
    return {"difference": 100.0 * difference.mean().item(), "low": low, "high": high}


def pair_hits(logits: Tensor, labels: Tensor, *, heads: tuple[int, int], k: int = 1) -> dict[str, Tensor]:
    """Hits of a model with one head over two class lists, such as verbs and nouns.

    logits (N, V, K1 + K2) of views, the first list's classes first; each list has its own softmax before the
    views are averaged. labels (N,) are pairs as one number, first * K2 + second (see types.Split). An action
    is right where both its parts are among their k largest.

    Returns:
        {"first": (N,), "second": (N,), "both": (N,)} bool.
    """
    first, second = logits.split(heads, dim=-1)
    right = {
        "first": hits(average_views(first), labels // heads[1], k=k),
        "second": hits(average_views(second), labels % heads[1], k=k),
    }
    return right | {"both": right["first"] & right["second"]}
