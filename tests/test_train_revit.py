"""Stage 1 on real files: one seed gives one result, a run that was killed goes on as if it had not been."""

import io
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from make_video import make_video
from rich.console import Console

from revit_video.build import build_device, revit_job
from revit_video.config import load_config
from revit_video.stages.job import RunFolder
from revit_video.stages.revit import train_revit
from revit_video.train.checkpoint import load_checkpoint
from revit_video.train.log import RunLog
from revit_video.types import InputError

SETTINGS = [
    "data.num_frames=2",
    "data.sampling_rate=2",
    "data.crop=32",
    "data.train_jitter=[32,40]",
    "data.num_workers=0",
    "model.name=timesformer_tiny",
    "model.token_lengths=[4,3,2]",
    "model.options={dim: 16, depth: 2, heads: 2}",
    "model.drop_path=0.5",
    "solver.max_steps=6",
    "solver.batch_size=2",
    "solver.ema=0.9",
    "solver.checkpoint_period=2",
    "device=cpu",
    "dtype=float32",
]


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Five short videos of two classes, with their list."""
    root = tmp_path_factory.mktemp("videos")
    for i in range(5):
        make_video(root / f"{i}.mp4", 6 + i, size=(56, 40))
    (root / "train.csv").write_text("".join(f"{i}.mp4 {i % 2}\n" for i in range(5)))
    return root


def train(videos: Path, out: Path, *overrides: str, kill_at: int | None = None) -> tuple[dict, str]:
    """The final weights and the console's text; with `kill_at` the run dies inside that step (from 0)."""
    config = load_config(None, [f"data.root={videos}", f"output_dir={out}", *SETTINGS, *overrides])
    run = build_device(config)
    steps = iter(range(100))

    def to_clips(clips, **options):
        if next(steps) == kill_at:
            raise KeyboardInterrupt
        return run.to_clips(clips, **options)

    console = Console(file=io.StringIO(), width=200)
    with RunLog(None, console=console) as log:
        train_revit(revit_job(config, replace(run, to_clips=to_clips)), RunFolder(out), log)
    return load_checkpoint(RunFolder(out).revit, kind="revit")["model"], console.file.getvalue()


def equal(ours: dict, theirs: dict) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_one_seed_gives_one_result_and_another_seed_another(videos, tmp_path):
    first, again, other = (
        train(videos, tmp_path / name, f"seed={seed}")[0] for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert equal(first, again)
    assert not any(
        torch.equal(first[f"blocks.{i}.attn.qkv.weight"], other[f"blocks.{i}.attn.qkv.weight"])
        for i in (0, 1)
    )


@pytest.mark.parametrize(
    "overrides",
    [
        ["solver.optimizer=adamw"],
        ["solver.optimizer=muon", "revit.grow_share=0.34"],
        ["solver.optimizer=adamw", "dtype=bfloat16", "data.num_workers=2", "revit.grow_share=0.5"],
        ["solver.ema=0", "dtype=float16", "augment.mixup=0.8", "solver.batch_size=4"],
    ],
    ids=["adamw", "muon, growing", "bfloat16, workers", "float16, mixup"],
)
@pytest.mark.parametrize("kill_at", [2, 5])
def test_a_run_killed_after_a_checkpoint_ends_bit_for_bit_as_if_it_had_not_been(
    videos, tmp_path, kill_at, overrides
):
    """In the middle of an epoch: five videos in batches of two or four."""
    whole, _ = train(videos, tmp_path / "whole", *overrides)
    with pytest.raises(KeyboardInterrupt):
        train(videos, tmp_path / "cut", *overrides, kill_at=kill_at)
    assert not RunFolder(tmp_path / "cut").revit.exists()
    torch.manual_seed(99)
    resumed, said = train(videos, tmp_path / "cut", *overrides)
    at = kill_at // 2 * 2
    assert f"going on from step {at} of step_{at:08d}.pt\n" in said
    assert equal(resumed, whole)


def test_of_all_generators_training_draws_from_torchs_alone_so_no_other_is_saved(videos, tmp_path):
    """The recipe draws in every way there is: crops, colours, mixing, stochastic depth."""
    python, numpy, theirs = random.getstate(), np.random.get_state(), torch.get_rng_state()
    train(videos, tmp_path, "augment.preset=deit", "augment.repeats=1", "solver.max_steps=2")
    assert not torch.equal(torch.get_rng_state(), theirs)
    assert random.getstate() == python
    assert str(np.random.get_state()) == str(numpy) and (np.random.get_state()[1] == numpy[1]).all()


def test_growing_starts_the_longer_lengths_from_the_shortest_at_its_step(videos, tmp_path):
    weights, said = train(
        videos, tmp_path, "revit.grow_share=0.5", "solver.max_steps=4", "solver.base_lr=1e-12"
    )
    assert "step 2: all lengths start from the shortest one (2)" in said
    assert said.count("all lengths start") == 1
    for name in (
        "pos_tables.{}",
        "patch_embeds.{}.proj.bias",
    ):  # drawn apart, and with this rate they stay there
        longest, shortest = weights[name.format(0)], weights[name.format(2)]
        torch.testing.assert_close(longest[0], shortest[0])


def test_a_broken_video_is_named_and_left_out_and_above_the_limit_the_run_stops(videos, tmp_path):
    for i in range(5):
        (tmp_path / f"{i}.mp4").write_bytes((videos / f"{i}.mp4").read_bytes())
    (tmp_path / "3.mp4").write_bytes(b"no video")
    (tmp_path / "train.csv").write_text((videos / "train.csv").read_text())
    batch = "solver.batch_size=1"  # so that a batch without any video comes too
    weights, said = train(tmp_path, tmp_path / "a", batch, "data.max_unreadable=0.2")
    assert said.count("skipped: ") == 1 and "3.mp4" in said
    assert all(tensor.isfinite().all() for tensor in weights.values())
    with pytest.raises(
        InputError, match=r"1 of 5 videos cannot be read, more than data\.max_unreadable=0\.1 allows"
    ):
        train(tmp_path, tmp_path / "b", batch, "data.max_unreadable=0.1")


def test_progress_of_a_run_with_other_networks_is_refused(videos, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(videos, tmp_path, kill_at=3)
    with pytest.raises(InputError, match=r"step_00000002\.pt is of a run with model\.options=\{'dim': 16, "):
        train(videos, tmp_path, "model.options.dim=32")
