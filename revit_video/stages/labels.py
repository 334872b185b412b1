"""The labels stage: at which lengths is the trained model right? (arXiv:2307.02092, sec. 3.4)"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from revit_video.backbones.core import ReViT
from revit_video.data.sample_list import SampleList
from revit_video.evaluate.heads import Heads, best_labels, confidence, label_losses, softmax
from revit_video.report.known_failures import by_length, far_below, lean_to_short
from revit_video.routing.labels import RULES, LabelRule, LengthLabels, histogram, split_digest
from revit_video.stages.job import EvalJob, RunFolder, all_levels
from revit_video.train.checkpoint import file_digest
from revit_video.train.log import RunLog
from revit_video.types import InputError

PART = 2048  # videos between two times that what is done is saved
ROWS = ("indices", "correct", "losses", "confidences", "folds")  # of LengthLabels: one entry for each video
NOTHING = LengthLabels((), "", "", "", (), (), (), ())


@dataclass
class FoldJob:
    """A part of the label list, and the model that was trained without it.

    rows: the places of its videos in the list. model: reads it, when its turn comes.
    """

    number: int
    checkpoint: Path
    rows: Sequence[int]
    model: Callable[[], ReViT]


@dataclass
class LabelsJob:
    """The trained model over the label list. heads: of several lists of classes, see evaluate.heads.

    folds: of cross-labelling; these models label the videos then, and `model` none.
    """

    model: ReViT
    evaluation: EvalJob
    protocol: str
    heads: Heads = ()
    rule: LabelRule = field(default_factory=LabelRule)
    folds: Sequence[FoldJob] = ()
    seen: bool = False  # whether the model was trained on these videos


def label_lengths(job: LabelsJob, folder: RunFolder, log: RunLog) -> None:
    """Run every length on every video of the label list; leaves correctness and losses in `folder.labels`.

    A long list goes part by part, and a run that was killed goes on with the first part that is missing.
    """
    world, parts = job.evaluation.run.world, parts_of(job)
    labels = world.from_main(lambda: labels_so_far(job, folder, log))
    for number, (fold, rows) in enumerate(parts, start=1):
        if labelled_before(labels, rows):
            continue
        title = "labels" if len(parts) == 1 else f"labels, part {number} of {len(parts)}"
        labels = joined(labels, label_part(job, fold, rows, log, title=title))
        if len(parts) > 1:
            world.from_main(partial(labels.save, folder.labels_so_far))
    if not labels.indices:
        raise InputError(f"no video of the label list ({job.protocol}) can be read, so there are no labels")
    labels = in_order(labels)

    def finish() -> None:
        labels.save(folder.labels)
        folder.labels_so_far.unlink(missing_ok=True)

    world.from_main(finish)
    say_labels(job, labels, folder, log)


def parts_of(job: LabelsJob) -> list[tuple[FoldJob | None, Sequence[int]]]:
    """What is looked at in one go: so many places of the list, with one model."""
    whole: list[tuple[FoldJob | None, Sequence[int]]] = [(None, range(len(job.evaluation.dataset)))]
    by_model = [(fold, fold.rows) for fold in job.folds] or whole
    return [
        (fold, rows[first : first + PART]) for fold, rows in by_model for first in range(0, len(rows), PART)
    ]


def labels_so_far(job: LabelsJob, folder: RunFolder, log: RunLog) -> LengthLabels:
    """What a killed run has left of these very labels, or labels of no video."""
    samples = job.evaluation.dataset.samples
    none = LengthLabels(
        token_lengths=job.model.token_lengths,
        checkpoint_sha256=file_digest(folder.revit),
        split_sha256=split_digest([s.path for s in samples], [s.label for s in samples]),
        protocol=job.protocol,
        indices=(),
        correct=(),
        losses=(),
        confidences=(),
        fold_sha256={str(fold.number): file_digest(fold.checkpoint) for fold in job.folds},
    )
    if not folder.labels_so_far.is_file():
        return none
    found = LengthLabels.load(
        folder.labels_so_far,
        checkpoint_sha256=none.checkpoint_sha256,
        split_sha256=none.split_sha256,
        crossed=bool(job.folds),
    )
    if (found.protocol, found.fold_sha256) != (none.protocol, none.fold_sha256):
        log.say(f"labels: {folder.labels_so_far} was made otherwise ({found.protocol}); starting again")
        return none
    log.say(f"labels: going on after {len(found.indices)} videos")
    return found


def finished_labels(folder: RunFolder, samples: Sequence, *, crossed: bool) -> LengthLabels:
    """The labels of a run; refused where they are of another checkpoint or list, or not crossed alike."""
    return LengthLabels.load(
        folder.labels,
        checkpoint_sha256=file_digest(folder.revit),
        split_sha256=split_digest([s.path for s in samples], [s.label for s in samples]),
        crossed=crossed,
    )


def labelled_before(labels: LengthLabels, rows: Sequence[int]) -> bool:
    """Whether a part is done: parts are saved whole, but for videos that cannot be read."""
    return not set(labels.indices).isdisjoint(rows)


def label_part(
    job: LabelsJob, fold: FoldJob | None, rows: Sequence[int], log: RunLog, *, title: str
) -> LengthLabels:
    """Labels of the videos at these places of the list, by the model of a fold, or by the run's own."""
    dataset = copy(job.evaluation.dataset)
    dataset.samples = SampleList([dataset.samples[row] for row in rows])
    model = fold.model() if fold else job.model
    scores = replace(job.evaluation, dataset=dataset).score(all_levels(model), log, title=title)
    nothing = replace(NOTHING, token_lengths=model.token_lengths)
    if not len(scores.indices):
        return nothing
    logits = scores.values["logits"][:, 0]  # (N, L, K), one view per video
    truth = scores.labels[:, None].expand(logits.shape[:2])
    sure = confidence(softmax(logits, job.heads), job.heads)
    return replace(
        nothing,
        indices=tuple(rows[i] for i in scores.indices.tolist()),
        correct=tuple(map(tuple, (best_labels(logits, job.heads) == truth).tolist())),
        losses=rounded(label_losses(logits, truth, job.heads), 5),
        confidences=rounded(sure, 8),  # many are close to 1: a threshold parts them
        folds=(fold.number,) * len(scores.indices) if fold else (),
    )


