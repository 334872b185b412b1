"""The one data set class: a list of videos, a rule that picks views, a transform. All data sets of the
project are lists for it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from revit_video.decode import DecodeError, open_video
from revit_video.transform.clip import resize_short_side
from revit_video.types import InputError, VideoSample, View


@dataclass(frozen=True)
class Item:
    """All views of one video: clips uint8 (V, T, C, H, W). A video that cannot be read has no clips but a
    reason.
    """

    index: int
    label: int
    clips: Tensor | None
    unreadable: str = ""


@dataclass(frozen=True)
class Batch:
    """Items side by side: clips uint8 (B, V, T, C, H, W) of the readable videos, their labels (B,) and list
    indices (B,).
    """

    clips: Tensor
    labels: Tensor
    indices: Tensor
    unreadable: tuple[Item, ...] = ()


class VideoDataset(Dataset):
    """Videos as stacks of views.

    Args:
        samples: the list.
        pick_views: (number of frames, rng) to the views to read.
        transform: frames of a view to a clip, see transform.clip.
        decoder: reader for `open_video`.
        cache: keep every video's frames in memory after the first read, at the transform's largest short side
            (small data sets, no worker processes).
        seed: with the epoch and the index it fixes every draw, whatever the number of workers.

    Items are asked for by (epoch, index). A video that cannot be read is returned as such; it is never
    replaced.
    """

    def __init__(
        self,
        samples: Sequence[VideoSample],
        *,
        pick_views: Callable[[int, random.Random], Sequence[View]],
        transform: Callable,
        decoder: str = "auto",
        cache: bool = False,
        seed: int = 0,
    ) -> None:
        self.samples, self.pick_views, self.transform = tuple(samples), pick_views, transform
        self.decoder, self.seed = decoder, seed
        self.cache: dict[str, np.ndarray] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        epoch, index = key
        sample = self.samples[index]
        rng = random.Random(f"{self.seed}/{epoch}/{index}")
        try:
            clips, label = self.read(sample, rng)
        except DecodeError as error:
            return Item(index, sample.label, None, str(error))
        return Item(index, label, clips)

    def read(self, sample: VideoSample, rng: random.Random) -> tuple[Tensor, int]:
        """All views of one video, uint8 (V, T, C, H, W), and its label; a DecodeError where it cannot be
        read.
        """
        short_side = self.transform.short_side(rng)
        if self.cache is not None:
            everything = self._cached(sample.path)
            views = self.pick_views(len(everything), rng)
            pictures = [resize_short_side(everything[list(view.frames)], short_side) for view in views]
        else:
            with open_video(sample.path, decoder=self.decoder) as video:
                views = self.pick_views(video.num_frames, rng)
                wanted, place = np.unique([view.frames for view in views], return_inverse=True)
                decoded = video.frames(wanted.tolist(), short_side=short_side)
            pictures = [decoded[rows] for rows in place.reshape(len(views), -1)]
        made = [
            self.transform(frames, view, sample.label, rng)
            for frames, view in zip(pictures, views, strict=True)
        ]
        return torch.stack([clip for clip, _ in made]), made[0][1]

    def _cached(self, path: str) -> np.ndarray:
        if path not in self.cache:
            with open_video(path, decoder=self.decoder) as video:
                self.cache[path] = video.frames(
                    range(video.num_frames), short_side=self.transform.max_short_side
                )
        return self.cache[path]


def collate(items: Sequence[Item]) -> Batch:
    """Stack the readable items; name the others."""
    good = [item for item in items if item.clips is not None]
    clips = torch.stack([item.clips for item in good]) if good else torch.empty(0, dtype=torch.uint8)
    return Batch(
        clips,
        torch.tensor([item.label for item in good], dtype=torch.long),
        torch.tensor([item.index for item in good], dtype=torch.long),
        tuple(item for item in items if item.clips is None),
    )


class UnreadableLimit:
    """Counts the videos that could not be read and stops the run, with their list, above a share of the data
    set.
    """

    def __init__(self, num_videos: int, *, max_share: float, warn: Callable[[str], None] = print) -> None:
        self.num_videos, self.max_share, self.warn = num_videos, max_share, warn
        self.reasons: dict[int, str] = {}

    def check(self, batch: Batch) -> None:
        for item in batch.unreadable:
            if item.index not in self.reasons:
                self.reasons[item.index] = item.unreadable
                self.warn(f"skipped: {item.unreadable}")
        if len(self.reasons) > self.max_share * self.num_videos:
            listed = "; ".join(list(self.reasons.values())[:5])
            raise InputError(
                f"{len(self.reasons)} of {self.num_videos} videos cannot be read, more than "
                f"data.max_unreadable={self.max_share:g} allows; repair them, take them off the list or "
                f"raise the limit. First: {listed}"
            )
