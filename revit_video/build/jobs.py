"""What a run does, and the jobs of its stages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from revit_video.backbones.costs import level_gmacs
from revit_video.build.lists import build_split, check_classes, describe_list, label_samples
from revit_video.build.networks import (
    build_assigner,
    identity,
    recognizer_state,
    trained_assigner,
    trained_model,
)
from revit_video.build.passes import eval_job, train_dataset, view_settings
from revit_video.config import Config, config_from_dict, override_config
from revit_video.decode import DECODERS, DEFAULT_DECODER
from revit_video.report.macs import count_macs
from revit_video.report.provenance import provenance
from revit_video.stages.assigner import AssignerJob
from revit_video.stages.job import Device, RunFolder
from revit_video.stages.labels import LabelsJob
from revit_video.stages.test import TestJob
from revit_video.train.checkpoint import load_checkpoint
from revit_video.train.optim import build_optimizers, cosine_factor
from revit_video.types import InputError, Split

STAGES = ("revit", "labels", "assigner", "test")


@dataclass(frozen=True)
class RunPlan:
    """What to run and where it goes."""

    output_dir: Path
    stages: tuple[str, ...]
    resume: bool


def run_plan(config: Config) -> RunPlan:
    """The stages that `config.stage` asks for, in order."""
    stages = STAGES if config.stage == "all" else (config.stage,)
    return RunPlan(Path(config.output_dir), stages, config.resume)


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
    if "assigner" in stages and len(config.model.token_lengths) < 2:
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
    _, samples = label_samples(config, state["class_names"], source=str(folder.revit))
    dtype = str(run.dtype).removeprefix("torch.")
    protocol = f"{config.labels.split} list, 1 centre view, crop {config.data.crop}, {dtype}"
    evaluation = eval_job(config, samples, run, max_unreadable=config.data.max_unreadable)
    return LabelsJob(model, evaluation, protocol)


def assigner_job(config: Config, folder: RunFolder, run: Device) -> AssignerJob:
    """Stage 2 from the config, the backbone's cost and the label list."""
    state = load_checkpoint(folder.revit, kind="revit")
    model, _ = trained_model(state, source=folder.revit, run=run)
    split, samples = label_samples(config, state["class_names"], source=str(folder.revit))
    torch.manual_seed(config.seed)
    assigner = build_assigner(config)
    clip = torch.zeros(1, 3, 1, config.data.crop, config.data.crop)
    tla = config.assigner
    return AssignerJob(
        assigner=assigner,
        samples=samples,
        train_list=lambda part: train_dataset(config, part, one_frame=True),
        holdout_list=lambda part: eval_job(config, part, replace(run, dtype=torch.float32), one_frame=True),
        optimizers=build_optimizers(assigner, "adamw", lr=tla.base_lr, weight_decay=tla.weight_decay),
        lr_factor=lambda step, total: cosine_factor(step, total, warmup=max(1, total // 20)),
        costs=level_gmacs(model),
        assigner_cost=count_macs(assigner, clip) / 1e9,
        budget=config.router.budget,
        epochs=tla.epochs,
        batch_size=tla.batch_size,
        holdout_share=config.router.holdout_share,
        none_right=config.labels.none_right,
        class_weight=tla.class_weight,
        soft_labels=tla.soft_labels,
        run=run,
        seed=config.seed,
        num_workers=config.data.num_workers,
        max_unreadable=config.data.max_unreadable,
        identity=identity(config, split.class_names),
    )


def test_job(config: Config, checkpoint: Path, run: Device) -> TestJob:
    """The test of a joint checkpoint, or of a backbone alone, on the config's test list."""
    state = recognizer_state(checkpoint)
    model, trained = trained_model(state, source=checkpoint, run=run)
    whole = state["kind"] == "recognizer"
    split = check_classes(build_split(config, "test"), state["class_names"], source=str(checkpoint))
    test, decoder = config.test, config.data.decoder
    if decoder == "auto":
        decoder = DEFAULT_DECODER
    return TestJob(
        model=model,
        costs=state["router"]["costs"] if whole else level_gmacs(model),
        assigner=trained_assigner(trained, state, source=checkpoint, run=run) if whole else None,
        router=router_at(state["router"], config.router.budget) if whole else None,
        evaluation=eval_job(config, split.samples, run, **view_settings(config)),
        num_clips=test.num_ensemble_views,
        num_crops=test.num_spatial_crops,
        batch_size=test.batch_size,
        class_names=split.class_names,
        title=f"{config.model.name} on {config.data.dataset}",
        throughput=test.throughput,
        plots=config.report.plots,
        sheet_clips=config.report.sheet_clips,
        protocol=provenance(device=run.device, dtype=run.dtype, seed=config.seed, decoder=decoder),
    )


def router_at(router: dict, budget: float) -> dict:
    """The router with the bias and the threshold of another budget, one of those that training solved."""
    solved = {row["budget"]: row for row in [*router["curve"], router]}
    if budget not in solved:
        known = ", ".join(f"{number:g}" for number in sorted(solved))
        raise InputError(f"router.budget is {budget:g}, but this checkpoint was solved for {known}")
    return {**router, **{key: solved[budget][key] for key in ("budget", "bias", "threshold")}}
