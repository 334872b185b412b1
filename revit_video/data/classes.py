"""Names of classes: of one list, or of several side by side (`heads`, see types.Split)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

from revit_video.evaluate.heads import Heads, split_labels


def class_lists(names: Sequence[str], heads: Heads = ()) -> tuple[tuple[str, ...], ...]:
    """The names of each list."""
    ends = accumulate(heads or (len(names),), initial=0)
    return tuple(tuple(names[begin:end]) for begin, end in pairwise(ends))


def label_name(label: int, names: Sequence[str], heads: Heads = ()) -> str:
    """A label in words: "take plate"."""
    parts = zip(class_lists(names, heads), split_labels(label, heads), strict=True)
    return " ".join(listed[part] for listed, part in parts)


def order_of(now: Sequence[str], before: Sequence[str]) -> list[int] | None:
    """For each class of now its place before; None where they are not the same classes, each once."""
    if list(now) == list(before):
        return list(range(len(now)))
    if len(now) != len(before) or len(set(now)) < len(now) or set(now) != set(before):
        return None
    place = {name: number for number, name in enumerate(before)}
    return [place[name] for name in now]
