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

from revit_video.data.sample_list import SampleList
from revit_video.decode import DecodeError, VideoReader, open_video
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
        pick_views: (number of frames, rng, frames per second or 0) to the views to read.
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
        pick_views: Callable[[int, random.Random, float], Sequence[View]],
        transform: Callable,
        decoder: str = "auto",
        cache: bool = False,
        seed: int = 0,
    ) -> None:
        self.samples, self.pick_views, self.transform = SampleList(samples), pick_views, transform
        self.decoder, self.seed = decoder, seed
        self.cache: dict[str, tuple[np.ndarray, float]] | None = {} if cache else None

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
            everything, fps = self._cached(sample.path)
            begin, num_frames = extent(sample, len(everything), self.decoder)
            views = self.pick_views(num_frames, rng, fps)
            taken = [begin + np.array(view.frames) for view in views]
            pictures = [resize_short_side(everything[rows], short_side) for rows in taken]
        else:
            with open_video(sample.path, decoder=self.decoder) as video:
                begin, num_frames = extent(sample, video.num_frames, video.decoder)
                views = self.pick_views(num_frames, rng, frame_rate(video))
                wanted, place = np.unique([view.frames for view in views], return_inverse=True)
                decoded = video.frames((begin + wanted).tolist(), short_side=short_side)
            pictures = [decoded[rows] for rows in place.reshape(len(views), -1)]
        made = [
            self.transform(frames, view, sample.label, rng)
            for frames, view in zip(pictures, views, strict=True)
        ]
        return torch.stack([clip for clip, _ in made]), made[0][1]

    def _cached(self, path: str) -> tuple[np.ndarray, float]:
        """All frames of a video, and how many of them make a second."""
        if path not in self.cache:
            with open_video(path, decoder=self.decoder) as video:
                frames = video.frames(range(video.num_frames), short_side=self.transform.max_short_side)
                self.cache[path] = frames, frame_rate(video)
        return self.cache[path]


def frame_rate(video: VideoReader) -> float:
    """Frames per second of a video; 0 where it does not say (folders of frames, images)."""
    return video.fps if video.fps_known else 0.0


def extent(sample: VideoSample, num_frames: int, decoder: str) -> tuple[int, int]:
    """(first frame, number of frames) of a sample in a video that has `num_frames`.

    A part that reaches past the end by up to 3 frames or 5% of itself is cut: lists count a little
    differently from decoders. One that lacks more is unreadable (DecodeError).
    """
    end = sample.end or num_frames
    length, there = end - sample.begin, min(end, num_frames) - sample.begin
    if there < 1 or length - there > max(3, length // 20):
        reason = f"has {num_frames} frames, the list asks for {sample.begin} to {end - 1}"
        raise DecodeError(sample.path, decoder, reason)
    return sample.begin, there


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
