"""The processes of stage 1: what each of them reads and runs of a step, and how that becomes one step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from revit_video.backbones.core import ReViT
from revit_video.data.dataset import Batch, VideoDataset
from revit_video.data.loader import train_batches
from revit_video.train.lengths import pieces_of
from revit_video.train.parallel import build_exchange, has_statistics
from revit_video.train.revit import Together
from revit_video.train.team import (
    Present,
    Team,
    refuse_what_cannot_be_parted,
    roll_call,
    split_levels,
    team_lines,
)
from revit_video.train.world import World


class Crew:
    """One process alone is a crew too.

    Args:
        batch_size: videos of a step, over all processes.
        grow_at: first step of all lengths; before it all processes run the shortest.
        costs: relative time of each length, to part the lengths by; None: every process runs all of them.
        even: neighbours in the batch are read by one process, for mixing.
        micro_batch: most clips of a pass; 0: all of a process.
        forward: called in place of the model, see `build_exchange`.
        tokens_mixed: whether clips take tokens from others of their pass.
        transfers: whether maps, and not only logits, go from the teacher to the shorter lengths.
    """

    def __init__(
        self,
        model: ReViT,
        world: World,
        *,
        batch_size: int,
        grow_at: int = 0,
        costs: Sequence[float] | None = None,
        even: bool = False,
        micro_batch: int = 0,
        forward: Callable | None = None,
        transfers: bool = False,
        tokens_mixed: bool = False,
    ) -> None:
        self.model, self.world, self.grow_at, self.micro_batch = model, world, grow_at, micro_batch
        levels = range(model.num_levels)
        kind = {"batch_size": batch_size, "even": even}
        self.growing = Team.of_all((levels[-1],), world, **kind)
        self.grown = Team.of_all(levels, world, **kind)
        self.lines = team_lines(self.grown, (), (), model.token_lengths)
        if costs is not None and world.size > 1:
            refuse_what_cannot_be_parted(
                transfers=transfers, statistics=has_statistics(model), tokens_mixed=tokens_mixed
            )
            groups = split_levels(costs, world.size)
            self.grown = Team.of_groups(groups, **kind)
            self.lines = team_lines(self.grown, groups, costs, model.token_lengths)
        self.exchange = build_exchange(model, world, forward=forward)
        if world.size > 1:  # what a process draws, as for stochastic depth, is its own
            torch.manual_seed(torch.initial_seed() + 7919 * world.rank)

    def team(self, step: int) -> Team:
        return self.growing if step < self.grow_at else self.grown

    def batches(
        self, dataset: VideoDataset, *, start_step: int, total_steps: int, **loading: Any
    ) -> Iterator[Batch]:
        """This process's part of every step's batch; `loading` are more arguments of `train_batches`."""
        same = self._part(self.growing) == self._part(self.grown)
        middle = start_step if same else min(max(self.grow_at, start_step), total_steps)
        for team, begin, end in ((self.growing, start_step, middle), (self.grown, middle, total_steps)):
            if begin < end:
                part, parts = self._part(team)
                yield from train_batches(
                    dataset,
                    batch_size=team.batch_size,
                    start_step=begin,
                    total_steps=end,
                    part=part,
                    parts=parts,
                    even=team.even,
                    **loading,
                )

    def sizes(self, *, views: int) -> set[int]:
        """How many clips the passes of this process have, where all videos can be read. views: of a video."""
        clips = {len(team.rows(self.world.rank)) * views for team in (self.growing, self.grown)}
        return {len(piece) for number in clips for piece in pieces_of(range(number), self.micro_batch)}

    def _part(self, team: Team) -> tuple[int, int]:
        share = team.shares[self.world.rank]
        return share.part, share.parts

    def roll_call(self, step: int, batch: Batch) -> Present:
        """Which of the step's videos are there, by this process's part of them; all processes ask."""
        return roll_call(self.world, self.team(step), batch, at=f"step {step}")

    def part(self, step: int, present: Present, *, views: int) -> dict[str, Any]:
        """What `revit_step` is to do here: levels, weight, micro_batch, together. views: clips of a video."""
        team = self.team(step)
        together = Together.of(
            self.world,
            team,
            present,
            self.exchange,
            views=views,
            num_classes=self.model.num_classes,
            micro_batch=self.micro_batch,
        )
        return {
            "levels": team.shares[self.world.rank].levels,
            "weight": present.weight,
            "micro_batch": self.micro_batch,
            "together": together,
        }
