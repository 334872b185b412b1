"""What a run does, and the jobs of its stages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from revit_video.backbones.costs import level_gmacs
from revit_video.build.fewer_frames import fewer_frames
from revit_video.build.folds import fold_jobs
from revit_video.build.lists import build_split, check_classes, describe_list, label_samples
from revit_video.build.networks import (
    as_decoded,
    build_assigner,
    heads_of,
    identity,
    is_cascade,
    recognizer_state,
    trained_assigner,
    trained_model,
)
from revit_video.build.passes import eval_job, train_dataset, view_settings
from revit_video.competitors.cascade import Cascade
from revit_video.competitors.early_exit import (
    Thresholds,
    refuse_missing_scipy,
    tensors_digest,
    weights_digest,
)
from revit_video.config import Config, config_from_dict, override_config
from revit_video.decode import DECODERS, DEFAULT_DECODER
from revit_video.report.macs import count_macs
from revit_video.report.provenance import provenance
from revit_video.routing.labels import LabelRule
from revit_video.routing.stored import router_at
from revit_video.settings import AssignerConfig, LabelsConfig
from revit_video.stages.assigner import AssignerJob
from revit_video.stages.exits import ExitsJob, load_exits
from revit_video.stages.job import Device, RunFolder
from revit_video.stages.labels import LabelsJob
from revit_video.stages.test import TestJob
from revit_video.train.assigner import AssignerLoss
from revit_video.train.checkpoint import load_checkpoint
from revit_video.train.optim import build_optimizers, cosine_factor
from revit_video.train.scalars import refuse_missing_wandb
from revit_video.types import InputError, Split

STAGES = ("revit", "labels", "assigner", "test")


@dataclass(frozen=True)
class RunPlan:
    """What to run and where it goes."""

    output_dir: Path
    stages: tuple[str, ...]
    resume: bool | str
    wandb: str  # project, "" for none


def run_plan(config: Config) -> RunPlan:
    """The stages that `config.stage` asks for, in order."""
    stages = STAGES if config.stage == "all" else (config.stage,)
    refuse_missing_wandb(config.log.wandb)
    return RunPlan(Path(config.output_dir), stages, config.resume, config.log.wandb)


def checkpoint_config(checkpoint: Path, overrides: Sequence[str]) -> Config:
    """The config a checkpoint was trained by, with overrides. Reports go into its folder unless `output_dir`
    says else.
    """
    state = recognizer_state(checkpoint)
    ours = {**state["config"], "output_dir": str(checkpoint.parent), "resume": False}
    trained = config_from_dict(ours, source=str(checkpoint))
    config = override_config(trained, overrides)
    for group in ("model", "assigner"):
        if getattr(config, group) != getattr(trained, group):
            raise InputError(
                f"{checkpoint} holds trained networks, so {group}.* cannot change; train anew for that"
            )
    return config


def check_stages(config: Config, stages: Sequence[str]) -> list[str]:
    """Refuse what a stage would stumble over: an unknown decoder, a list with a mistake, lists of other
    classes. Returns lines that say what the lists hold, for the user to look at before the work begins.
    """
    decoders = ["auto", *DECODERS]
    if config.data.decoder not in decoders:
        raise InputError(f"data.decoder is {config.data.decoder!r}, but must be one of {', '.join(decoders)}")
    if "assigner" in stages and is_cascade(config):
        refuse_missing_scipy()
    elif "assigner" in stages and len(config.model.token_lengths) < 2:
        raise InputError(
            f"model.token_lengths is {config.model.token_lengths}: nothing to assign; "
            "give more lengths or stage=revit"
        )
    lists = {"revit": "train", "labels": config.labels.split, "assigner": config.labels.split, "test": "test"}
    splits = {name: build_split(config, name) for name in dict.fromkeys(lists[stage] for stage in stages)}
    names = {name: split.class_names for name, split in splits.items()}
    for name, classes in names.items():
        first = next(iter(names))
        if classes != names[first]:
            raise InputError(
                f"the {first} list has {len(names[first])} classes, the {name} list {len(classes)}, or their "
                "names differ; make them agree (lists without class names: data.num_classes says how many)"
            )
    said = [describe_list(name, split) for name, split in splits.items()]
    return said + list(overlaps(config, stages, splits))


def overlaps(config: Config, stages: Sequence[str], splits: Mapping[str, Split]) -> Iterator[str]:
    """Warnings of videos that are tested on after they were learnt from. A run whose label list is its test
    list is refused: its router would be tested on what it was fitted to.
    """
    data = config.data
    called = {"train": data.train_split, "val": data.val_split}[config.labels.split]
    if called == data.test_split and set(stages) != {"revit"}:
        both = f"the test list and the label list are both {called!r}"
        if {"labels", "assigner"} & set(stages):
            raise InputError(
                f"{both}, so the assigner and its budget would be tested on what they were fitted to; "
                "give another labels.split or data.test_split"
            )
        yield f"WARNING: {both}; if the assigner was fitted to these videos, its accuracy is not a test"
    if "test" in splits:
        tested = {(sample.path, sample.begin) for sample in splits["test"].samples}
        for name in splits.keys() - {"test"}:
            common = sum((sample.path, sample.begin) in tested for sample in splits[name].samples)
            if common:
                yield (
                    f"WARNING: {common} of the {len(tested)} videos of the test list are in the {name} list "
                    "too; what the test says of them is not how the model does on new videos"
                )


def labels_job(config: Config, folder: RunFolder, run: Device) -> LabelsJob:
    """The labels stage from the config and the trained backbone."""
    state = load_checkpoint(folder.revit, kind="revit")
    model, _ = trained_model(state, source=folder.revit, run=run)
    heads = heads_of(state)
    _, samples = label_samples(config, state["class_names"], source=str(folder.revit), heads=heads)
    dtype = str(run.dtype).removeprefix("torch.")
    protocol = f"{config.labels.split} list, 1 centre view, crop {config.data.crop}, {dtype}"
    folds = fold_jobs(config, samples, run) if config.labels.folds else ()
    model, _, run = as_decoded(model, None, run)
    if folds:
        protocol += f", each of {config.labels.folds} parts by a model trained without it"
    evaluation = eval_job(config, samples, run, max_unreadable=config.data.max_unreadable)
    rule, seen = label_rule(config.labels), memorised(config.labels)
    return LabelsJob(model, evaluation, protocol, heads, rule, folds, seen)


def assigner_job(config: Config, folder: RunFolder, run: Device) -> AssignerJob:
    """Stage 2 from the config, the backbone's cost and the label list."""
    state = load_checkpoint(folder.revit, kind="revit")
    model, _ = trained_model(state, source=folder.revit, run=run)
    source, heads = str(folder.revit), heads_of(state)
    split, samples = label_samples(config, state["class_names"], source=source, heads=heads)
    torch.manual_seed(config.seed)
    assigner = build_assigner(config)
    tla = config.assigner
    clip = torch.zeros(1, 3, tla.frames, config.data.crop, config.data.crop)
    costs = level_gmacs(model)
    return AssignerJob(
        assigner=assigner,
        samples=samples,
        train_list=lambda part: train_dataset(config, part, one_frame=True),
        holdout_list=lambda part: eval_job(config, part, replace(run, dtype=torch.float32), one_frame=True),
        optimizers=build_optimizers(assigner, "adamw", lr=tla.base_lr, weight_decay=tla.weight_decay),
        lr_factor=lambda step, total: cosine_factor(step, total, warmup=max(1, total // 20)),
        costs=costs,
        assigner_cost=count_macs(assigner, clip) / 1e9,
        router=config.router.kind,
        budget=budget_share(config, costs),
        epochs=tla.epochs,
        batch_size=tla.batch_size,
        holdout_share=config.router.holdout_share,
        label_rule=label_rule(config.labels),
        loss=assigner_loss(tla, costs),
        class_weight=tla.class_weight,
        soft_labels=tla.soft_labels,
        calibrate=tla.calibrate,
        crossed=config.labels.folds > 0,
        run=run,
        seed=config.seed,
        num_workers=config.data.num_workers,
        prefetch=config.data.prefetch,
        max_unreadable=config.data.max_unreadable,
        max_skipped=config.solver.max_skipped_steps,
        identity=identity(config, split.class_names, split.heads),
    )


def test_job(config: Config, checkpoint: Path, run: Device, *, split: Split | None = None) -> TestJob:
    """The test of a joint checkpoint, or of a backbone alone, on a list; None: the config's test list."""
    state = recognizer_state(checkpoint)
    model, trained = trained_model(state, source=checkpoint, run=run)
    exits = exits_of(checkpoint, state, model) if isinstance(model, Cascade) else ()
    whole = state["kind"] == "recognizer"
    source, heads = str(checkpoint), heads_of(state)
    split = split or build_split(config, "test")
    split = check_classes(split, state["class_names"], source=source, heads=heads)
    test, decoder = config.test, config.data.decoder
    if decoder == "auto":
        decoder = DEFAULT_DECODER
    costs = state["router"]["costs"] if whole else level_gmacs(model)
    fewer = fewer_frames(config, state["model"], model, split.samples, run, source=checkpoint)
    assigner = trained_assigner(trained, state, source=checkpoint, run=run) if whole else None
    model, assigner, run = as_decoded(model, assigner, run)
    return TestJob(
        model=model,
        costs=costs,
        assigner=assigner,
        router=tested_router(config, state["router"]) if whole else None,
        exits=exits,
        share=config.router.share,
        evaluation=eval_job(config, split.samples, run, **view_settings(config)),
        num_clips=test.num_ensemble_views,
        num_crops=test.num_spatial_crops,
        batch_size=test.batch_size,
        class_names=split.class_names,
        heads=split.heads,
        title=f"{config.model.name} on {config.data.dataset}",
        memorised=memorised(config.labels),
        fewer_frames=fewer,
        throughput=test.throughput,
        plots=config.report.plots,
        sheet_clips=config.report.sheet_clips,
        protocol=provenance(device=run.device, dtype=run.dtype, seed=config.seed, decoder=decoder),
    )


def exits_job(config: Config, folder: RunFolder, run: Device) -> ExitsJob:
    """Stage 2 of a cascade: thresholds instead of an assigner."""
    state = load_checkpoint(folder.revit, kind="revit")
    source, heads = str(folder.revit), heads_of(state)
    _, samples = label_samples(config, state["class_names"], source=source, heads=heads)
    model, _ = trained_model(state, source=folder.revit, run=run)
    costs = level_gmacs(model)
    budget, digest = budget_share(config, costs) * costs[0], tensors_digest(state["model"])
    return ExitsJob(samples, costs, budget, digest, crossed=config.labels.folds > 0)


def exits_of(checkpoint: Path, state: dict, model: Cascade) -> tuple[Thresholds, ...]:
    """The thresholds of a cascade's run, for its weights as they are in `model`; none before stage 2."""
    file = RunFolder(checkpoint.parent.parent).exits
    if not file.exists():
        return ()
    ours = weights_digest(model)  # in the type that is tested in
    solved = load_exits(file, weights=tensors_digest(state["model"]))
    return tuple(replace(one, checkpoint=ours) for one in solved)


def tested_router(config: Config, state: dict) -> dict:
    """The checkpoint's router at the config's budget and of its kind."""
    return router_at(state, budget_share(config, state["costs"]), config.router.kind, say=print)


def budget_share(config: Config, costs: Sequence[float]) -> float:
    """The budget as a share of the longest length's cost."""
    router = config.router
    return router.budget_gmacs / costs[0] if router.budget_gmacs else router.budget


def label_rule(labels: LabelsConfig) -> LabelRule:
    return LabelRule(labels.rule, none_right=labels.none_right, epsilon=labels.epsilon)


def memorised(labels: LabelsConfig) -> bool:
    """Whether the backbone that makes the length labels was trained on these videos."""
    return labels.split == "train" and not labels.folds


def assigner_loss(assigner: AssignerConfig, costs: Sequence[float]) -> AssignerLoss:
    relative = tuple(cost / costs[0] for cost in costs)
    return AssignerLoss(
        assigner.loss, gamma=assigner.focal_gamma, cost_weight=assigner.cost_weight, costs=relative
    )
