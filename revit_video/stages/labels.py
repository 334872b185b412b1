"""The labels stage: at which lengths is the trained model right? (arXiv:2307.02092, sec. 3.4)"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from revit_video.backbones.core import ReViT
from revit_video.routing.labels import LengthLabels, split_digest
from revit_video.stages.job import EvalJob, RunFolder, all_levels
from revit_video.train.checkpoint import file_digest
from revit_video.train.log import RunLog


@dataclass
class LabelsJob:
    """The trained model over the label list."""

    model: ReViT
    evaluation: EvalJob
    protocol: str


def label_lengths(job: LabelsJob, folder: RunFolder, log: RunLog) -> None:
    """Run every length on every video of the label list; leaves correctness and losses in `folder.labels`."""
    scores = job.evaluation.score(all_levels(job.model), log, title="labels")
    logits = scores.values["logits"][:, 0]  # (N, L, K), one view per video
    truth = scores.labels[:, None].expand(logits.shape[:2])
    losses = torch.nn.functional.cross_entropy(logits.movedim(-1, 1), truth, reduction="none")
    correct = logits.argmax(dim=-1) == truth
    samples = job.evaluation.dataset.samples
    LengthLabels(
        token_lengths=job.model.token_lengths,
        checkpoint_sha256=file_digest(folder.revit),
        split_sha256=split_digest([s.path for s in samples], [s.label for s in samples]),
        protocol=job.protocol,
        indices=tuple(scores.indices.tolist()),
        correct=tuple(map(tuple, correct.tolist())),
        losses=rounded(losses, 5),
        confidences=rounded(
            logits.softmax(dim=-1).amax(dim=-1), 8
        ),  # many are close to 1: a threshold parts them
    ).save(folder.labels)
    right = ", ".join(
        f"{n}: {100 * c:.1f}%"
        for n, c in zip(job.model.token_lengths, correct.float().mean(0).tolist(), strict=True)
    )
    log.say(f"labels: {len(correct)} videos; right at length {right}")


def rounded(rows: torch.Tensor, decimals: int) -> tuple[tuple[float, ...], ...]:
    """A matrix as nested tuples, for JSON."""
    return tuple(tuple(round(x, decimals) for x in row) for row in rows.tolist())
