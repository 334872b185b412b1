"""The job of stage 1 from the settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from revit_video.backbones.core import ReViT
from revit_video.backbones.costs import level_gmacs
from revit_video.build.distributed import length_costs, spread_weights
from revit_video.build.lists import build_split, check_classes, flip_map
from revit_video.build.networks import build_model, identity, start_from
from revit_video.build.one_run import circumstances, settings_that_stay
from revit_video.build.passes import augmentation, build_mix, build_mix_token, eval_job, train_dataset
from revit_video.competitors.cascade import Cascade
from revit_video.competitors.evit import EViT, KeepWarmup
from revit_video.config import Config
from revit_video.data.label_maps import LabelMaps
from revit_video.report.device_peak import peak_flops
from revit_video.stages.job import Device, EvalJob
from revit_video.stages.revit import RevitJob
from revit_video.train.losses import Distillation, one_hot_targets
from revit_video.train.optim import build_optimizers, cosine_factor, relative_factor
from revit_video.train.world import World
from revit_video.transform.mix import Mix
from revit_video.types import InputError, Split


def revit_job(config: Config, run: Device) -> RevitJob:
    """Stage 1 from the config; `model.init_from` gives the weights it starts from."""
    solver, revit = config.solver, config.revit
    split = build_split(config, "train")
    torch.manual_seed(config.seed)
    model = build_model(config, len(split.class_names))
    notes: tuple[str, ...] = ()
    if config.model.init_from:
        if revit.grow_share:
            raise InputError(
                "model.init_from gives all lengths their weights, and revit.grow_share would overwrite the "
                "longer ones; set revit.grow_share=0"
            )
        notes = start_from(model, config.model.init_from, split.class_names, split.heads)
    dataset = train_dataset(
        config,
        split.samples,
        flip_labels=flip_map(config.data.flip_labels, split.class_names, split.heads),
        label_maps=label_maps(config, split, model),
    )
    videos = videos_of_a_step(config)
    steps_per_epoch = max(1, len(dataset) // videos)
    total = solver.max_steps or solver.max_epoch * steps_per_epoch
    costs, gmacs = length_costs(config, model), level_gmacs(model)
    cascade = isinstance(model, Cascade)
    if cascade:
        refuse_for_cascades(config)
        gmacs = [cost - before for cost, before in zip(gmacs, [*gmacs[1:], 0.0], strict=True)]
    reducer_at = keep_warmup(config, model, steps_per_epoch)
    model = spread_weights(config, model, run)
    scale = solver.batch_size / (solver.lr_per_clips or solver.batch_size)
    return RevitJob(
        model=model,
        dataset=dataset,
        optimizers=build_optimizers(
            model,
            solver.optimizer,
            lr=solver.base_lr * scale,
            weight_decay=solver.weight_decay,
            momentum=solver.momentum,
            muon_lr=solver.muon_lr * scale,
            layer_decay=solver.layer_decay,
        ),
        lr_factor=lr_factor(config, total, steps_per_epoch, peak=solver.base_lr * scale),
        rates=rates_line(config, scale),
        total_steps=total,
        grow_at=round(total * revit.grow_share),
        length_costs=costs,
        batch_size=videos,
        views=solver.batch_size // videos,
        micro_batch=solver.micro_batch_size,
        recompute=solver.activation_checkpointing,
        compile=solver.compile,
        reducer_at=reducer_at,
        cascade=cascade,
        mix=mix_for(config, split),
        mix_token=build_mix_token(config),
        patch_weight=revit.patch_weight,
        true_class=revit.true_class,
        heads=split.heads,
        validation=validation(config, split, run) if solver.eval_period else None,
        eval_steps=solver.eval_period * steps_per_epoch,
        distillation=Distillation(
            weight=revit.distill_weight,
            temperature=revit.temperature,
            hard=revit.hard,
            kl_order=revit.kl_order,
            feature_weight=revit.feature_transfer,
            attention_weight=revit.attention_transfer,
        ),
        run=run,
        gmacs=gmacs,
        peak_flops=partial(peak_flops, run.device, run.dtype, given=1e12 * config.log.peak_tflops),
        smoothing=solver.label_smoothing,
        clip_grad=solver.clip_grad,
        max_skipped=solver.max_skipped_steps,
        ema_decay=solver.ema,
        seed=config.seed,
        num_workers=config.data.num_workers,
        prefetch=config.data.prefetch,
        max_unreadable=config.data.max_unreadable,
        log_period=solver.log_period,
        checkpoint_period=solver.checkpoint_period,
        keep_checkpoints=solver.keep_checkpoints,
        identity=identity(config, split.class_names, split.heads),
        settings=settings_that_stay(config),
        circumstances=circumstances(config, run.dtype),
        notes=notes,
    )


def refuse_for_cascades(config: Config) -> None:
    """Parts of the training that are of one backbone at several lengths, or know its names."""
    solver = config.solver
    parallel = config.distributed.lengths == "parallel"
    for key, on, off, why in (
        ("revit.grow_share", config.revit.grow_share > 0, "0", "has exits that are networks of their own"),
        ("distributed.lengths", parallel, "sequential", "runs all exits at once"),
        ("distributed.strategy", config.distributed.strategy == "fsdp", "ddp", "is not cut into parts"),
        ("augment.mix_token", augmentation(config).mix_token > 0, "0", "embeds pictures exit by exit"),
        ("solver.layer_decay", solver.layer_decay != 1, "1", "has several stacks of blocks"),
        ("solver.activation_checkpointing", solver.activation_checkpointing, "false", "runs its own blocks"),
        ("solver.compile", solver.compile, "false", "is not compiled"),
    ):
        if on:
            raise InputError(f"{config.model.name} is a cascade and {why}; set {key}={off}")


def label_maps(config: Config, split: Split, model: ReViT) -> LabelMaps | None:
    """The label maps of the training images; None where there are none."""
    if not config.data.label_maps:
        if config.revit.true_class:
            raise InputError("revit.true_class is true, but without data.label_maps it always is the target")
        return None
    if getattr(model, "aux_head", None) is None:
        raise InputError(
            f"data.label_maps say what every patch shows, and {config.model.name} has no head that reads "
            "them; take an lvvit model, set model.options={aux_head: true}, or leave data.label_maps out"
        )
    return LabelMaps(config.data.label_maps, split.samples, num_classes=len(split.class_names))


def keep_warmup(config: Config, model: ReViT, steps_per_epoch: int) -> KeepWarmup | None:
    """The fall of EViT's keep rate over the steps; None: it is there from the start."""
    epochs = (config.model.reducer_warmup_epochs, config.model.reducer_shrink_epochs)
    if not any(epochs):
        return None
    reducer = getattr(model, "reducer", None)
    if not isinstance(reducer, EViT):
        raise InputError(
            f"model.reducer_warmup_epochs={epochs[0]:g} and model.reducer_shrink_epochs={epochs[1]:g} are of "
            "the reducer evit; set both to 0, or model.options={reducer: {name: evit}}"
        )
    start, shrink = (round(number * steps_per_epoch) for number in epochs)
    return KeepWarmup(reducer, len(model.blocks), start, shrink)


