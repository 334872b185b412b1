"""Config to objects. The only file that knows both the settings and the parts; everything else takes plain arguments."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

import revit_video
from revit_video.backbones.core import ReViT
from revit_video.backbones.costs import level_gmacs
from revit_video.backbones.zoo import create_model
from revit_video.config import Config, config_from_dict, config_to_dict, override_config
from revit_video.data.class_folders import class_folder_split
from revit_video.data.dataset import VideoDataset
from revit_video.data.demo import demo_split
from revit_video.data.kinetics import kinetics_split
from revit_video.data.ssv2 import ssv2_split
from revit_video.decode import DECODERS, DEFAULT_DECODER
from revit_video.report.macs import count_macs
from revit_video.report.plots import plot_accuracy_vs_gmacs, plot_length_sheet
from revit_video.report.provenance import provenance
from revit_video.routing.assigner import Assigner
from revit_video.routing.router import AssignerRouter
from revit_video.sample.temporal import random_start, segment_indices, strided_indices
from revit_video.sample.views import test_views
from revit_video.settings import DataConfig
from revit_video.stages.assigner import AssignerJob
from revit_video.stages.job import Device, EvalJob, RunFolder
from revit_video.stages.labels import LabelsJob
from revit_video.stages.revit import RevitJob
from revit_video.stages.test import TestJob, TestResult
from revit_video.train.checkpoint import load_checkpoint, load_weights
from revit_video.train.losses import Distillation
from revit_video.train.optim import build_optimizers, cosine_factor, relative_factor
from revit_video.transform import EvalTransform, TrainTransform, normalise
from revit_video.types import InputError, Split, VideoSample, View

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
    """The config a checkpoint was trained by, with overrides. Reports go into its folder unless `output_dir` says else."""
    state = load_checkpoint(checkpoint, kind="recognizer")
    ours = {**state["config"], "output_dir": str(checkpoint.parent), "resume": False}
    trained = config_from_dict(ours, source=str(checkpoint))
    config = override_config(trained, overrides)
    for group in ("model", "assigner"):
        if getattr(config, group) != getattr(trained, group):
            raise InputError(
                f"{checkpoint} holds trained networks, so {group}.* cannot change; train anew for that"
            )
    return config


def check_stages(config: Config, stages: Sequence[str]) -> None:
    """Refuse what a stage would stumble over: an unknown decoder, a list with a mistake, lists of other classes."""
    decoders = ["auto", *DECODERS]
    if config.data.decoder not in decoders:
        raise InputError(f"data.decoder is {config.data.decoder!r}, but must be one of {', '.join(decoders)}")
    if "assigner" in stages and len(config.model.token_lengths) < 2:
        raise InputError(
            f"model.token_lengths is {config.model.token_lengths}: nothing to assign; give more lengths or stage=revit"
        )
    lists = {"revit": "train", "labels": config.labels.split, "assigner": config.labels.split, "test": "test"}
    splits = {name: build_split(config, name) for name in dict.fromkeys(lists[stage] for stage in stages)}
    names = {name: split.class_names for name, split in splits.items()}
    for name, classes in names.items():
        first = next(iter(names))
        if classes != names[first]:
            raise InputError(
                f"the {first} list has {len(names[first])} classes, the {name} list {len(classes)}, or their names "
                "differ; make them agree (lists without class names: data.num_classes says how many there are)"
            )


def build_device(config: Config) -> Device:
    """`auto` is the first GPU, else the CPU; dtype `auto` is bfloat16 where the device multiplies it natively."""
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device is {name!r}, but torch sees no GPU here; use device=cpu or device=auto")
    device = torch.device(name)
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    dtype = dtypes.get(config.dtype) or (torch.bfloat16 if has_native_bfloat16(device) else torch.float32)
    half = partial(torch.autocast, device.type, dtype=torch.bfloat16)

    def to_clips(clips, dtype=torch.float32):
        return normalise(clips.to(device), mean=config.data.mean, std=config.data.std, dtype=dtype)

    return Device(device, dtype, half if dtype == torch.bfloat16 else nullcontext, to_clips)


def has_native_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 matrix products are faster than float32 ones there, by the instructions the device has."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def build_split(config: Config, split: str) -> Split:
    """The list called `split` (train, val or test) of the config's data set."""
    data = config.data
    name = {"train": data.train_split, "val": data.val_split, "test": data.test_split}[split]
    root = Path(data.root)
    if data.dataset == "demo":
        return demo_split(root, name)
    if data.dataset == "ssv2":
        return ssv2_split(root, name, path_prefix=data.path_prefix)
    if data.dataset == "class_folders":
        pattern = {"group_pattern": data.group_pattern} if data.group_pattern else {}
        return class_folder_split(root, name, shares=data.split_shares, **pattern)
    return kinetics_split(
        root / f"{name}.csv",
        root=data.path_prefix or root,
        separator=data.separator,
        num_classes=data.num_classes,
    )


