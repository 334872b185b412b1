"""Stage 2: train the assigner on length labels, then solve the budget's bias on others."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from revit_video.data.dataset import Batch, UnreadableLimit, VideoDataset
from revit_video.data.loader import train_batches
from revit_video.routing.assigner import Assigner
from revit_video.routing.budget import solve_bias, solve_threshold
from revit_video.routing.labels import DROP, LengthLabels, expected_label, shortest_right, split_digest
from revit_video.stages.job import Device, EvalJob, RunFolder
from revit_video.train.assigner import assigner_step, class_weights
from revit_video.train.checkpoint import file_digest, load_checkpoint, save_checkpoint
from revit_video.train.log import RunLog
from revit_video.train.loop import fit
from revit_video.train.optim import build_schedules
from revit_video.types import InputError

CURVE_BUDGETS = tuple(
    round(0.2 + 0.05 * i, 2) for i in range(17)
)  # of the longest length's cost, 0.20 to 1.00


@dataclass
class AssignerJob:
    """Stage 2. `train_list` and `holdout_list` make data sets of one small view from samples whose label is a
    level.
    """

    assigner: Assigner
    samples: Sequence  # the label list
    train_list: Callable[[Sequence], VideoDataset]
    holdout_list: Callable[[Sequence], EvalJob]
    optimizers: Sequence[torch.optim.Optimizer]
    lr_factor: Callable[[int, int], float]  # (step, total)
    costs: Sequence[float]  # GMACs per view of each level
    assigner_cost: float  # GMACs per clip
    budget: float  # of the longest length's cost, assigner included
    epochs: int
    batch_size: int
    holdout_share: float
    none_right: str
    class_weight: str
    soft_labels: bool
    run: Device
    seed: int = 0
    num_workers: int = 0
    max_unreadable: float = 0.01
    identity: dict = field(default_factory=dict)


def train_assigner(job: AssignerJob, folder: RunFolder, log: RunLog) -> None:
    """Train on a part of the labels, solve the budget's bias on the rest; leaves assigner and joint
    checkpoint.
    """
    check_budget(job)
    paths, truth = [s.path for s in job.samples], [s.label for s in job.samples]
    labels = LengthLabels.load(
        folder.labels, checkpoint_sha256=file_digest(folder.revit), split_sha256=split_digest(paths, truth)
    )
    lengths = shortest_right(torch.tensor(labels.correct), none_right=job.none_right)
    order = list(range(len(labels.indices)))
    random.Random(job.seed).shuffle(order)
    labelled = [replace(job.samples[labels.indices[i]], label=int(lengths[i])) for i in order]
    cut = max(1, round(len(labelled) * job.holdout_share))
    holdout, training = labelled[:cut], [sample for sample in labelled[cut:] if sample.label != DROP]
    if not training:
        raise InputError(
            f"{len(labelled)} labelled videos leave none to train the assigner; lower router.holdout_share"
        )

    assigner = job.assigner.to(job.run.device)
    levels = torch.tensor([s.label for s in training], device=job.run.device)
    targets = levels
    if job.soft_labels:
        kept = [i for i in order[cut:] if lengths[i] != DROP]
        targets = expected_label(torch.tensor(labels.losses)[kept]).to(job.run.device)
    weight = class_weights(levels, num_levels=len(job.costs), kind=job.class_weight)
    total = max(1, job.epochs * len(training) // job.batch_size)
    limit = UnreadableLimit(len(training), max_share=job.max_unreadable, warn=log.say)

    def step(number: int, batch: Batch) -> Mapping[str, Tensor | float]:
        limit.check(batch)
        if not len(batch.labels):
            return {"clips": 0.0}
        clips = job.run.to_clips(batch.clips.flatten(0, 1))
        return assigner_step(assigner, clips, targets[batch.indices.to(targets.device)], class_weight=weight)

    fit(
        assigner,
        train_batches(
            job.train_list(training),
            batch_size=job.batch_size,
            total_steps=total,
            seed=job.seed,
            num_workers=job.num_workers,
        ),
        step,
        optimizers=job.optimizers,
        schedules=build_schedules(job.optimizers, partial(job.lr_factor, total=total)),
        total_steps=total,
        log=log,
        stage="assigner",
    )
    assigner.eval()
    scores = job.holdout_list(holdout).score(lambda clips: {"assigner": assigner(clips)}, log, title="budget")
    router = solve_router(job, scores.values["assigner"][:, 0], torch.tensor(labels.confidences)[order[:cut]])
    histogram = torch.bincount(lengths[lengths != DROP], minlength=len(job.costs)).tolist()
    log.say(
        f"assigner: labels per length {dict(zip(labels.token_lengths, histogram, strict=True))}, "
        f"bias {router['bias']:.3f}"
    )
    state = {name: tensor.cpu() for name, tensor in assigner.state_dict().items()}
    save_checkpoint(
        {"kind": "assigner", "assigner": state, "router": router, **job.identity}, folder.assigner
    )
    backbone = load_checkpoint(folder.revit, kind="revit")
    joint = {"kind": "recognizer", "assigner": state, "router": router, **job.identity}
    save_checkpoint(backbone | joint, folder.recognizer)


def check_budget(job: AssignerJob) -> None:
    """Refuse a budget that no bias can meet, before the training and not after it."""
    least, most = job.costs[-1] + job.assigner_cost, job.costs[0]
    if job.budget * most < least:
        raise InputError(
            f"router.budget={job.budget:g} of the longest length's {most:.4g} GMACs cannot be met: "
            f"the shortest length and the assigner cost {least:.4g}; "
            f"give a budget from {math.ceil(1000 * least / most) / 1000:g} to 1"
        )


def solve_router(job: AssignerJob, logits: Tensor, confidence: Tensor) -> dict:
    """The bias (assigner) and the threshold (cascade) for the job's budget and for a grid of others, from
    held-out videos.

    logits: the assigner's (N, L). confidence: largest probabilities (M, L) of the backbone. Both pay for what
        they run.
    """

    def solve(budget: float) -> dict[str, float]:
        total = budget * job.costs[0]
        return {
            "budget": budget,
            "bias": solve_bias(logits, job.costs, budget=total - job.assigner_cost),
            "threshold": solve_threshold(confidence, job.costs, budget=total),
        }

    least = (job.costs[-1] + job.assigner_cost) / job.costs[0]
    curve = [solve(budget) for budget in CURVE_BUDGETS if budget > least]
    return {**solve(job.budget), "costs": list(job.costs), "assigner_cost": job.assigner_cost, "curve": curve}
