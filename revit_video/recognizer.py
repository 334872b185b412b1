"""From a video file to class names: what a user of a trained model wants.

recognizer = Recognizer.load("output/demo/recognizer.pt")
prediction = recognizer.predict("a.mp4")
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from revit_video import build
from revit_video.backbones.core import ReViT
from revit_video.config import Config
from revit_video.data.classes import class_lists, label_name
from revit_video.data.dataset import VideoDataset
from revit_video.decode import DecodeError
from revit_video.evaluate.heads import NAMES, Heads, label_probabilities, split_scores
from revit_video.evaluate.metrics import average_views
from revit_video.routing.buckets import run_bucketed
from revit_video.routing.router import Routed, Router, run_at_levels
from revit_video.stages.job import Device
from revit_video.types import InputError, Prediction, Ranking, Unreadable, VideoSample


@dataclass
class Recognizer:
    """A backbone with its assigner, ready for files. Make one with `Recognizer.load`."""

    router: Router
    config: Config
    class_names: tuple[str, ...]
    run: Device
    source: str
    has_assigner: bool
    share: str  # clip | video: whose views run at the same lengths
    heads: Heads = ()  # of several lists of classes, see evaluate.heads

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        *,
        device: str = "auto",
        dtype: str = "auto",
        budget: float | None = None,
        router: str | None = None,
    ) -> Recognizer:
        """Read `recognizer.pt`, or `checkpoints/revit.pt` for predictions at a fixed length only.

        budget: another mean cost than the checkpoint's, as a share of the longest length's. router: another
            way to choose lengths: assigner, cascade, hybrid or auto.
        """
        parts = build.recognizer_parts(
            Path(checkpoint), device=device, dtype=dtype, budget=budget, kind=router
        )
        return cls(**parts)

    @property
    def backbone(self) -> ReViT:
        return self.router.backbone

    @torch.inference_mode()
    def predict(self, path: str | Path, *, length: int | str = "adaptive", top: int = 5) -> Prediction:
        """Classes of one video file, most probable first.

        Args:
            length: a token length of the model, or `adaptive` to let the assigner choose for every clip.
            top: how many classes to return; with two lists so many of each, and so many actions.

        Raises:
            DecodeError: the file cannot be read. InputError: the model has no such length.
        """
        level = self.level_of(length)
        test = self.config.test
        clips = self._views(str(path))  # (V, C, T, H, W)
        if level is None:
            views = self._groups(clips)
            routed = self.router.forward_views(views, look_at=self._look_at(), batch_size=test.batch_size)
            logits, cost = routed.logits.flatten(0, 1), routed.gmacs.mean().item()
            levels = routed.levels.expand(test.num_ensemble_views)
        else:
            levels = torch.full((test.num_ensemble_views,), level)
            everywhere = torch.full((len(clips),), level, device=clips.device)
            logits = run_at_levels(self.backbone, clips, everywhere, batch_size=test.batch_size)
            cost = self.router.costs[level]
        return self._told(str(path), logits, levels, cost=cost, top=top)

    @torch.inference_mode()
    def predict_all(self, paths: Iterable[str | Path], *, top: int = 5) -> Iterator[Prediction | Unreadable]:
        """Classes of many files, in their order, each clip at the length chosen for it. Clips of all files
        wait together for their length, so that batches are full; the numbers are those of `predict`, to
        rounding. A file that cannot be read has an `Unreadable` in its place, and the others go on.
        """
        self.level_of("adaptive")
        test = self.config.test
        reading: deque[tuple[str, int] | Unreadable] = deque()  # path and number of groups, or why not

        def groups() -> Iterator[torch.Tensor]:
            for path in map(str, paths):
                try:
                    views = self._groups(self._views(path))
                except DecodeError as error:
                    reading.append(Unreadable(path, str(error)))
                    continue
                reading.append((path, len(views)))
                yield from views

        per_group = test.num_spatial_crops * (1 if self.share == "clip" else test.num_ensemble_views)
        batch_size = max(1, test.batch_size // per_group)
        done: list[Routed] = []
        for routed in run_bucketed(self.router, groups(), batch_size=batch_size, look_at=self._look_at()):
            while isinstance(reading[0], Unreadable):
                yield reading.popleft()
            done.append(routed)
            path, count = reading[0]
            if len(done) == count:
                logits = torch.cat([part.logits[0] for part in done])
                levels = torch.cat([part.levels for part in done]).expand(test.num_ensemble_views)
                cost = sum(part.gmacs.item() for part in done) / count
                yield self._told(path, logits, levels, cost=cost, top=top)
                done.clear()
                reading.popleft()
        yield from reading  # the last ones, where they are unreadable

    def _groups(self, clips: torch.Tensor) -> torch.Tensor:
        """The views of a file (V, ...) as groups that share their lengths: (N, V / N, ...)."""
        return (
            clips.unflatten(0, (-1, self.config.test.num_spatial_crops))
            if self.share == "clip"
            else clips[None]
        )

    def _look_at(self) -> int | None:
        """Which view of a group the assigner sees; of a whole video the middle crop of the middle clip."""
        crops = self.config.test.num_spatial_crops
        return None if self.share == "clip" else self.config.test.num_ensemble_views // 2 * crops + crops // 2

    def _told(
        self, path: str, logits: torch.Tensor, levels: torch.Tensor, *, cost: float, top: int
    ) -> Prediction:
        """What is said of a file whose views have these logits (V, K) and whose clips ran at these levels."""
        probabilities = average_views(logits, self.heads)
        labels = label_probabilities(probabilities, self.heads)
        best = labels.topk(min(top, len(labels)))
        return Prediction(
            path=path,
            class_names=tuple(label_name(i, self.class_names, self.heads) for i in best.indices.tolist()),
            probabilities=tuple(best.values.tolist()),
            token_lengths=tuple(self.backbone.token_lengths[i] for i in levels.tolist()),
            gmacs_per_view=cost,
            parts=self.parts_of(probabilities, top),
        )

    def parts_of(self, probabilities: torch.Tensor, top: int) -> tuple[Ranking, ...]:
        """The best classes of each list, from those of all lists (K,); nothing where there is one list."""
        if not self.heads:
            return ()
        lists, rankings = class_lists(self.class_names, self.heads), []
        for kind, names, part in zip(NAMES, lists, split_scores(probabilities, self.heads), strict=True):
            best = part.topk(min(top, len(names)))
            chosen = tuple(names[i] for i in best.indices.tolist())
            rankings.append(Ranking(kind, chosen, tuple(best.values.tolist())))
        return tuple(rankings)

    def level_of(self, length: int | str) -> int | None:
        """The level of a token length; None for `adaptive`, which needs an assigner."""
        if length == "adaptive":
            if self.has_assigner:
                return None
            raise InputError(
                f"{self.source} has no assigner; choose a length of {list(self.backbone.token_lengths)} "
                "or give the run's recognizer.pt"
            )
        if not str(length).isdecimal():
            raise InputError(f"the length is {length!r}, but must be a token length or adaptive")
        return self.backbone.level_of(int(length))

    def _views(self, path: str) -> torch.Tensor:
        """All test views of a file, normalised: (V, C, T, H, W)."""
        dataset: VideoDataset = build.file_dataset(self.config, VideoSample(path, 0))
        clips, _ = dataset.read(dataset.samples[0], random.Random(0))
        return self.run.to_clips(clips, dtype=self.run.dtype)
