"""Which videos come in which order. A training stream is a pure function of (seed, step), so a run can start
anywhere in it, and the processes that share it need not talk.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch.utils.data import Sampler

from revit_video.data.dataset import VideoDataset, collate
from revit_video.data.workers import WorkerBatches
from revit_video.types import InputError


class StepSampler(Sampler):
    """Keys (epoch, index) in batches, from `start_step` to `total_steps`; every epoch is a new permutation of
    all videos.

    Batches run across the end of an epoch, so that each of them is full and every video comes exactly once
    per epoch. `rows` of each batch are given out: those that one process of several reads; None: all.
    """

    def __init__(
        self,
        num_videos: int,
        *,
        batch_size: int,
        total_steps: int,
        seed: int,
        start_step: int = 0,
        rows: range | None = None,
    ) -> None:
        self.num_videos, self.batch_size, self.seed = num_videos, batch_size, seed
        self.total_steps, self.start_step = total_steps, start_step
        self.rows = range(batch_size) if rows is None else rows

    def __len__(self) -> int:
        return max(0, self.total_steps - self.start_step)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = -1, []
        for step in range(self.start_step, self.total_steps):
            batch = []
            for row in self.rows:
                position = step * self.batch_size + row
                if position // self.num_videos != epoch:
                    epoch = position // self.num_videos
                    generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
                    order = torch.randperm(self.num_videos, generator=generator).tolist()
                batch.append((epoch, order[position % self.num_videos]))
            yield batch


def rows_of_part(batch_size: int, *, part: int, parts: int, even: bool = False) -> range:
    """The rows of a batch that process `part` of `parts` reads: neighbours, as equally many as can be.

    With `even` they begin at an even row, so that the pairs (0, 1), (2, 3), ... stay together.
    """
    if not 0 <= part < parts:
        raise InputError(f"process {part} of {parts} does not exist; they are counted from 0")
    if batch_size < (2 * parts if even else parts):
        each = "a pair of clips" if even else "a clip"
        raise InputError(
            f"a batch of {batch_size} does not give each of {parts} processes {each}; "
            "take a larger batch or fewer processes"
        )
    begin, end = (cut * batch_size // parts for cut in (part, part + 1))
    if even:
        begin, end = begin // 2 * 2, batch_size if part == parts - 1 else end // 2 * 2
    return range(begin, end)


def train_batches(
    dataset: VideoDataset,
    *,
    batch_size: int,
    total_steps: int,
    seed: int,
    start_step: int = 0,
    num_workers: int = 0,
    part: int = 0,
    parts: int = 1,
    even: bool = False,
    **options,
) -> WorkerBatches:
    """One batch per optimizer step.

    Args:
        batch_size: videos of a step, of all processes together.
        start_step: the first step of what is left of the stream.
        part, parts: this process reads its rows of each batch (`rows_of_part`). The whole batch of a step is
            the same for every number of processes and workers.
        even: rows 2i and 2i + 1 are read by one process.
        options: prefetch, pin_memory and the others of WorkerBatches.

    Raises:
        InputError: the batch has too few videos for so many processes.
    """
    rows = rows_of_part(batch_size, part=part, parts=parts, even=even)
    sampler = StepSampler(
        len(dataset),
        batch_size=batch_size,
        total_steps=total_steps,
        seed=seed,
        start_step=start_step,
        rows=rows,
    )
    return WorkerBatches(
        dataset,
        sampler,
        collate=partial(collate, first_row=rows.start),
        num_workers=num_workers,
        batch_bytes=lambda: len(rows) * dataset.item_bytes(),
        **options,
    )


def eval_batches(
    dataset: VideoDataset,
    *,
    videos_per_batch: int,
    num_workers: int = 0,
    part: int = 0,
    parts: int = 1,
    **options,
) -> WorkerBatches:
    """Every video once, in the order of the list; the last batch may be smaller.

    Process `part` of `parts` reads every parts-th video from number `part` on: none, if there are too few.
    `options` are those of WorkerBatches: prefetch, pin_memory, ...
    """
    keys = [(0, index) for index in range(part, len(dataset), parts)]
    return WorkerBatches(
        dataset,
        [keys[i : i + videos_per_batch] for i in range(0, len(keys), videos_per_batch)],
        collate=collate,
        num_workers=num_workers,
        batch_bytes=lambda: videos_per_batch * dataset.item_bytes(),
        **options,
    )
