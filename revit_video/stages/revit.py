"""Stage 1: train one backbone at all its token lengths (Algorithm 1 of arXiv:2307.02092)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from timm.utils import ModelEmaV3
from torch import Tensor
from torch.amp import GradScaler

from revit_video.backbones.core import ReViT
from revit_video.backbones.costs import level_gmacs
from revit_video.data.dataset import Batch, UnreadableLimit, VideoDataset
from revit_video.evaluate.heads import Heads
from revit_video.layers.reduce import Reduction
from revit_video.stages.job import Device, EvalJob, RunFolder, all_levels, names_of
from revit_video.train.cascade import cascade_step
from revit_video.train.checkpoint import save_checkpoint
from revit_video.train.crew import Crew
from revit_video.train.forward import TrainForward
from revit_video.train.log import RunLog
from revit_video.train.loop import Skipped, fit, loss_backward
from revit_video.train.losses import Distillation, right_rows
from revit_video.train.meter import Meter
from revit_video.train.optim import build_schedules, grow_moments
from revit_video.train.parallel import has_statistics, whole_weights
from revit_video.train.progress import ProgressFolder, Training
from revit_video.train.revit import revit_step
from revit_video.train.signals import StopSignals
from revit_video.train.token_labels import PatchTask, TokenLabels, with_true_class
from revit_video.train.world import World
from revit_video.transform.mix import Mix
from revit_video.transform.mix_token import MixToken
from revit_video.types import Stopped

GO_ON = "the same command with resume=auto goes on"


@dataclass
class RevitJob:
    """Stage 1. `identity` is what a checkpoint says of itself: config, class names, versions."""

    model: ReViT
    dataset: VideoDataset
    optimizers: Sequence[torch.optim.Optimizer]
    lr_factor: Callable[[int], float]
    total_steps: int
    grow_at: int  # first step of all lengths; before it the shortest alone is trained
    batch_size: int  # videos of one optimizer step, over all processes
    distillation: Distillation
    run: Device
    gmacs: Sequence[float]  # of a clip at each length; in a cascade what an exit adds to those before it
    peak_flops: Callable[[], float] | None = None  # of the device, see report.device_peak
    views: int = 1  # clips that a video gives to a step
    micro_batch: int = 0  # most clips of a forward pass in a process; 0: all it has
    recompute: bool = False  # activation checkpointing
    compile: bool = False
    reducer_at: Callable[[int], Reduction | None] | None = None  # of a step; None: always the model's own
    cascade: bool = False  # the model is one: its exits learn from the labels, not from each other
    mix: Mix | None = None
    mix_token: MixToken | None = None
    patch_weight: float = 0.0  # of the loss of an auxiliary head, which reads every patch
    true_class: bool = False  # of label maps: take the true class into what they say of a clip
    heads: Heads = ()  # of several lists of classes, see evaluate.heads
    smoothing: float = 0.0
    clip_grad: float = 0.0
    max_skipped: int = 10  # steps that are not finite
    ema_decay: float = 0.0
    length_costs: Sequence[float] | None = None  # to part the lengths over processes by; None: no parting
    validation: EvalJob | None = None  # looked at every `eval_steps` steps
    eval_steps: int = 0
    seed: int = 0
    num_workers: int = 0
    prefetch: int = 2  # batches that each worker reads ahead
    max_unreadable: float = 0.01
    log_period: int = 10
    checkpoint_period: int = 500
    keep_checkpoints: int = 2
    identity: dict = field(default_factory=dict)
    settings: Mapping = field(default_factory=dict)  # see ProgressFolder, as the next
    circumstances: Mapping = field(default_factory=dict)
    rates: str = ""  # the learning rates in words
    notes: Sequence[str] = ()  # for the user, before the first step


def train_revit(job: RevitJob, folder: RunFolder, log: RunLog, world: World | None = None) -> None:
    """Algorithm 1, with growing where asked; leaves the averaged weights in `folder.revit`.

    Raises:
        Stopped: SIGTERM or SIGUSR1 came; the step that ran then is saved.
    """
    with StopSignals() as signals:
        train_until_asked(job, folder, log, world or World(), signals)


def train_until_asked(
    job: RevitJob, folder: RunFolder, log: RunLog, world: World, signals: StopSignals
) -> None:
    model = job.model.to(job.run.device)
    crew = build_crew(job, model, world)
    for line in [*job.notes, *crew.lines, *step_lines(job, world)]:
        log.say(line)
    ema = ModelEmaV3(model, decay=job.ema_decay, use_warmup=True) if job.ema_decay else None
    schedules = build_schedules(job.optimizers, job.lr_factor)
    scaler = GradScaler(job.run.device.type) if job.run.dtype == torch.float16 else None
    skipped = Skipped(job.max_skipped, world, log)
    training = Training(model, ema.module if ema else model, job.optimizers, schedules, skipped, scaler)
    progress = ProgressFolder(
        folder.progress,
        keep=job.keep_checkpoints,
        identity=job.identity,
        settings=job.settings,
        circumstances=job.circumstances,
        world=world,
    )
    start = progress.resume(training, log)
    log.resume("val", start + 1)
    limit = UnreadableLimit(len(job.dataset), max_share=job.max_unreadable, warn=log.say)
    meter = Meter(job.run.device, peak_flops=job.peak_flops)
    backward, last = loss_backward(scaler), model.num_levels - 1

    def step(number: int, batch: Batch) -> Mapping[str, Tensor | float]:
        present = crew.roll_call(number, batch)
        limit.note(present.unreadable)
        if number == job.grow_at and number > 0:
            training.grow(last)
            grow_moments(job.optimizers, model, last)
            log.say(f"step {number}: all lengths start from the shortest one ({model.token_lengths[last]})")
        if not present.rows:
            return {"clips": 0.0}  # every video of the batch is unreadable: no gradients, so nothing moves
        clips, labels, targets = step_clips(job, number, present.batch)
        patches = patch_task(job, number, present.batch)
        if patches.labels is not None:
            targets = patches.labels.of_clips()
            targets = with_true_class(targets, labels) if job.true_class else targets
        part = crew.part(number, present, views=job.views)
        part |= {"targets": targets, "smoothing": job.smoothing, "heads": job.heads}
        part |= {"autocast": job.run.autocast, "backward": backward}
        reducer = job.reducer_at(number) if job.reducer_at else None
        if job.cascade:
            sums = cascade_step(crew.exchange, clips, labels, **part)
        else:
            part |= {"distillation": job.distillation, "reducer": reducer, "patches": patches}
            sums = revit_step(crew.exchange, clips, labels, **part)
        gmacs = level_gmacs(model, reducer) if reducer is not None else job.gmacs
        return sums | {"gmacs": len(labels) * sum(gmacs[level] for level in part["levels"])}

    def after_step(done: int) -> None:
        if ema is not None:
            ema.update(model, step=done)
        if job.validation is not None and (done % job.eval_steps == 0 or done == job.total_steps):
            with meter.aside():
                progress.note_score(training, done, look_at_validation(job, training.averaged, done, log))
        signal = signals.asked(world)
        if done < job.total_steps and (signal or done % job.checkpoint_period == 0):
            saved = progress.save(training, done)
            if signal:
                raise Stopped(f"stopped by {signal} after step {done}, saved in {saved}; {GO_ON}")

    fit(
        model,
        crew.batches(
            job.dataset,
            start_step=start,
            total_steps=job.total_steps,
            seed=job.seed,
            num_workers=job.num_workers,
            prefetch=job.prefetch,
        ),
        step,
        optimizers=job.optimizers,
        schedules=schedules,
        total_steps=job.total_steps,
        start_step=start,
        clip_grad=job.clip_grad,
        scaler=scaler,
        skipped=skipped,
        after_step=after_step,
        name_batch=lambda batch: names_of(job.dataset, batch),
        world=world,
        meter=meter,
        log=log,
        stage="revit",
        log_period=job.log_period,
    )
    weights = whole_weights(training.averaged)

    def finish() -> None:
        state = {"kind": "revit", "model": weights, "step": job.total_steps, **job.identity}
        save_checkpoint(state, folder.revit)
        progress.clear()

    world.from_main(finish)
    if signal := signals.asked(world):
        raise Stopped(f"stopped by {signal} after the last step of stage 1, saved in {folder.revit}; {GO_ON}")


def build_crew(job: RevitJob, model: ReViT, world: World) -> Crew:
    """The processes, and how each of them runs the model in a step."""
    forward = None if job.cascade else TrainForward(model, recompute=job.recompute)
    crew = Crew(
        model,
        world,
        batch_size=job.batch_size,
        grow_at=job.grow_at,
        costs=job.length_costs,
        even=job.mix is not None or job.mix_token is not None,
        micro_batch=job.micro_batch,
        forward=forward,
        transfers=job.distillation.feature_weight > 0 or job.distillation.attention_weight > 0,
        tokens_mixed=job.mix_token is not None,
    )
    if job.compile and forward is not None:
        forward.compile_for(crew.sizes(views=job.views))
    return crew


def step_lines(job: RevitJob, world: World) -> list[str]:
    """What the user should see before the first step: how many clips make one, and at what learning rate."""
    clips, processes = job.batch_size * job.views, f"{world.size} process{'es' * (world.size > 1)}"
    made = f"{clips} clips" + (f" ({job.views} of each of {job.batch_size} videos)" if job.views > 1 else "")
    passes = f"at most {job.micro_batch} to a pass" if job.micro_batch else "each its part in one pass"
    lines = [f"effective batch: {made}, in {processes}, {passes}; {job.rates}"]
    if job.micro_batch and has_statistics(job.model):
        lines.append(
            "this model has batch normalisation: its statistics are those of a pass, so that "
            "solver.micro_batch_size changes the result"
        )
    return lines


def step_clips(job: RevitJob, number: int, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
    """Clips (B*V, C, T, H, W) of a step on the device, their labels (B*V,), and their targets (B*V, K) where
    they were mixed.
    """
    labels = batch.clip_labels.flatten().to(job.run.device)
    if not len(labels):  # others have clips
        return batch.clips, labels, None
    clips = job.run.to_clips(batch.clips.flatten(0, 1))
    if job.mix is None:
        return clips, labels, None
    clips, targets = job.mix(clips, labels, step=number, rows=batch.rows)
    return clips, labels, targets


def patch_task(job: RevitJob, number: int, batch: Batch) -> PatchTask:
    """What the patches of a step learn, by the label maps of its videos where there are some."""
    box = job.mix_token.draw(number) if job.mix_token is not None else None
    if batch.label_maps is None:
        return PatchTask(job.patch_weight, box=box)
    maps = batch.label_maps.to(job.run.device).repeat_interleave(job.views, dim=0)
    places = batch.places.flatten(0, 1).to(job.run.device)
    return PatchTask(job.patch_weight, TokenLabels(maps, places, job.model.num_classes), box)


def look_at_validation(job: RevitJob, network: ReViT, done: int, log: RunLog) -> float:
    """Log the accuracy of every length on the validation list, in percent, one centre view of each video;
    returns the mean over the lengths.

    No draw of the training stream is taken, so that a run goes the same way with and without it.
    """
    every = all_levels(network)

    def predict(clips: Tensor) -> Mapping[str, Tensor]:
        with job.run.autocast():
            return every(clips)

    was_training = network.training
    network.eval()
    with torch.random.fork_rng(devices=[]):
        scores = job.validation.score(predict, log, title="validation")
    network.train(was_training)
    logits, found = scores.values["logits"][:, 0], {}  # (N, L, K)
    for level in range(network.num_levels):
        for name, right in right_rows(logits[:, level], scores.labels, heads=job.heads).items():
            found[f"{name}/level{level}"] = 100.0 * right.double().mean().item()
    log.scalars("val", done, found)
    first = next(iter(found)).partition("/")[0]  # clip@1, or action@1
    shown = {n: found[f"{first}/level{i}"] for i, n in enumerate(network.token_lengths)}
    listed = ", ".join(f"{length}: {percent:.1f}%" for length, percent in shown.items())
    log.say(f"step {done}: validation {first}, {len(scores.labels)} videos, at length {listed}")
    return sum(shown.values()) / len(shown)