def videos_of_a_step(config: Config) -> int:
    """Each of them gives `augment.repeats` of the step's clips."""
    clips, repeats = config.solver.batch_size, augmentation(config).repeats
    if clips % repeats:
        raise InputError(
            f"solver.batch_size={clips} is no multiple of augment.repeats={repeats}, the clips of a video; "
            "change one of them"
        )
    return clips // repeats


def mix_for(config: Config, split: Split) -> Mix | None:
    """Mixup and cutmix, with targets for each of the list's lists of classes."""
    classes = len(split.class_names)
    mix = build_mix(config, classes)
    if mix is None or not split.heads:
        return mix
    return replace(mix, targets_of=partial(one_hot_targets, num_classes=classes, heads=split.heads))


def validation(config: Config, split: Split, run: Device) -> EvalJob:
    """A look at the validation list while the model is trained: one centre view of each video."""
    val = build_split(config, "val")
    val = check_classes(val, split.class_names, source="the training list", heads=split.heads)
    if config.distributed.strategy == "fsdp":  # every pass needs all processes, so none may have fewer
        run = replace(run, world=World())
    whole = replace(run, dtype=torch.float32)  # weights are float32; the passes run under `autocast`
    return eval_job(config, val.samples, whole, max_unreadable=config.data.max_unreadable)


def rates_line(config: Config, scale: float) -> str:
    """The peak learning rates in words."""
    solver = config.solver
    rates = {"learning rate": solver.base_lr}
    if solver.optimizer == "muon":
        rates = {"learning rate of the blocks' matrices": solver.muon_lr, "of all else": solver.base_lr}
    said = ", ".join(f"{name} {rate * scale:g}" for name, rate in rates.items())
    if not solver.lr_per_clips:
        return f"{said}, as given for {solver.batch_size} clips"
    given = " and ".join(f"{rate:g}" for rate in rates.values())
    return f"{said}, from {given} per {solver.lr_per_clips} clips"


def lr_factor(config: Config, total: int, steps_per_epoch: int, *, peak: float) -> Callable[[int], float]:
    """The learning rate over `total` steps as a share of its peak."""
    solver = config.solver
    if solver.schedule == "constant":
        return lambda step: 1.0
    if solver.schedule == "relative_steps":
        return lambda step: relative_factor(step, steps_per_epoch, epochs=solver.steps, factors=solver.lrs)
    warmup = round(solver.warmup_epochs * steps_per_epoch) or round(total * solver.warmup_share)
    ends = {"start": solver.warmup_lr / peak, "end": solver.end_lr / peak}
    return partial(cosine_factor, total=total, warmup=max(1, warmup), **ends)
