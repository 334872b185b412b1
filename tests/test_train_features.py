"""What stage 1 can do besides: passes of few clips, float16, recomputing, mixing, repeats, early looks."""

from __future__ import annotations

import io
import json
import math
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from make_video import make_video
from rich.console import Console
from test_train_revit import SETTINGS, equal
from torch.utils.checkpoint import checkpoint

from revit_video.build import build_device, revit_job
from revit_video.config import load_config
from revit_video.data.dataset import collate
from revit_video.stages.job import RunFolder
from revit_video.stages.revit import RevitJob, build_crew, step_clips, train_revit
from revit_video.train.checkpoint import load_checkpoint
from revit_video.train.log import RunLog
from revit_video.train.loop import loss_backward
from revit_video.train.losses import Distillation
from revit_video.train.revit import revit_step
from revit_video.train.world import World
from revit_video.types import InputError

STEADY = ["model.drop_path=0", "solver.clip_grad=0", "solver.ema=0"]  # nothing that hides a difference


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Six short videos of two classes, one of which cannot be read, and three to look at."""
    root = tmp_path_factory.mktemp("videos")
    for i in range(9):
        make_video(root / f"{i}.mp4", 6 + i, size=(56, 40))
    (root / "4.mp4").write_bytes(b"no video")
    (root / "train.csv").write_text("".join(f"{i}.mp4 {i % 2}\n" for i in range(6)))
    (root / "val.csv").write_text("".join(f"{i}.mp4 {i % 2}\n" for i in range(6, 9)))
    return root


def make_job(videos: Path, out: Path, *overrides: str) -> RevitJob:
    settings = [*SETTINGS, "data.max_unreadable=0.5", "solver.batch_size=4", "solver.max_steps=3"]
    config = load_config(None, [f"data.root={videos}", f"output_dir={out}", *settings, *overrides])
    return revit_job(config, build_device(config))


def train(videos: Path, out: Path, *overrides: str, change=lambda job: job) -> tuple[dict, str, list[dict]]:
    """The final weights, the console's text, the lines of log.jsonl."""
    console = Console(file=io.StringIO(), width=200)
    with RunLog(out, console=console) as log:
        train_revit(change(make_job(videos, out, *overrides)), RunFolder(out), log)
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return load_checkpoint(RunFolder(out).revit, kind="revit")["model"], console.file.getvalue(), rows


def distance(ours: dict, theirs: dict) -> float:
    """The largest difference of two sets of weights."""
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


@pytest.mark.parametrize("size", [1, 3, 4])
def test_the_size_of_a_pass_does_not_change_the_result_nor_what_is_logged(videos, tmp_path, size):
    steps = [*STEADY, "solver.base_lr=0.1", "solver.log_period=1"]
    whole, _, rows = train(videos, tmp_path / "whole", *steps)
    cut, _, seen = train(videos, tmp_path / "cut", *steps, f"solver.micro_batch_size={size}")
    start = make_job(videos, tmp_path, *steps).model.state_dict()
    assert distance(whole, start) > 0.01
    assert distance(whole, cut) < 2e-6
    for ours, theirs in zip(seen, rows, strict=True):
        assert {k: v for k, v in ours.items() if "/level" in k} == pytest.approx(
            {k: v for k, v in theirs.items() if "/level" in k}, rel=1e-4
        )


def test_the_effective_batch_and_its_learning_rate_stand_before_the_first_step(videos, tmp_path):
    _, said, _ = train(videos, tmp_path / "a", "solver.micro_batch_size=3")
    assert said.startswith(
        "effective batch: 4 clips, in 1 process, at most 3 to a pass; "
        "learning rate 0.005, as given for 4 clips\n"
    )
    repeats = ["solver.lr_per_clips=16", "augment.repeats=2", "solver.optimizer=muon"]
    _, said, rows = train(videos, tmp_path / "b", *repeats, "solver.schedule=constant")
    assert said.startswith(
        "effective batch: 4 clips (2 of each of 2 videos), in 1 process, each its part in one pass; "
        "learning rate of the blocks' matrices 0.005, of all else 0.00125, from 0.02 and 0.005 per 16 clips\n"
    )
    assert rows[0]["lr"] == 0.00125
    muon, adamw = make_job(videos, tmp_path, *repeats).optimizers
    assert {group["lr"] for group in muon.param_groups} == {0.005}
    assert {group["lr"] for group in adamw.param_groups} == {0.00125}


