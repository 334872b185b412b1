"""The one data set class: a list of videos, a rule that picks views, a transform. All data sets of the
project are lists for it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from revit_video.data.label_maps import LabelMaps
from revit_video.data.sample_list import SampleList
from revit_video.decode import DecodeError, VideoReader, open_video
from revit_video.transform.clip import resize_short_side
from revit_video.types import InputError, VideoSample, View


@dataclass(frozen=True)
class Item:
    """All views of one video: clips uint8 (V, T, C, H, W) and the label of each. A video that cannot be read
    has no clips but a reason.
    """

    index: int
    label: int  # of the video, and of its first clip where it could be read
    clips: Tensor | None
    unreadable: str = ""
    clip_labels: tuple[int, ...] = ()  # V of them: a mirrored clip may have another label than its video
    label_map: Tensor | None = None  # (2, k, h, w), see data.label_maps
    places: Tensor | None = None  # (V, 2, 3), of the clips in the map, see transform.place


@dataclass(frozen=True)
class Batch:
    """Items side by side. B counts the readable videos only.

    Attributes:
        clips: uint8 (B, V, T, C, H, W).
        labels: (B,), of the first clip of each video. In evaluation all its clips have that label.
        indices: (B,), places in the list.
        rows: (B,), places in the batch that was asked for, unreadable videos counted; of the batch of all
            processes where several share one.
        clip_labels: (B, V), the label of every clip.
        unreadable: the other items.
        label_maps: (B, 2, k, h, w), of the videos; None: the data set has none. places: (B, V, 2, 3), of each
            clip in its video's map.
    """

    clips: Tensor
    labels: Tensor
    indices: Tensor
    rows: Tensor
    clip_labels: Tensor
    unreadable: tuple[Item, ...] = ()
    label_maps: Tensor | None = None
    places: Tensor | None = None

    def pin_memory(self) -> Batch:
        """Its clips in page-locked memory, from where a GPU copies them while others compute."""
        return replace(self, clips=self.clips.pin_memory())


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
        repeats: clips (or sets of views) of a video, each with draws of its own, from one decoding (repeated
            augmentation, arXiv:1902.05509). It is decoded at the largest short side that was drawn, and
            resized once more for the others.
        label_maps: of the samples, to be given out with every clip's place in them; the transform must have
            `placed`.

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
        repeats: int = 1,
        label_maps: LabelMaps | None = None,
    ) -> None:
        if repeats < 1:
            raise InputError(f"repeats is {repeats}, but a video must give at least 1 clip")
        self.samples, self.pick_views, self.transform = SampleList(samples), pick_views, transform
        self.decoder, self.seed, self.repeats = decoder, seed, repeats
        self.label_maps = label_maps
        self.cache: dict[str, tuple[np.ndarray, float]] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        epoch, index = key
        sample = self.samples[index]
        rng = random.Random(f"{self.seed}/{epoch}/{index}")
        try:
            if self.label_maps is None:
                clips, labels = self.read(sample, rng)
                return Item(index, labels[0], clips, clip_labels=labels)
            made = [self.transform.placed(*shown) for shown in self._shown(sample, rng)]
        except DecodeError as error:
            return Item(index, sample.label, None, str(error))
        clips, labels, places = zip(*made, strict=True)
        label_map = self.label_maps.read(sample.path)
        return Item(
            index,
            labels[0],
            torch.stack(clips),
            clip_labels=labels,
            label_map=label_map,
            places=torch.stack(places),
        )

    def read(self, sample: VideoSample, rng: random.Random) -> tuple[Tensor, tuple[int, ...]]:
        """All views of one video, uint8 (V, T, C, H, W), and their labels; a DecodeError where it cannot be
        read.
        """
        made = [self.transform(*shown) for shown in self._shown(sample, rng)]
        return torch.stack([clip for clip, _ in made]), tuple(label for _, label in made)

    def _shown(self, sample: VideoSample, rng: random.Random) -> Iterator[tuple]:
        """For each view what the transform is given: frames, view, label and generator."""
        if self.cache is not None:
            everything, fps = self._cached(sample.path)
            begin, num_frames = extent(sample, len(everything), self.decoder)
            drawn = self._draw(num_frames, rng, fps)
            shown = (everything[begin + np.array(view.frames)] for view, _ in drawn)
        else:
            with open_video(sample.path, decoder=self.decoder) as video:
                begin, num_frames = extent(sample, video.num_frames, video.decoder)
                drawn = self._draw(num_frames, rng, frame_rate(video))
                wanted = np.unique([view.frames for view, _ in drawn])
                largest = max(side for _, side in drawn)
                decoded = video.frames((begin + wanted).tolist(), short_side=largest)
            shown = (decoded[np.searchsorted(wanted, view.frames)] for view, _ in drawn)
        for frames, (view, side) in zip(shown, drawn, strict=True):
            yield resize_short_side(frames, side), view, sample.label, rng

    def item_bytes(self) -> int:
        """Of the clips of one video, found out on an empty one."""
        rng, num_bytes = random.Random(0), 0
        for view, side in self._draw(1, rng, 0.0):
            frames = np.zeros((len(view.frames), side, side, 3), np.uint8)
            num_bytes += self.transform(frames, view, 0, rng)[0].nbytes
        return num_bytes + (4 * math.prod(self.label_maps.shape) if self.label_maps else 0)

    def _draw(self, num_frames: int, rng: random.Random, fps: float) -> list[tuple[View, int]]:
        """The views to read, each with the short side that its frames get, in pixels."""
        drawn = []
        for _ in range(self.repeats):
            side = self.transform.short_side(rng)
            drawn += [(view, side) for view in self.pick_views(num_frames, rng, fps)]
        return drawn

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


def collate(items: Sequence[Item], *, first_row: int = 0) -> Batch:
    """Stack the readable items; name the others. `first_row` is the row of the first item."""
    good = [(row, item) for row, item in enumerate(items, start=first_row) if item.clips is not None]

    def column(values: Sequence) -> Tensor:
        return torch.tensor(values, dtype=torch.long)

    return Batch(
        clips=torch.stack([item.clips for _, item in good]) if good else torch.empty(0, dtype=torch.uint8),
        labels=column([item.label for _, item in good]),
        indices=column([item.index for _, item in good]),
        rows=column([row for row, _ in good]),
        clip_labels=column([item.clip_labels for _, item in good]),
        unreadable=tuple(item for item in items if item.clips is None),
        **{
            field: torch.stack([getattr(item, name) for _, item in good])
            for field, name in (("label_maps", "label_map"), ("places", "places"))
            if good and getattr(good[0][1], name) is not None
        },
    )


class UnreadableLimit:
    """Counts the videos that could not be read and stops the run, with their list, above a share of the data
    set.
    """

    def __init__(self, num_videos: int, *, max_share: float, warn: Callable[[str], None] = print) -> None:
        self.num_videos, self.max_share, self.warn = num_videos, max_share, warn
        self.reasons: dict[int, str] = {}

    def check(self, batch: Batch) -> None:
        self.note({item.index: item.unreadable for item in batch.unreadable})

    def note(self, reasons: Mapping[int, str]) -> None:
        """Count videos by their index in the list, each once, and name the new ones."""
        for index, reason in reasons.items():
            if index not in self.reasons:
                self.reasons[index] = reason
                self.warn(f"skipped: {reason}")
        if len(self.reasons) > self.max_share * self.num_videos:
            listed = "; ".join(list(self.reasons.values())[:5])
            raise InputError(
                f"{len(self.reasons)} of {self.num_videos} videos cannot be read, more than "
                f"data.max_unreadable={self.max_share:g} allows; repair them, take them off the list or "
                f"raise the limit. First: {listed}"
            )
