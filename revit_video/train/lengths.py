"""Length-parallel training: the teacher's logits travel to the processes that run the shorter lengths.

ReViT, arXiv:2307.02092, section 3.3. A pupil runs its own forward pass before it waits for them, and takes
its clips in the order in which the teachers come to them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from revit_video.train.team import Present, Team
from revit_video.train.world import World


class Teaching:
    """The logits of one step on their way. Every process of a length-parallel step has one.

    Args:
        views: clips of a video; clip v of the video in row r is number r * views + v of the step.
        num_classes: K of the logits.
        micro_batch: most clips of a pass; 0: all of a process.

    Attributes:
        pieces: places among this process's clips, pass by pass.
        is_pupil: whether the teacher of its levels is in other processes.
    """

    def __init__(
        self, world: World, team: Team, present: Present, *, views: int, num_classes: int, micro_batch: int
    ) -> None:
        self.world = world
        clips = [[row * views + view for row in rows for view in range(views)] for rows in present.by_rank]
        teachers = [rank for rank, share in enumerate(team.shares) if team.levels[0] in share.levels]
        turns = {  # of each clip: the pass of the teacher that comes to it, and that teacher
            clip: (number, rank)
            for rank in teachers
            for number, piece in enumerate(pieces_of(clips[rank], micro_batch))
            for clip in piece
        }
        ours = clips[world.rank]
        self.is_pupil = world.rank not in teachers
        order = range(len(ours))
        if self.is_pupil:
            order = sorted(order, key=lambda place: turns[ours[place]][0])
        self.pieces = pieces_of(order, micro_batch)
        self.clips = [[ours[place] for place in piece] for piece in self.pieces]
        pupils = [] if self.is_pupil else [rank for rank in range(world.size) if rank not in teachers]
        self.pupils = {rank: set(clips[rank]) for rank in pupils}
        self.sent: list[tuple[dist.Work, Tensor]] = []
        self.awaited: dict[tuple[int, int], dist.Work] = {}
        self.logits: dict[int, Tensor] = {}  # (K,) of each clip, from when its letter has come
        if self.is_pupil:
            self._expect(turns, clips, num_classes)
        self.turns = turns

    def _expect(self, turns: dict[int, tuple[int, int]], clips: list[list[int]], num_classes: int) -> None:
        """Ask for every letter that will come: a teacher's pass, of its clips those that are ours too."""
        ours, contents = set(clips[self.world.rank]), {}
        for clip, turn in turns.items():
            if clip in ours:
                contents.setdefault(turn, []).append(clip)
        for (number, rank), listed in contents.items():
            letter = torch.empty(len(listed), num_classes)
            self.logits |= dict(zip(listed, letter, strict=True))
            with self.world.watching():
                work = dist.irecv(letter, rank, group=self.world.wire, tag=number)
            self.awaited[number, rank] = work

    def send(self, number: int, logits: Tensor) -> None:
        """Of the teacher's pass `number`: logits (M, K), right after its forward pass."""
        told = logits.detach().float().cpu()
        for rank, wanted in self.pupils.items():
            places = [place for place, clip in enumerate(self.clips[number]) if clip in wanted]
            if places:
                letter = told[places]
                with self.world.watching():
                    work = dist.isend(letter, rank, group=self.world.wire, tag=number)
                self.sent.append((work, letter))  # it must live until it has arrived

    def receive(self, number: int, device: torch.device) -> Tensor:
        """The teacher's logits (M, K) for the pupil's pass `number`; waits for them."""
        for turn in {self.turns[clip] for clip in self.clips[number]} & self.awaited.keys():
            with self.world.watching():
                self.awaited.pop(turn).wait()
        return torch.stack([self.logits[clip] for clip in self.clips[number]]).to(device)

    def close(self) -> None:
        """Wait until all that was sent has arrived."""
        for work, _ in self.sent:
            with self.world.watching():
                work.wait()
        self.sent = []


def pieces_of(things: Sequence[int], size: int) -> list[list[int]]:
    """In order, at most `size` each; 0: all in one. Nothing has no pieces."""
    size = size or max(1, len(things))
    return [list(things[i : i + size]) for i in range(0, len(things), size)]
