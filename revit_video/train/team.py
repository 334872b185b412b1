"""Who runs what of a step, and who is there: the part of each process, the clips that could be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, combinations, pairwise

import torch

from revit_video.data.dataset import Batch
from revit_video.data.loader import rows_of_part
from revit_video.train.world import Share, World
from revit_video.types import InputError


@dataclass(frozen=True)
class Group:
    """`ranks` processes that each run these levels, on a part of the batch each."""

    levels: tuple[int, ...]
    ranks: int


def split_levels(costs: Sequence[float], size: int) -> tuple[Group, ...]:
    """Groups of `size` processes for levels of these costs, so that the slowest one is as fast as can be.

    A group runs neighbouring levels, each process on its part of the batch, so it takes (cost of its
    levels) / (its processes). There are two groups or more; of equally fast ways, the one of fewest groups.

        split_levels([10, 5, 2], 3)   longest alone on two processes, the others on the third: 10/2 and 7/1
    """
    levels = len(costs)
    if levels < 2 or size < 2:
        return (Group(tuple(range(levels)), size),)
    best: tuple[float, tuple[Group, ...]] | None = None
    for cuts in range(1, min(levels, size)):
        for middle in combinations(range(1, levels), cuts):
            runs = [tuple(range(*ends)) for ends in pairwise((0, *middle, levels))]
            groups = staffed(runs, costs, size)
            slowest = max(time_of(group, costs) for group in groups)
            if best is None or slowest < best[0] * (1 - 1e-9):
                best = slowest, groups
    assert best is not None
    return best[1]


def staffed(runs: Sequence[tuple[int, ...]], costs: Sequence[float], size: int) -> tuple[Group, ...]:
    """The processes over runs of levels: one each, and every other one where it is slowest."""
    groups = [Group(run, 1) for run in runs]
    for _ in range(size - len(runs)):
        slowest = max(range(len(groups)), key=lambda i: time_of(groups[i], costs))
        groups[slowest] = replace(groups[slowest], ranks=groups[slowest].ranks + 1)
    return tuple(groups)


def time_of(group: Group, costs: Sequence[float]) -> float:
    return sum(costs[level] for level in group.levels) / group.ranks


def idle_share(groups: Sequence[Group], costs: Sequence[float]) -> float:
    """Part of all processes' time that is spent waiting for the slowest group."""
    busy = sum(time_of(group, costs) * group.ranks for group in groups)
    return 1 - busy / (max(time_of(group, costs) for group in groups) * sum(group.ranks for group in groups))


@dataclass(frozen=True)
class Team:
    """The shares of all processes, by rank.

    batch_size: videos of a step. even: neighbours (0, 1), (2, 3), ... stay together, for mixing.
    """

    shares: tuple[Share, ...]
    batch_size: int
    even: bool = False

    @classmethod
    def of_all(cls, levels: Sequence[int], world: World, **kind) -> Team:
        """Every process runs these levels on a part of its own."""
        return cls(tuple(Share(tuple(levels), rank, world.size) for rank in range(world.size)), **kind)

    @classmethod
    def of_groups(cls, groups: Sequence[Group], **kind) -> Team:
        """Ranks in order: the first group's, the second's, ..."""
        return cls(tuple(Share(g.levels, part, g.ranks) for g in groups for part in range(g.ranks)), **kind)

    @property
    def levels(self) -> tuple[int, ...]:
        """Of the step, over all processes."""
        return tuple(sorted({level for share in self.shares for level in share.levels}))

    @property
    def runs(self) -> tuple[tuple[int, ...], ...]:
        """The levels of each group."""
        return tuple(dict.fromkeys(share.levels for share in self.shares))

    def rows(self, rank: int) -> range:
        """Of the batch, that this process reads."""
        share = self.shares[rank]
        return rows_of_part(self.batch_size, part=share.part, parts=share.parts, even=self.even)


