"""Which videos come in which order. A training stream is a pure function of (seed, step), so a run can start
anywhere in it.
"""

from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, Sampler

from revit_video.data.dataset import Batch, VideoDataset, collate


class StepSampler(Sampler):
    """Keys (epoch, index) in batches, from `start_step` to `total_steps`; every epoch is a new permutation of
    all videos.

    Batches run across the end of an epoch, so that each of them is full and every video comes exactly once
    per epoch.
    """

    def __init__(
        self, num_videos: int, *, batch_size: int, total_steps: int, seed: int, start_step: int = 0
    ) -> None:
        self.num_videos, self.batch_size, self.seed = num_videos, batch_size, seed
        self.total_steps, self.start_step = total_steps, start_step

    def __len__(self) -> int:
        return max(0, self.total_steps - self.start_step)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = -1, []
        for step in range(self.start_step, self.total_steps):
            batch = []
            for position in range(step * self.batch_size, (step + 1) * self.batch_size):
                if position // self.num_videos != epoch:
                    epoch = position // self.num_videos
                    generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
                    order = torch.randperm(self.num_videos, generator=generator).tolist()
                batch.append((epoch, order[position % self.num_videos]))
            yield batch


def train_batches(
    dataset: VideoDataset,
    *,
    batch_size: int,
    total_steps: int,
    seed: int,
    start_step: int = 0,
    num_workers: int = 0,
) -> DataLoader:
    """One batch per optimizer step."""
    sampler = StepSampler(
        len(dataset), batch_size=batch_size, total_steps=total_steps, seed=seed, start_step=start_step
    )
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=num_workers,
        # Starting a loader draws a number: not from the global stream, or a resumed run would differ.
        generator=torch.Generator(),
    )


def eval_batches(dataset: VideoDataset, *, videos_per_batch: int, num_workers: int = 0) -> Iterator[Batch]:
    """Every video once, in the order of the list; the last batch may be smaller."""
    keys = [(0, index) for index in range(len(dataset))]
    batches = [keys[i : i + videos_per_batch] for i in range(0, len(keys), videos_per_batch)]
    return iter(DataLoader(dataset, batch_sampler=batches, collate_fn=collate, num_workers=num_workers))