def test_the_ends_of_the_schedule_are_learning_rates_whatever_the_scaling(videos, tmp_path):
    job = make_job(
        videos,
        tmp_path,
        "solver.max_steps=0",
        "solver.max_epoch=40",
        "solver.warmup_epochs=10",
        "solver.base_lr=0.08",
        "solver.lr_per_clips=8",
        "solver.warmup_lr=0.001",
        "solver.end_lr=0.002",
    )
    peak = job.optimizers[0].param_groups[0]["lr"]
    assert (job.total_steps, peak) == (40, 0.04)  # 6 videos are one step of 4
    rates = [peak * job.lr_factor(step) for step in range(41)]
    assert rates[0] == pytest.approx(0.001) and rates[10] == pytest.approx(0.04)
    assert rates[40] == pytest.approx(0.002) and max(rates) == rates[10]


@pytest.mark.parametrize(
    ("override", "line"),
    [
        (["solver.end_lr=0.1"], r"solver\.end_lr is 0\.1, but must be from 0 to base_lr=0\.005"),
        (["solver.warmup_lr=0.001", "solver.schedule=constant"], r"solver\.warmup_lr is 0\.001, .* be 0, as"),
        (["solver.warmup_epochs=2", "solver.schedule=relative_steps"], r"solver\.warmup_epochs is 2\.0"),
        (["solver.layer_decay=0"], r"solver\.layer_decay is 0\.0, but must be above 0 and at most 1"),
        (["solver.micro_batch_size=-1"], r"solver\.micro_batch_size is -1, but must be at least 0"),
        (["augment.repeats=3"], r"solver\.batch_size=4 is no multiple of augment\.repeats=3"),
    ],
)
def test_settings_that_make_no_sense_are_refused(videos, tmp_path, override, line):
    with pytest.raises(InputError, match=line):
        make_job(videos, tmp_path, *override)


def test_gradients_in_float16_are_those_of_float32_once_unscaled(tiny, clips):
    model, scaler = tiny(dtype=torch.float32).train(), torch.amp.GradScaler("cpu", init_scale=2.0**10)
    found = []
    for half in (False, True):
        model.zero_grad()
        revit_step(
            model,
            clips(3).float(),
            torch.tensor([0, 1, 2]),
            levels=[0, 1, 2],
            distillation=Distillation(),
            autocast=partial(torch.autocast, "cpu", dtype=torch.float16, enabled=half),
            backward=loss_backward(scaler if half else None),
        )
        found.append(torch.cat([p.grad.flatten() / (2.0**10 if half else 1) for p in model.parameters()]))
    exact, half = found
    assert 0 < (half - exact).norm() < 0.01 * exact.norm()


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_passes_are_computed_in_the_dtype_that_is_asked_for(videos, tmp_path, name):
    run = make_job(videos, tmp_path, f"dtype={name}").run
    with run.autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == run.dtype == getattr(torch, name)


def test_a_run_in_float16_finds_its_scale(videos, tmp_path):
    options = ["dtype=float16", "solver.max_steps=12", "solver.log_period=1", "solver.max_skipped_steps=0"]
    weights, said, rows = train(videos, tmp_path / "a", *options)
    scales = [row["loss_scale"] for row in rows if row["stage"] == "revit"]
    assert scales == sorted(scales, reverse=True) and scales[-1] == scales[-2] >= 1, scales
    assert "the step is skipped" not in said
    start = make_job(videos, tmp_path, *options).model.state_dict()
    assert distance(weights, start) > 1e-4 and all(tensor.isfinite().all() for tensor in weights.values())


def test_a_run_in_float16_goes_on_with_its_scale(videos, tmp_path):
    options = ["dtype=float16", "solver.max_steps=4", "solver.checkpoint_period=2"]
    whole, _, _ = train(videos, tmp_path / "whole", *options)

    def cut(job: RevitJob) -> RevitJob:
        calls = iter(range(9))

        def to_clips(clips, **kind):
            if next(calls) == 3:
                raise KeyboardInterrupt
            return job.run.to_clips(clips, **kind)

        return replace(job, run=replace(job.run, to_clips=to_clips))

    with pytest.raises(KeyboardInterrupt):
        train(videos, tmp_path / "cut", *options, change=cut)
    resumed, said, _ = train(videos, tmp_path / "cut", *options)
    assert "going on from step 2" in said and equal(resumed, whole)


