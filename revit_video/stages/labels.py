"""The labels stage: at which lengths is the trained model right? (arXiv:2307.02092, sec. 3.4)"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from revit_video.backbones.core import ReViT
from revit_video.evaluate.heads import Heads, best_labels, confidence, label_losses, softmax
from revit_video.routing.labels import RULES, LabelRule, LengthLabels, histogram, split_digest
from revit_video.stages.job import EvalJob, RunFolder, all_levels
from revit_video.train.checkpoint import file_digest
from revit_video.train.log import RunLog


@dataclass
class LabelsJob:
    """The trained model over the label list. heads: of several lists of classes, see evaluate.heads."""

    model: ReViT
    evaluation: EvalJob
    protocol: str
    heads: Heads = ()
    rule: LabelRule = field(default_factory=LabelRule)


def label_lengths(job: LabelsJob, folder: RunFolder, log: RunLog) -> None:
    """Run every length on every video of the label list; leaves correctness and losses in `folder.labels`."""
    scores = job.evaluation.score(all_levels(job.model), log, title="labels")
    logits = scores.values["logits"][:, 0]  # (N, L, K), one view per video
    truth = scores.labels[:, None].expand(logits.shape[:2])
    losses = label_losses(logits, truth, job.heads)
    correct = best_labels(logits, job.heads) == truth
    samples = job.evaluation.dataset.samples
    labels = LengthLabels(
        token_lengths=job.model.token_lengths,
        checkpoint_sha256=file_digest(folder.revit),
        split_sha256=split_digest([s.path for s in samples], [s.label for s in samples]),
        protocol=job.protocol,
        indices=tuple(scores.indices.tolist()),
        correct=tuple(map(tuple, correct.tolist())),
        losses=rounded(losses, 5),
        confidences=rounded(
            confidence(softmax(logits, job.heads), job.heads), 8
        ),  # many are close to 1: a threshold parts them
    )
    job.evaluation.run.world.from_main(lambda: labels.save(folder.labels))
    right = ", ".join(
        f"{n}: {100 * c:.1f}%"
        for n, c in zip(job.model.token_lengths, correct.float().mean(0).tolist(), strict=True)
    )
    log.say(f"labels: {len(correct)} videos; right at length {right}")
    for name in RULES:
        found = replace(job.rule, name=name).labels(correct, losses)
        used = " (used)" if name == job.rule.name else ""
        log.say(f"labels by {name}{used}: {histogram(found, job.model.token_lengths)}")


def rounded(rows: torch.Tensor, decimals: int) -> tuple[tuple[float, ...], ...]:
    """A matrix as nested tuples, for JSON."""
    return tuple(tuple(round(x, decimals) for x in row) for row in rows.tolist())