def check_classes(split: Split, class_names: Sequence[str], *, source: str) -> None:
    """Refuse a list whose classes are not the model's, in the model's order."""
    if list(split.class_names) != list(class_names):
        ours, theirs = list(class_names), list(split.class_names)
        first = next(
            (
                f"class {i} is {b!r} in the data, {a!r} in the model"
                for i, (a, b) in enumerate(zip(ours, theirs, strict=False))
                if a != b
            ),
            "",
        )
        raise InputError(
            f"{source} has {len(ours)} classes, the data {len(theirs)}{'; ' * bool(first)}{first}; use the data it was trained on"
        )


def build_model(config: Config, num_classes: int) -> ReViT:
    """The backbone with fresh weights."""
    model, data = config.model, config.data
    settings = {
        "num_classes": num_classes,
        "token_lengths": tuple(model.token_lengths),
        "num_frames": data.num_frames,
        "crop": data.crop,
        "patch_embed": model.patch_embed,
        "distill_token": model.distill_token,
        "drop_path": model.drop_path,
    }
    for key in settings.keys() & model.options.keys():
        raise InputError(
            f"model.options holds {key!r}, which has a key of its own among model.* and data.*; set it there"
        )
    return create_model(model.name, **settings, **model.options)


def build_assigner(config: Config) -> Assigner:
    """The assigner with fresh weights."""
    tla = config.assigner
    return Assigner(
        len(config.model.token_lengths), width=tla.width, depth=tla.depth, image_size=tla.image_size
    )


def pick_train_view(num_frames: int, rng: random.Random, *, data: DataConfig) -> list[View]:
    """One random clip of a video, as `VideoDataset.pick_views` wants it."""
    if data.sampling == "segments":
        frames = segment_indices(num_frames, data.num_frames, rng)
    else:
        start = random_start(num_frames, data.num_frames, data.sampling_rate, rng)
        frames = strided_indices(num_frames, data.num_frames, data.sampling_rate, start)
    return [View(tuple(frames), 0, 1)]


def pick_test_views(
    num_frames: int, rng: random.Random, *, data: DataConfig, clips: int, crops: int
) -> list[View]:
    """The views of a test video; the same ones every time."""
    return test_views(num_frames, data.num_frames, data.sampling_rate, clips, crops, sampling=data.sampling)


