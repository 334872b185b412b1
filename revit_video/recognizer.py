"""From a video file to class names: what a user of a trained model wants.

recognizer = Recognizer.load("output/demo/recognizer.pt")
prediction = recognizer.predict("a.mp4")
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import torch

from revit_video import build
from revit_video.backbones.core import ReViT
from revit_video.config import Config
from revit_video.data.dataset import VideoDataset
from revit_video.evaluate.metrics import average_views
from revit_video.routing.router import AssignerRouter, run_at_levels
from revit_video.stages.job import Device
from revit_video.types import InputError, Prediction, VideoSample


@dataclass
class Recognizer:
    """A backbone with its assigner, ready for files. Make one with `Recognizer.load`."""

    router: AssignerRouter
    config: Config
    class_names: tuple[str, ...]
    run: Device
    source: str
    has_assigner: bool
    assigner_gmacs: float  # per clip

    @classmethod
    def load(cls, checkpoint: str | Path, *, device: str = "auto", dtype: str = "auto") -> Recognizer:
        """Read `recognizer.pt`, or `checkpoints/revit.pt` for predictions at a fixed length only."""
        parts = build.recognizer_parts(Path(checkpoint), device=device, dtype=dtype)
        return cls(**parts)

    @property
    def backbone(self) -> ReViT:
        return self.router.backbone

    @torch.inference_mode()
    def predict(self, path: str | Path, *, length: int | str = "adaptive", top: int = 5) -> Prediction:
        """Classes of one video file, most probable first.

        Args:
            length: a token length of the model, or `adaptive` to let the assigner choose for every clip.
            top: how many classes to return.

        Raises:
            DecodeError: the file cannot be read. InputError: the model has no such length.
        """
        level = None if length == "adaptive" else self._level_of(length)
        if level is None and not self.has_assigner:
            raise InputError(
                f"{self.source} has no assigner; choose a length of {list(self.backbone.token_lengths)} "
                "or give the run's recognizer.pt"
            )
        test = self.config.test
        clips = self._views(str(path))  # (V, C, T, H, W)
        if level is None:
            views = clips.unflatten(0, (test.num_ensemble_views, test.num_spatial_crops))
            logits, levels = self.router.forward_views(views, batch_size=test.batch_size)
            logits = logits.flatten(0, 1)
            cost = sum(self.router.costs[i] for i in levels.tolist()) / len(levels)
            cost += self.assigner_gmacs / test.num_spatial_crops
        else:
            levels = torch.full((test.num_ensemble_views,), level)
            everywhere = torch.full((len(clips),), level, device=clips.device)
            logits = run_at_levels(self.backbone, clips, everywhere, batch_size=test.batch_size)
            cost = self.router.costs[level]
        probabilities = average_views(logits)
        best = probabilities.topk(min(top, len(self.class_names)))
        return Prediction(
            path=str(path),
            class_names=tuple(self.class_names[i] for i in best.indices.tolist()),
            probabilities=tuple(best.values.tolist()),
            token_lengths=tuple(self.backbone.token_lengths[i] for i in levels.tolist()),
            gmacs_per_view=cost,
        )

    def _level_of(self, length: int | str) -> int:
        if not str(length).isdecimal():
            raise InputError(f"the length is {length!r}, but must be a token length or adaptive")
        return self.backbone.level_of(int(length))

    def _views(self, path: str) -> torch.Tensor:
        """All test views of a file, normalised: (V, C, T, H, W)."""
        dataset: VideoDataset = build.file_dataset(self.config, VideoSample(path, 0))
        clips, _ = dataset.read(dataset.samples[0], random.Random(0))
        return self.run.to_clips(clips, dtype=self.run.dtype)