def test_recomputed_blocks_end_in_the_same_weights_bit_for_bit(videos, tmp_path, monkeypatch):
    plain, _, _ = train(videos, tmp_path / "a")
    calls = []

    def counted(*rest, **kind):
        calls.append(rest)
        return checkpoint(*rest, **kind)

    monkeypatch.setattr("revit_video.backbones.core.checkpoint", counted)
    train(videos, tmp_path / "b")
    assert not calls
    less, _, _ = train(videos, tmp_path / "c", "solver.activation_checkpointing=true")
    assert len(calls) == 3 * 3  # steps, lengths; of two blocks the first
    assert equal(plain, less)


@pytest.mark.parametrize("ema", [0, 0.9])
def test_an_early_look_is_labelled_by_clip_and_length_and_changes_nothing(videos, tmp_path, ema):
    """Not even if the model draws, as orthoformer's does."""

    def draw(job: RevitJob) -> RevitJob:
        score = job.validation.score
        job.validation.score = lambda *rest, **kind: (torch.rand(3), score(*rest, **kind))[1]
        return job

    options = [f"solver.ema={ema}"]
    plain, _, _ = train(videos, tmp_path / "a", *options)
    seen, said, rows = train(videos, tmp_path / "b", *options, "solver.eval_period=2", change=draw)
    assert equal(plain, seen)
    looks = [row for row in rows if row["stage"] == "val"]
    assert [row["step"] for row in looks] == [
        2,
        3,
    ]  # an epoch is one step here; the last step is looked at too
    for row in looks:
        percents = {k: v for k, v in row.items() if k not in ("stage", "step", "time")}
        assert percents.keys() >= {f"clip@1/level{level}" for level in range(3)}
        assert all(any(math.isclose(v, 100 * k / 3) for k in range(4)) for v in percents.values())
    line = r"step 2: validation clip@1, 3 videos, at length 4: ([\d.]+)%, 3: [\d.]+%, 2: ([\d.]+)%"
    found = re.search(line, said)
    assert float(found[1]) == pytest.approx(looks[0]["clip@1/level0"], abs=0.06)
    assert float(found[2]) == pytest.approx(looks[0]["clip@1/level2"], abs=0.06)


def test_an_early_look_sees_the_averaged_weights(videos, tmp_path):
    """With an average that hardly moves from a first copy, one look equals the next."""
    losses = []

    def keep(job: RevitJob) -> RevitJob:
        score = job.validation.score

        def watched(predict, *rest, **kind):
            scores = score(predict, *rest, **kind)
            losses.append(scores.values["logits"].clone())
            return scores

        job.validation.score = watched
        return job

    options = ["solver.eval_period=1", "solver.base_lr=1.0", "model.drop_path=0"]
    train(videos, tmp_path / "a", *options, "solver.ema=0", change=keep)
    moved = (losses[-1] - losses[0]).abs().max()
    losses.clear()
    train(videos, tmp_path / "b", *options, "solver.ema=0.999999", change=keep)
    assert (losses[-1] - losses[0]).abs().max() < 0.9 * moved


def test_mixed_clips_are_trained_on_with_mixed_targets(videos, tmp_path):
    job = make_job(videos, tmp_path, "augment.mixup=0.8", "augment.repeats=2")
    keys = [(0, i) for i in (0, 1)]
    batch = collate([job.dataset[key] for key in keys])
    clips, labels, targets = step_clips(job, 3, batch)
    assert clips.shape[0] == len(labels) == len(targets) == 4 and labels.tolist() == [0, 0, 1, 1]
    weight = targets[0, 0].item()
    assert 0 < weight < 1
    torch.testing.assert_close(targets[2], torch.tensor([1 - weight, weight]))
    plain = job.run.to_clips(batch.clips.flatten(0, 1))
    torch.testing.assert_close(clips[0], weight * plain[0] + (1 - weight) * plain[2])
    assert not torch.equal(step_clips(job, 4, batch)[2], targets)  # another step, another draw


def test_the_targets_of_mixed_clips_are_what_is_learnt(videos, tmp_path):
    def swap(job: RevitJob) -> RevitJob:
        def mix(clips, labels, *, step, rows):
            return clips, torch.nn.functional.one_hot(1 - labels, 2).float()

        return replace(job, mix=mix)

    plain, _, rows = train(videos, tmp_path / "a", *STEADY)
    swapped, _, seen = train(videos, tmp_path / "b", *STEADY, change=swap)
    assert distance(plain, swapped) > 1e-5
    assert rows[0]["clip@1/level0"] == seen[0]["clip@1/level0"]  # counted by the labels