def pick_middle_frame(num_frames: int, rng: random.Random, *, pick: Callable[..., list[View]]) -> list[View]:
    """Of each view that `pick` picks only the frame that the assigner looks at."""
    return [replace(view, frames=(view.frames[len(view.frames) // 2],)) for view in pick(num_frames, rng)]


def train_dataset(
    config: Config,
    samples: Sequence[VideoSample],
    *,
    one_frame: bool = False,
    flip_labels: dict | None = None,
) -> VideoDataset:
    """Random clips with augmentation; with `one_frame` only what the assigner sees of them."""
    data = config.data
    pick = partial(pick_train_view, data=data)
    return VideoDataset(
        samples,
        pick_views=partial(pick_middle_frame, pick=pick) if one_frame else pick,
        transform=TrainTransform(
            data.crop, jitter=data.train_jitter, flip=data.flip, flip_labels=flip_labels
        ),
        decoder=data.decoder,
        cache=data.cache == "memory",
        seed=config.seed,
    )


def eval_job(
    config: Config,
    samples: Sequence[VideoSample],
    run: Device | None,
    *,
    clips: int = 1,
    crops: int = 1,
    one_frame: bool = False,
    max_unreadable: float = 1.0,
) -> EvalJob:
    """A pass over a list with fixed views."""
    data = config.data
    pick = partial(pick_test_views, data=data, clips=clips, crops=crops)
    dataset = VideoDataset(
        samples,
        pick_views=partial(pick_middle_frame, pick=pick) if one_frame else pick,
        transform=EvalTransform(data.crop, short_side=data.test_short_side),
        decoder=data.decoder,
    )
    per_batch = max(1, config.test.batch_size // (clips * crops))
    return EvalJob(
        dataset,
        run,
        per_batch,
        config.test.batch_size,
        num_workers=data.num_workers,
        max_unreadable=max_unreadable,
    )


def flip_map(pairs: Sequence[Sequence[str]], class_names: Sequence[str]) -> dict[int, int]:
    """Pairs of class names that swap under a flip, as labels in both directions."""
    swaps = {}
    for left, right in pairs:
        for name in (left, right):
            if name not in class_names:
                raise InputError(
                    f"data.flip_labels names the class {name!r}, which the data does not have: {list(class_names)[:20]}"
                )
        a, b = class_names.index(left), class_names.index(right)
        swaps |= {a: b, b: a}
    return swaps


def identity(config: Config, class_names: Sequence[str]) -> dict:
    """What a checkpoint says of itself: enough to rebuild the model and to refuse other data."""
    return {
        "config": config_to_dict(config),
        "class_names": list(class_names),
        "versions": {"revit_video": revit_video.__version__, "torch": str(torch.__version__)},
    }


def revit_job(config: Config, run: Device) -> RevitJob:
    """Stage 1 from the config; `model.init_from` gives the weights it starts from."""
    solver, revit = config.solver, config.revit
    split = build_split(config, "train")
    torch.manual_seed(config.seed)
    model = build_model(config, len(split.class_names))
    if config.model.init_from:
        if revit.grow_share:
            raise InputError(
                "model.init_from gives all lengths their weights, and revit.grow_share would overwrite the longer ones; "
                "set revit.grow_share=0"
            )
        start_from(model, config.model.init_from)
    dataset = train_dataset(
        config, split.samples, flip_labels=flip_map(config.data.flip_labels, split.class_names)
    )
    steps_per_epoch = max(1, len(dataset) // solver.batch_size)
    total = solver.max_steps or solver.max_epoch * steps_per_epoch
    return RevitJob(
        model=model,
        dataset=dataset,
        optimizers=build_optimizers(
            model,
            solver.optimizer,
            lr=solver.base_lr,
            weight_decay=solver.weight_decay,
            momentum=solver.momentum,
            muon_lr=solver.muon_lr,
        ),
        lr_factor=lr_factor(config, total, steps_per_epoch),
        total_steps=total,
        grow_at=round(total * revit.grow_share),
        batch_size=solver.batch_size,
        distillation=Distillation(
            weight=revit.distill_weight,
            temperature=revit.temperature,
            hard=revit.hard,
            kl_order=revit.kl_order,
            feature_weight=revit.feature_transfer,
            attention_weight=revit.attention_transfer,
        ),
        run=run,
        smoothing=solver.label_smoothing,
        clip_grad=solver.clip_grad,
        ema_decay=solver.ema,
        seed=config.seed,
        num_workers=config.data.num_workers,
        max_unreadable=config.data.max_unreadable,
        log_period=solver.log_period,
        checkpoint_period=solver.checkpoint_period,
        identity=identity(config, split.class_names),
    )


def lr_factor(config: Config, total: int, steps_per_epoch: int) -> Callable[[int], float]:
    """The learning rate over `total` steps as a share of its peak."""
    solver = config.solver
    if solver.schedule == "constant":
        return lambda step: 1.0
    if solver.schedule == "relative_steps":
        return lambda step: relative_factor(step, steps_per_epoch, epochs=solver.steps, factors=solver.lrs)
    return partial(cosine_factor, total=total, warmup=max(1, round(total * solver.warmup_share)))


def start_from(model: ReViT, path: str) -> None:
    """Weights of another run of the same architecture; heads keep their fresh weights if the number of classes differs."""
    state = load_checkpoint(path)
    if "model" not in state or "class_names" not in state:
        raise InputError(
            f"{path} holds {state['kind']!r}; expected a trained backbone (checkpoints/revit.pt or recognizer.pt)"
        )
    theirs, ours = dict(state["model"]), model.state_dict()
    if theirs["head.weight"].shape != ours["head.weight"].shape:
        theirs |= {name: value for name, value in ours.items() if name.startswith("head")}
    load_weights(model, theirs, source=path)


def trained_model(path: Path, *, kind: str, run: Device) -> tuple[ReViT, Config, dict]:
    """A backbone from a checkpoint, in evaluation mode on the device, with the config it was trained by and the whole state."""
    state = load_checkpoint(path, kind=kind)
    config = config_from_dict(state["config"])
    model = build_model(config, len(state["class_names"]))
    load_weights(model, state["model"], source=path)
    return model.eval().to(run.device, run.dtype), config, state


def trained_assigner(config: Config, state: dict, *, source: Path, run: Device) -> Assigner:
    """The assigner of a joint checkpoint, in evaluation mode. It stays in float32: its depthwise convolutions gain nothing."""
    assigner = build_assigner(config)
    load_weights(assigner, state["assigner"], source=source)
    return assigner.eval().to(run.device)


def label_samples(config: Config) -> tuple[Split, tuple[VideoSample, ...]]:
    """The list that gets length labels, cut to `labels.max_videos` by a draw with the config's seed."""
    split = build_split(config, config.labels.split)
    samples = list(split.samples)
    if 0 < config.labels.max_videos < len(samples):
        samples = random.Random(config.seed).sample(samples, config.labels.max_videos)
    return split, tuple(samples)


def labels_job(config: Config, folder: RunFolder, run: Device) -> LabelsJob:
    """The labels stage from the config and the trained backbone."""
    model, _, state = trained_model(folder.revit, kind="revit", run=run)
    split, samples = label_samples(config)
    check_classes(split, state["class_names"], source=str(folder.revit))
    dtype = str(run.dtype).removeprefix("torch.")
    protocol = f"{config.labels.split} list, 1 centre view, crop {config.data.crop}, {dtype}"
    evaluation = eval_job(config, samples, run, max_unreadable=config.data.max_unreadable)
    return LabelsJob(model, evaluation, protocol)


def assigner_job(config: Config, folder: RunFolder, run: Device) -> AssignerJob:
    """Stage 2 from the config, the backbone's cost and the label list."""
    model, _, state = trained_model(folder.revit, kind="revit", run=run)
    split, samples = label_samples(config)
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
        run=run,
        seed=config.seed,
        num_workers=config.data.num_workers,
        max_unreadable=config.data.max_unreadable,
        identity=identity(config, split.class_names),
    )


def test_job(config: Config, checkpoint: Path, run: Device) -> tuple[TestJob, Split]:
    """The test of a joint checkpoint on the config's test list."""
    model, trained, state = trained_model(checkpoint, kind="recognizer", run=run)
    split = build_split(config, "test")
    check_classes(split, state["class_names"], source=str(checkpoint))
    test = config.test
    decoder = DEFAULT_DECODER if config.data.decoder == "auto" else config.data.decoder
    job = TestJob(
        model=model,
        assigner=trained_assigner(trained, state, source=checkpoint, run=run),
        router=router_at(state["router"], config.router.budget),
        evaluation=eval_job(
            config, split.samples, run, clips=test.num_ensemble_views, crops=test.num_spatial_crops
        ),
        num_clips=test.num_ensemble_views,
        num_crops=test.num_spatial_crops,
        batch_size=test.batch_size,
        throughput=test.throughput,
        protocol=provenance(device=run.device, dtype=run.dtype, seed=config.seed, decoder=decoder),
    )
    return job, split


def router_at(router: dict, budget: float) -> dict:
    """The router with the bias and the threshold of another budget, one of those that training solved."""
    solved = {row["budget"]: row for row in [*router["curve"], router]}
    if budget not in solved:
        known = ", ".join(f"{number:g}" for number in sorted(solved))
        raise InputError(f"router.budget is {budget:g}, but this checkpoint was solved for {known}")
    return {**router, **{key: solved[budget][key] for key in ("budget", "bias", "threshold")}}


def file_dataset(config: Config, *samples: VideoSample) -> VideoDataset:
    """Files outside any list, with the test views of the config."""
    test = config.test
    return eval_job(
        config, samples, None, clips=test.num_ensemble_views, crops=test.num_spatial_crops
    ).dataset


def recognizer_parts(checkpoint: Path, *, device: str, dtype: str) -> dict:
    """The fields of a `Recognizer` from a joint checkpoint or a backbone's."""
    state = load_checkpoint(checkpoint)
    if state["kind"] not in ("recognizer", "revit"):
        raise InputError(
            f"{checkpoint} holds {state['kind']!r}; expected recognizer.pt or checkpoints/revit.pt of a run"
        )
    run = build_device(replace(config_from_dict(state["config"]), device=device, dtype=dtype))
    model, config, state = trained_model(checkpoint, kind=state["kind"], run=run)
    whole = state["kind"] == "recognizer"
    router = state["router"] if whole else {"costs": level_gmacs(model), "bias": 0.0, "assigner_cost": 0.0}
    assigner = trained_assigner(config, state, source=checkpoint, run=run) if whole else None
    return {
        "router": AssignerRouter(model, assigner, costs=router["costs"], bias=router["bias"]),
        "config": config,
        "class_names": tuple(state["class_names"]),
        "run": run,
        "source": str(checkpoint),
        "has_assigner": whole,
        "assigner_gmacs": router["assigner_cost"],
    }


def draw_report(config: Config, job: TestJob, split: Split, result: TestResult, folder: Path) -> None:
    """The pictures of a test: accuracy against cost, and clips that the assigner calls easy, medium and hard."""
    if not config.report.plots:
        return
    report = result.report
    plot_accuracy_vs_gmacs(
        folder / "accuracy_vs_gmacs.png",
        fixed=report["per_length"],
        curves=report["curve"],
        points={"adaptive": report["adaptive"], **report["baselines"]},
        title=f"{config.model.name} on {config.data.dataset}: {report['protocol']['num_scored']} videos",
    )
    if config.report.sheet_clips:
        groups = length_groups(job, split, result, per_group=config.report.sheet_clips)
        plot_length_sheet(folder / "lengths.png", groups=groups)


def length_groups(job: TestJob, split: Split, result: TestResult, *, per_group: int) -> dict[str, list[dict]]:
    """For each length, shortest first, clips for which the assigner chose it: frames uint8 (T, H, W, C) and a caption."""
    groups = {}
    for level in reversed(range(job.model.num_levels)):
        length = job.model.token_lengths[level]
        chosen = result.indices[result.levels[:, 0] == level].tolist()[:per_group]
        name = {job.model.num_levels - 1: "easy", 0: "hard"}.get(level, "medium")
        groups[f"{name} ({length}x{length})"] = [
            {
                "frames": job.evaluation.dataset[(0, index)].clips[0].permute(0, 2, 3, 1).numpy(),
                "caption": " \u00b7 ".join(
                    filter(None, (split.class_names[split.samples[index].label], split.samples[index].tag))
                ),
            }
            for index in chosen
        ]
    return groups
