"""A whole data set through a router in full batches: clips wait in a queue for each length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from revit_video.routing.router import Routed, Router


@dataclass
class Waiting:
    """A group of views (V, C, T, H, W) on its way, with its place in the order of arrival."""

    place: int
    views: Tensor
    start: int = -1


def run_bucketed(
    router: Router, groups: Iterable[Tensor], *, batch_size: int, look_at: int | None = None
) -> Iterator[Routed]:
    """The results of groups of views (V, C, T, H, W), in their order, one each with N = 1.

    The assigner looks at `batch_size` groups at once, and a length runs when `batch_size` groups wait for it;
    what is left runs at the end. The logits are those that every group gets alone, to rounding.
    At most about (L + 1) * batch_size groups wait for their turn; results wait for those in front of them.
    """
    queues: list[list[Waiting]] = [[] for _ in router.costs]
    unseen: list[Waiting] = []
    done: dict[int, Routed] = {}
    given = 0

    def look() -> None:
        for group, start in zip(unseen, look_together(router, unseen, look_at), strict=True):
            group.start = start
            queues[start].append(group)
        unseen.clear()

    for place, views in enumerate(groups):
        unseen.append(Waiting(place, views))
        if len(unseen) == batch_size:
            look()
        for level in reversed(range(len(queues))):  # shortest first: it may fill the longer ones
            while len(queues[level]) >= batch_size:
                run_queue(router, queues, level, done, count=batch_size)
        while given in done:
            yield done.pop(given)
            given += 1
    look()
    for level in reversed(range(len(queues))):
        while queues[level]:
            run_queue(router, queues, level, done, count=batch_size)
    while given in done:
        yield done.pop(given)
        given += 1


def look_together(router: Router, groups: list[Waiting], look_at: int | None) -> list[int]:
    """The first level of each group."""
    if not groups:
        return []
    middle = len(groups[0].views) // 2 if look_at is None else look_at
    return router.starts(torch.stack([group.views[middle] for group in groups])).tolist()


def run_queue(
    router: Router, queues: list[list[Waiting]], level: int, done: dict[int, Routed], *, count: int
) -> None:
    """Run the first `count` groups that wait for a level; those that are sure are done, others move up."""
    groups, queues[level] = queues[level][:count], queues[level][count:]
    logits = router.run_level(torch.stack([group.views for group in groups]), level)
    sure = router.sure(logits, level).tolist()
    for row, group in enumerate(groups):
        if not sure[row]:
            queues[level - 1].append(group)
            continue
        starts, stops = torch.tensor([group.start]), torch.tensor([level])
        look = router.look / len(group.views)
        gmacs = router.rule.cost(starts, stops, router.costs, look=look)
        done[group.place] = Routed(logits[row : row + 1], starts, stops, gmacs)