def test_the_labels_of_a_step_are_those_of_its_clips_not_of_its_videos(videos, tmp_path):
    (tmp_path / "classes.txt").write_text("left\nright\n")
    flip = [f"data.class_names={tmp_path / 'classes.txt'}", "data.flip_labels=[[left,right]]"]
    job = make_job(videos, tmp_path, "augment.repeats=4", *flip)
    batch = next(
        b
        for b in (collate([job.dataset[(e, 0)]]) for e in range(20))
        if len(set(b.clip_labels[0].tolist())) == 2
    )
    _, labels, _ = step_clips(job, 0, batch)
    assert torch.equal(labels, batch.clip_labels[0])


def test_a_step_that_is_not_finite_names_its_files_and_the_rest_goes_on(videos, tmp_path):
    def spoil(job: RevitJob) -> RevitJob:
        calls = iter(range(9))

        def to_clips(clips, **kind):
            return job.run.to_clips(clips, **kind) * (math.nan if next(calls) == 1 else 1.0)

        return replace(job, run=replace(job.run, to_clips=to_clips))

    weights, said, rows = train(videos, tmp_path, "solver.batch_size=2", "solver.log_period=1", change=spoil)
    line = next(line for line in said.splitlines() if "step 1: the loss is nan" in line)
    assert len(re.findall(r"\d\.mp4", line)) in (1, 2) and "(1 so far)" in line
    assert all(tensor.isfinite().all() for tensor in weights.values())
    assert [row["skipped_steps"] for row in rows] == [0, 1, 1]
    with pytest.raises(InputError, match=r"more than solver\.max_skipped_steps=0"):
        train(videos, tmp_path / "b", "solver.batch_size=2", "solver.max_skipped_steps=0", change=spoil)


def test_passes_of_a_model_with_batch_normalisation_are_said_to_count(videos, tmp_path):
    tiny = ["model.name=lvvit_tiny", "model.options={dim: 24, depth: 1, heads: 2}", "data.num_frames=1"]
    crop = ["data.crop=64", "data.train_jitter=[64,64]", "model.token_lengths=[4,3]", "solver.max_steps=1"]
    _, said, _ = train(videos, tmp_path, *tiny, *crop, "solver.micro_batch_size=2")
    assert "its statistics are those of a pass" in said


@pytest.mark.parametrize(
    ("overrides", "sizes"),
    [
        ([], set()),
        (["solver.compile=true"], {4}),
        (["solver.compile=true", "solver.micro_batch_size=3"], {3, 1}),
        (
            ["solver.compile=true", "solver.batch_size=6", "augment.repeats=2", "solver.micro_batch_size=4"],
            {4, 2},
        ),
    ],
)
def test_lengths_are_compiled_for_the_passes_of_a_whole_batch(videos, tmp_path, overrides, sizes):
    job = make_job(videos, tmp_path, *overrides)
    forward = build_crew(job, job.model, World()).exchange.run
    assert forward.sizes == sizes and len(forward.compiled) == (3 if sizes else 0)


@pytest.mark.slow
def test_compiled_stage_1_ends_in_the_same_weights(videos, tmp_path):
    plain, _, _ = train(videos, tmp_path / "a", *STEADY)
    fast, _, _ = train(videos, tmp_path / "b", *STEADY, "solver.compile=true")
    assert distance(plain, fast) < 1e-5


def test_growing_copies_the_moments_too(videos, tmp_path):
    """Stopped right after growing: every row of a norm knows what the shortest length's has learnt."""
    seen = []

    def stop(job: RevitJob) -> RevitJob:
        seen.append(job)
        calls = iter(range(9))

        def to_clips(clips, **kind):
            if next(calls) == job.grow_at:
                raise KeyboardInterrupt
            return job.run.to_clips(clips, **kind)

        return replace(job, run=replace(job.run, to_clips=to_clips))

    with pytest.raises(KeyboardInterrupt):
        train(videos, tmp_path, "solver.optimizer=adamw", "revit.grow_share=0.67", change=stop)
    (job,) = seen
    scale = job.model.norm.scale
    for name in ("exp_avg", "exp_avg_sq"):
        moment = job.optimizers[0].state[scale][name]
        assert job.grow_at == 2 and moment[2].ne(0).any()
        assert torch.equal(moment, moment[2].expand(3, -1))
