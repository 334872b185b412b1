"""What all stages share: the run's folder, the device, and a pass over a list of videos."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from revit_video.backbones.core import ReViT
from revit_video.data.dataset import Batch, UnreadableLimit, VideoDataset
from revit_video.data.loader import eval_batches
from revit_video.evaluate.run import Scores, merge_scores, score_views
from revit_video.routing.assigner import Assigner
from revit_video.train.log import RunLog
from revit_video.train.world import World


@dataclass(frozen=True)
class RunFolder:
    """The files of a run, each in one place."""

    path: Path

    config = property(lambda self: self.path / "config.yaml")
    progress = property(lambda self: self.path / "checkpoints")  # of an unfinished stage 1, by steps
    revit = property(lambda self: self.path / "checkpoints" / "revit.pt")
    labels = property(lambda self: self.path / "labels.json")
    labels_so_far = property(lambda self: self.path / "labels_so_far.json")  # of an unfinished stage
    exits = property(lambda self: self.path / "exits.json")  # of a cascade, which has no assigner
    assigner = property(lambda self: self.path / "checkpoints" / "assigner.pt")
    recognizer = property(lambda self: self.path / "recognizer.pt")  # backbone, assigner and bias in one file
    report = property(lambda self: self.path / "report.json")
    log = property(lambda self: self.path / "log.jsonl")  # only training writes one


@dataclass(frozen=True)
class Device:
    """Where and how numbers are computed."""

    device: torch.device
    dtype: torch.dtype  # of evaluation; training keeps float32 weights and computes under `autocast`
    autocast: Callable[[], AbstractContextManager]
    to_clips: Callable[..., Tensor]  # uint8 (M, T, C, H, W) to normalised (M, C, T, H, W) on the device
    world: World = field(default_factory=World)  # the processes that share the work


def all_levels(model: ReViT, assigner: Assigner | None = None) -> Callable[[Tensor], dict[str, Tensor]]:
    """A predictor for `score_views`: logits (M, L, K) at every level, and the assigner's (M, L)."""

    def predict(clips: Tensor) -> dict[str, Tensor]:
        scores = {"logits": torch.stack([model(clips, level) for level in range(model.num_levels)], dim=1)}
        return scores if assigner is None else scores | {"assigner": assigner(clips)}

    return predict


@dataclass
class EvalJob:
    """A pass over a list with evaluation views: the labels stage and the test.

    max_unreadable: share of the list that may be unreadable before the pass stops.
    part, parts: this process scores every parts-th video from number `part` on.
    gather: the scores of this process to those of all processes; each then has the whole list's.
    """

    dataset: VideoDataset
    run: Device
    videos_per_batch: int
    views_per_forward: int
    num_workers: int = 0
    max_unreadable: float = 1.0
    prefetch: int = 2
    part: int = 0
    parts: int = 1
    gather: Callable[[Scores], Sequence[Scores]] = lambda scores: [scores]

    def score(self, predict: Callable, log: RunLog, *, title: str) -> Scores:
        batches = eval_batches(
            self.dataset,
            videos_per_batch=self.videos_per_batch,
            num_workers=self.num_workers,
            prefetch=self.prefetch,
            part=self.part,
            parts=self.parts,
        )
        limit = UnreadableLimit(len(self.dataset), max_share=self.max_unreadable, warn=log.say)
        ours = len(range(self.part, len(self.dataset), self.parts))
        with log.progress(title, ours, unit="video") as line:
            scores = score_views(
                predict,
                watched(batches, limit),
                to_clips=partial(self.run.to_clips, dtype=self.run.dtype),
                views_per_forward=self.views_per_forward,
                advance=line.advance,
            )
        merged = merge_scores(self.gather(scores))
        limit.note(merged.unreadable)
        return merged


def watched(batches: Iterable[Batch], limit: UnreadableLimit) -> Iterator[Batch]:
    """The batches as they are; unreadable videos are named, and stop the pass where they are too many."""
    for batch in batches:
        limit.check(batch)
        yield batch


def names_of(dataset: VideoDataset, batch: Batch) -> str:
    """The files of a batch, for a message."""
    return ", ".join(dataset.samples[index].path for index in batch.indices.tolist())
