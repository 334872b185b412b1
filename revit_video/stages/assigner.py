"""Stage 2: train the assigner on length labels, then solve the budget's bias on others."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from revit_video.data.dataset import Batch, UnreadableLimit, VideoDataset
from revit_video.data.loader import train_batches
from revit_video.report.known_failures import by_length, one_length
from revit_video.routing.assigner import Assigner
from revit_video.routing.labels import (
    DROP,
    LabelRule,
    expected_label,
    histogram,
)
from revit_video.routing.solve import HeldOut, Prices, check_reach, run_rule
from revit_video.routing.stored import prices_of, router_state, rule_of
from revit_video.stages.job import Device, EvalJob, RunFolder, names_of
from revit_video.stages.labels import finished_labels
from revit_video.train.assigner import AssignerLoss, assigner_step, class_weights, fit_temperature
from revit_video.train.checkpoint import load_checkpoint, save_checkpoint
from revit_video.train.log import RunLog
from revit_video.train.loop import Skipped, fit, loss_backward
from revit_video.train.optim import build_schedules
from revit_video.train.world import World
from revit_video.types import InputError


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
    router: str  # assigner | cascade | hybrid | auto
    budget: float  # of the longest length's cost, assigner included
    epochs: int
    batch_size: int
    holdout_share: float
    label_rule: LabelRule
    loss: AssignerLoss
    class_weight: str
    soft_labels: bool
    calibrate: bool
    run: Device
    crossed: bool = False  # labels by models that have not seen the videos
    seed: int = 0
    num_workers: int = 0
    prefetch: int = 2  # batches that each worker reads ahead
    max_unreadable: float = 0.01
    max_skipped: int = 10  # steps that are not finite
    identity: dict = field(default_factory=dict)


def train_assigner(job: AssignerJob, folder: RunFolder, log: RunLog) -> None:
    """Train on a part of the labels, solve the router for its budget on the rest; leaves assigner and joint
    checkpoint.
    """
    prices = Prices(tuple(job.costs), job.assigner_cost)
    check_reach(job.router, prices, budget=job.budget)  # before the training and not after it
    labels = finished_labels(folder, job.samples, crossed=job.crossed)
    losses = torch.tensor(labels.losses)
    lengths = job.label_rule.labels(torch.tensor(labels.correct), losses)
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
    kept = [i for i in order[cut:] if lengths[i] != DROP]
    targets = assigner_targets(job, lengths[kept], losses[kept]).to(job.run.device)
    weight = class_weights(levels, num_levels=len(job.costs), kind=job.class_weight)
    total = max(1, job.epochs * len(training) // job.batch_size)
    data = job.train_list(training)
    limit = UnreadableLimit(len(training), max_share=job.max_unreadable, warn=log.say)
    skipped = Skipped(job.max_skipped, World(), log, advice="lower assigner.base_lr")
    backward = loss_backward()

    def step(number: int, batch: Batch) -> Mapping[str, Tensor | float]:
        limit.check(batch)
        if not len(batch.labels):
            return {"clips": 0.0}
        clips = job.run.to_clips(batch.clips.flatten(0, 1))
        truth = targets[batch.indices.to(targets.device)]
        return assigner_step(assigner, clips, truth, class_weight=weight, loss_fn=job.loss, backward=backward)

    fit(
        assigner,
        train_batches(
            data,
            batch_size=job.batch_size,
            total_steps=total,
            seed=job.seed,
            num_workers=job.num_workers,
            prefetch=job.prefetch,
        ),
        step,
        optimizers=job.optimizers,
        schedules=build_schedules(job.optimizers, partial(job.lr_factor, total=total)),
        total_steps=total,
        skipped=skipped,
        name_batch=lambda batch: names_of(data, batch),
        log=log,
        stage="assigner",
    )
    assigner.eval()
    scores = job.holdout_list(holdout).score(lambda clips: {"assigner": assigner(clips)}, log, title="budget")
    rows = torch.tensor(order[:cut])[scores.indices]  # a video that was readable before may be gone
    wishes = scores.values["assigner"][:, 0]
    if job.calibrate:
        wishes = calibrate(job, wishes, lengths[rows], losses[rows], log)
    confidence, correct = torch.tensor(labels.confidences), torch.tensor(labels.correct)
    held = HeldOut(wishes, confidence[rows], losses[rows], correct[rows])
    router = router_state(job.router, held, prices, budget=job.budget, say=log.say)
    log.say(
        f"assigner: labels per length {histogram(lengths, labels.token_lengths)}; router {router['kind']}, "
        f"bias {'none' if router['bias'] is None else format(router['bias'], '.3f')}, thresholds "
        f"{', '.join(format(threshold, '.4g') for threshold in router['thresholds'][1:])} (from the second "
        "longest length down)"
    )
    for line in one_length(held_shares(held, router, labels.token_lengths), where="held-out clips"):
        log.say(line)
    state = {name: tensor.cpu() for name, tensor in assigner.state_dict().items()}
    save_checkpoint(
        {"kind": "assigner", "assigner": state, "router": router, **job.identity}, folder.assigner
    )
    backbone = load_checkpoint(folder.revit, kind="revit")
    joint = {"kind": "recognizer", "assigner": state, "router": router, **job.identity}
    save_checkpoint(backbone | joint, folder.recognizer)


def held_shares(held: HeldOut, router: dict, lengths: Sequence[int]) -> dict[str, float]:
    """Share of the held-out clips that stop at each length."""
    stops = run_rule(rule_of(router), held, prices_of(router))[1]
    counts = torch.bincount(stops, minlength=len(lengths))
    return by_length(lengths, (counts / len(stops)).tolist())


def assigner_targets(job: AssignerJob, lengths: Tensor, losses: Tensor) -> Tensor:
    """What the assigner learns from length labels (N,) and the backbone's losses (N, L)."""
    if job.loss.from_errors:
        return 1 - torch.exp(-losses)
    return expected_label(losses) if job.soft_labels else lengths


def calibrate(job: AssignerJob, wishes: Tensor, lengths: Tensor, losses: Tensor, log: RunLog) -> Tensor:
    """Divide the assigner's logits by the temperature that fits held-out labels best, in the weights of its
    last layer; returns the logits (N, L) of the held-out clips under it.
    """
    known = lengths != DROP
    temperature = fit_temperature(wishes[known], assigner_targets(job, lengths[known], losses[known]))
    last = job.assigner.net.classifier
    with torch.no_grad():
        last.weight /= temperature
        last.bias /= temperature
    log.say(f"assigner: temperature {temperature:.3f} fits the held-out labels best")
    return wishes / temperature
