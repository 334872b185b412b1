"""The baseline that takes fewer frames of a clip instead of fewer tokens of a frame."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from revit_video.backbones.core import ReViT
from revit_video.evaluate.adaptive import Stored, summary
from revit_video.evaluate.heads import Heads
from revit_video.evaluate.metrics import paired_difference
from revit_video.evaluate.run import Scores
from revit_video.stages.job import EvalJob
from revit_video.train.log import RunLog


@dataclass
class FewerFrames:
    """A model that takes so many `frames`, a pass over the test list with such clips, and GMACs of a view."""

    frames: int
    model: ReViT
    evaluation: EvalJob
    gmacs: float

    def score(self, log: RunLog) -> Scores:
        def predict(clips: Tensor) -> dict[str, Tensor]:
            return {"logits": self.model(clips, 0)[:, None]}

        return self.evaluation.score(predict, log, title=f"test, {self.frames} frames")

    def row(self, scores: Scores, *, views: tuple[int, int], heads: Heads) -> tuple[dict, Tensor]:
        """Accuracy and cost, and which videos (N,) are right; views: clips and crops."""
        logits = scores.values["logits"].unflatten(1, views)
        stored = Stored(logits, scores.labels, (self.gmacs,), heads)
        everywhere = stored.fixed(0)
        return summary(stored, everywhere, gmacs=self.gmacs), stored.hit(everywhere)


def add_fewer_frames(
    report: dict,
    scored: list[tuple[FewerFrames, Scores]],
    *,
    ours: tuple[Tensor, Tensor] | None,
    frames: int,
    views: tuple[int, int],
    heads: Heads,
) -> None:
    """Put the rows among the baselines. ours: the videos (N,) that the router was tested on, and which of
    them it got right; frames: of a whole clip.
    """
    for one, scores in scored:
        name = f"{one.frames} of {frames} frames"
        row, hit = one.row(scores, views=views, heads=heads)
        report.setdefault("baselines", {})[name] = row
        if ours is not None and ours[0].equal(scores.indices):
            report["paired"][name] = paired_difference(ours[1], hit)