def joined(labels: LengthLabels, more: LengthLabels) -> LengthLabels:
    return replace(labels, **{name: getattr(labels, name) + getattr(more, name) for name in ROWS})


def in_order(labels: LengthLabels) -> LengthLabels:
    """In the order of the list."""
    order = sorted(range(len(labels.indices)), key=labels.indices.__getitem__)
    rows = {name: getattr(labels, name) for name in ROWS}
    return replace(labels, **{name: tuple(row[i] for i in order) for name, row in rows.items() if row})


def say_labels(job: LabelsJob, labels: LengthLabels, folder: RunFolder, log: RunLog) -> None:
    """What came out, and what may be wrong with it."""
    correct, losses = torch.tensor(labels.correct), torch.tensor(labels.losses)
    right = percent_by_length(job.model, correct)
    shown = ", ".join(f"{length}: {percent:.1f}%" for length, percent in right.items())
    log.say(f"labels: {len(correct)} videos; right at length {shown}")
    for line in label_warnings(job, right, folder.log):
        log.say(line)
    for name in RULES:
        found = replace(job.rule, name=name).labels(correct, losses)
        used = " (used)" if name == job.rule.name else ""
        log.say(f"labels by {name}{used}: {histogram(found, job.model.token_lengths)}")


def percent_by_length(model: ReViT, correct: Tensor) -> dict[str, float]:
    """How often each length is right, from correctness (N, L)."""
    return by_length(model.token_lengths, (100.0 * correct.double().mean(dim=0)).tolist())


def label_warnings(job: LabelsJob, labelled: dict[str, float], file: Path) -> list[str]:
    """Ways in which these labels may mislead. `file` is the log of the run: its last look at the validation
    list, one view of each video as here, says how the model does on videos that it has not seen.
    """
    lines = far_below(labelled)
    rows = map(json.loads, file.read_text().splitlines()) if job.seen and file.is_file() else ()
    looks = [row for row in rows if row["stage"] == "val"]
    if looks:
        first = next(name.partition("/")[0] for name in looks[-1] if "/level" in name)
        values = [looks[-1][f"{first}/level{level}"] for level in range(job.model.num_levels)]
        others = by_length(job.model.token_lengths, values)
        lines += lean_to_short(labelled, others, where="validation videos")
    return lines


def rounded(rows: torch.Tensor, decimals: int) -> tuple[tuple[float, ...], ...]:
    """A matrix as nested tuples, for JSON."""
    return tuple(tuple(round(x, decimals) for x in row) for row in rows.tolist())
