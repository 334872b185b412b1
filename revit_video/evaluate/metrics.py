"""Accuracy and how sure we are of it."""

import torch
from torch import Tensor

from revit_video.evaluate.heads import NAMES, Heads, softmax, split_labels, split_scores


def average_views(logits: Tensor, heads: Heads = ()) -> Tensor:
    """Class probabilities of a video (..., K) from the logits of its views (..., V, K): the mean of the
    softmaxes, of which every list of classes has its own.
    """
    return softmax(logits, heads).mean(dim=-2)


def hits(scores: Tensor, labels: Tensor, *, k: int = 1) -> Tensor:
    """Which rows of scores (N, K) have their label (N,) among the k largest: (N,) bool."""
    k = min(k, scores.shape[-1])
    return (scores.topk(k, dim=-1).indices == labels[:, None]).any(dim=-1)


def all_hits(scores: Tensor, labels: Tensor, *, heads: Heads = (), k: int = 1) -> dict[str, Tensor]:
    """Which rows of scores (N, K) are right, (N,) bool under each name: "label" for the whole label (N,), and
    with two lists of classes "verb" and "noun" for its parts. A whole label is right where every part is
    among the k largest of its list.
    """
    pairs = zip(split_scores(scores, heads), split_labels(labels, heads), strict=True)
    parts = [hits(part, truth, k=k) for part, truth in pairs]
    whole = torch.stack(parts).all(dim=0)
    return {"label": whole} | (dict(zip(NAMES, parts, strict=True)) if heads else {})


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


def bootstrap_intervals(
    hits: Tensor, *, draws: int = 1000, seed: int = 0, level: float = 0.95
) -> list[tuple[float, float]]:
    """`bootstrap_interval` of each row of hits (P, N), all over the same draws of videos: one product of
    matrices, as a draw is how often it took each video.
    """
    if not hits.numel():
        return []
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(hits.shape[1], (draws, hits.shape[1]), generator=generator)
    counts = torch.zeros(rows.shape, dtype=torch.float64).scatter_add_(
        1, rows, torch.ones(rows.shape, dtype=torch.float64)
    )
    means = 100.0 * counts @ hits.double().T / hits.shape[1]  # (draws, P)
    tail = (1 - level) / 2
    ends = torch.quantile(means, torch.tensor([tail, 1 - tail], dtype=torch.float64), dim=0)
    return [(low, high) for low, high in ends.T.tolist()]
