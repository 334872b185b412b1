"""Ways in which the method is known to fail, each noticed by a figure and named in one line that begins with
WARNING and says what to try.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

NEARLY_ALL = 0.95  # of the clips at one length: there is no choice to speak of
# Points. Of T2T-ViT-12 by itself, 7x7 is 6 below 14x14 (70.3% and 76.7% on ImageNet) and 4x4 16 below (60.8%,
# arXiv:2105.15075); ReViT keeps 7x7 and does without 4x4.
FAR_BELOW = 15.0
LEAN = 10.0  # points by which labelled videos may be easier than others by chance


def one_length(share: Mapping[str, float], *, where: str) -> list[str]:
    """Nearly all clips run at one length, though there are others. share: of the clips, by length."""
    length, most = max(share.items(), key=lambda item: item[1])
    if len(share) < 2 or most < NEARLY_ALL:
        return []
    return [
        f"WARNING: {100 * most:.1f}% of the {where} run at {length}x{length}: the router hardly chooses; try "
        "another router.budget, assigner.soft_labels=true or assigner.loss=regression, or router.kind=cascade"
    ]


def no_better_than_chance(over: Mapping[str, float]) -> list[str]:
    """The choice is not above the same shares of the lengths dealt by lot. over: that `difference` in points
    with its 95% interval `low`, `high`.
    """
    if over["low"] > 0:
        return []
    return [
        f"WARNING: the router is {over['difference']:+.1f} points above its own shares dealt by lot (95% "
        f"{over['low']:+.1f} to {over['high']:+.1f}): it has learnt nothing, or these clips are too few to "
        "tell; try more length labels, another assigner.loss, or router.kind=cascade"
    ]


def alone_as_good(fixed: Sequence[Mapping[str, float]], chosen: Mapping[str, float]) -> list[str]:
    """A fixed length that costs no more is right as often. Each: `top1` in percent and `gmacs`; `length`."""
    return [
        f"WARNING: length {row['length']} alone is right on {row['top1']:.1f}% for {row['gmacs']:.4g} GMACs, "
        f"the router on {chosen['top1']:.1f}% for {chosen['gmacs']:.4g}: here choosing gains nothing; use "
        f"--length {row['length']}, or try another router.kind or router.budget"
        for row in fixed
        if row["gmacs"] <= chosen["gmacs"] and row["top1"] >= chosen["top1"]
    ]


def far_below(top1: Mapping[str, float]) -> list[str]:
    """Lengths that are far worse than the longest. top1: percent by length, longest first."""
    (longest, best), *others = top1.items()
    return [
        f"WARNING: length {length} is right on {value:.1f}%, {best - value:.1f} points below length "
        f"{longest} ({best:.1f}%): clips that go there are lost, not saved; try more epochs, "
        "revit.grow_share, or a longer shortest length in model.token_lengths"
        for length, value in others
        if best - value > FAR_BELOW
    ]


def lean_to_short(labelled: Mapping[str, float], others: Mapping[str, float], *, where: str) -> list[str]:
    """The labels come from videos that the backbone has learnt by heart. Both: percent right by length, the
    shortest last; `labelled` on the videos with length labels, `others` on videos that were not trained on.
    """
    length = list(labelled)[-1]
    easier = labelled[length] - others[length]
    if easier <= LEAN:
        return []
    return [
        f"WARNING: at length {length} the backbone is right on {labelled[length]:.1f}% of the labelled "
        f"videos and on {others[length]:.1f}% of the {where}: the labels lean to short on videos it was "
        "trained on; try labels.split=val or labels.folds=5"
    ]


def by_length(lengths: Sequence[int], values: Sequence[float]) -> dict[str, float]:
    return {str(length): value for length, value in zip(lengths, values, strict=True)}