@dataclass(frozen=True)
class Present:
    """What is there of a step's batch, once every process has read its part.

    batch: of this process, without videos that another group could not read: all levels learn from the same.
    rows: of the batch, that are there, in order; the same on every process.
    by_rank: of them, those of each process.
    unreadable: index in the list and reason, of all processes.
    weight: of the mean loss of this process's clips in the exchange of gradients.
    """

    batch: Batch
    rows: tuple[int, ...]
    by_rank: tuple[tuple[int, ...], ...]
    unreadable: dict[int, str]
    weight: float

    @property
    def complete(self) -> bool:
        """Whether every process has something to do."""
        return all(self.by_rank)


def roll_call(world: World, team: Team, batch: Batch, *, at: str) -> Present:
    """Find out who has read what: one small exchange, and a second one where a video is missing.

    at: the place in the run, such as "step 3", for messages.
    """
    here = [0.0] * team.batch_size
    for row in batch.rows.tolist():
        here[row] = 1.0
    groups = len(team.runs)
    seen = world.sum(here, at=at) if world.size > 1 else here
    rows = tuple(row for row, count in enumerate(seen) if count == groups)
    unreadable = {item.index: item.unreadable for item in batch.unreadable}
    if len(rows) < team.batch_size and world.size > 1:
        unreadable = {key: why for part in world.gather(unreadable) for key, why in part.items()}
        batch = only_rows(batch, set(rows))
    there = set(rows)
    by_rank = tuple(tuple(row for row in team.rows(rank) if row in there) for rank in range(world.size))
    weight = world.size * len(by_rank[world.rank]) / max(1, len(rows))
    return Present(batch, rows, by_rank, dict(sorted(unreadable.items())), weight)


def only_rows(batch: Batch, rows: set[int]) -> Batch:
    """A batch without the videos of other rows."""
    keep = torch.tensor([row in rows for row in batch.rows.tolist()], dtype=torch.bool)
    if keep.all():
        return batch
    names = ("clips", "labels", "indices", "rows", "clip_labels", "label_maps", "places")
    columns = {name: getattr(batch, name) for name in names}
    return replace(batch, **{name: column[keep] for name, column in columns.items() if column is not None})


def team_lines(
    team: Team, groups: Sequence[Group], costs: Sequence[float], lengths: Sequence[int]
) -> list[str]:
    """What a run says of its processes: who runs what, and what part of their time they will wait."""
    size = len(team.shares)
    if size == 1:
        return []
    if len(team.runs) == 1:
        most = max(len(team.rows(rank)) for rank in range(size))
        listed = ", ".join(map(str, lengths))
        what = f"lengths {listed} on up to {most} of the {team.batch_size} clips of a step"
        return [f"{size} processes: all run {what}"]
    firsts = [0, *accumulate(group.ranks for group in groups)]
    lines = []
    for first, group in zip(firsts[:-1], groups, strict=True):
        ranks = f"rank {first}" if group.ranks == 1 else f"ranks {first} to {first + group.ranks - 1}"
        listed = ", ".join(str(lengths[level]) for level in group.levels)
        most = max(len(team.rows(first + part)) for part in range(group.ranks))
        lines.append(f"{ranks}: lengths {listed} on up to {most} of the {team.batch_size} clips of a step")
    idle = 100 * idle_share(groups, costs)
    return [*lines, f"expected: {idle:.0f}% of the processes' time is spent waiting for the slowest group"]


def refuse_what_cannot_be_parted(*, transfers: bool, statistics: bool, tokens_mixed: bool = False) -> None:
    """What length-parallel training cannot do."""
    if tokens_mixed:
        raise InputError(
            "augment.mix_token mixes the clips of a pass, and with distributed.lengths=parallel the "
            "teacher's passes have others; set distributed.lengths=sequential or augment.mix_token=0"
        )
    if transfers:
        raise InputError(
            "distributed.lengths=parallel sends logits from process to process, no maps; set "
            "revit.feature_transfer=0 and revit.attention_transfer=0, or distributed.lengths=sequential"
        )
    if statistics:
        raise InputError(
            "this model has batch normalisation, and the statistics of a length would lie in the processes "
            "that run it; set distributed.lengths=sequential"
        )
