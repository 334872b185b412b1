"""A run that is killed goes on and ends with the same weights, wherever the kill came."""

import random
import re
import signal
import time
from pathlib import Path

import pytest
import torch
from killing import start
from make_video import make_video

from revit_video.stages.job import RunFolder
from revit_video.train.checkpoint import load_checkpoint
from revit_video.train.progress import ProgressFolder

STEPS, PERIOD = 24, 3
SETTINGS = """
stage: revit
resume: auto
device: cpu
dtype: float32
num_threads: 1
data: {dataset: kinetics, num_frames: 2, sampling_rate: 2, crop: 32, train_jitter: [32, 40], num_workers: 0}
model:
  {name: timesformer_tiny, token_lengths: [4, 3, 2], options: {dim: 16, depth: 2, heads: 2}, drop_path: 0.5}
"""
SOLVER = f"{{optimizer: muon, max_steps: {STEPS}, batch_size: 2, ema: 0.9, checkpoint_period: {PERIOD}}}"


@pytest.fixture(scope="module")
def arguments(tmp_path_factory) -> list[str]:
    """Of a small run that grows in its middle: five short videos, so that no checkpoint ends an epoch."""
    root = tmp_path_factory.mktemp("videos")
    for i in range(5):
        make_video(root / f"{i}.mp4", 6 + i, size=(56, 40))
    for split in ("train", "val", "test"):
        (root / f"{split}.csv").write_text("".join(f"{i}.mp4 {i % 2}\n" for i in range(5)))
    (root / "run.yaml").write_text(f"{SETTINGS}solver: {SOLVER}\nrevit: {{grow_share: 0.5}}\n")
    return ["--cfg", str(root / "run.yaml"), f"data.root={root}"]


@pytest.fixture(scope="module")
def unbroken(arguments, tmp_path_factory) -> dict[str, torch.Tensor]:
    """The weights of a run that nothing stopped."""
    out = tmp_path_factory.mktemp("unbroken")
    run = start([*arguments, f"output_dir={out}"], log=out / "said")
    assert run.code() == 0, run.said()
    return weights(out)


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(RunFolder(out).revit, kind="revit")["model"]


def equal(ours: dict, theirs: dict) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def kill_often(command: list[str], out: Path, unbroken: dict, *, kills: int, seed: int) -> None:
    """Run one command again and again, kill it every time: at a random moment of its first seconds or, every
    second time, while a checkpoint is half written. What is there must be whole, and never go back.
    """
    draw, folder, done, inside, reached = (
        random.Random(seed),
        ProgressFolder(RunFolder(out).progress),
        0,
        0,
        0,
    )
    while done < kills:
        run = start(command, log=out.parent / "said", write_s=0.2)
        if done % 2 == 0:
            torn = run.kill_writing(folder.path, after_s=draw.uniform(0, 0.1))
            killed, inside = torn or run.was_killed(), inside + torn
        else:
            time.sleep(draw.uniform(0.1, 1.5))
            killed = run.kill()
        assert killed or run.code() == 0, run.said()
        done += killed
        steps = [load_checkpoint(path, kind="progress")["step"] for path in folder.files().values()]
        assert steps == list(folder.files())
        if RunFolder(out).revit.exists():  # it was through: once more
            assert equal(weights(out), unbroken)
            RunFolder(out).revit.unlink()
        else:
            assert max(steps, default=0) >= reached, "a checkpoint that was there is gone"
        reached = max(steps, default=0)
    assert inside > kills // 3


def check_kills(arguments: list[str], unbroken: dict, tmp_path: Path, *, kills: int, seed: int) -> None:
    out = tmp_path / "out"
    command = [*arguments, f"output_dir={out}"]
    kill_often(command, out, unbroken, kills=kills, seed=seed)
    newest = max(ProgressFolder(RunFolder(out).progress).files(), default=0)
    last = start(command, log=tmp_path / "said")
    assert last.code() == 0, last.said()
    assert (f"going on from step {newest} of step_{newest:08d}.pt\n" in last.said()) == (newest > 0)
    assert equal(weights(out), unbroken)
    assert [path.name for path in RunFolder(out).progress.iterdir()] == ["revit.pt"]


def test_a_run_that_is_killed_three_times_ends_with_the_same_weights(arguments, unbroken, tmp_path):
    check_kills(arguments, unbroken, tmp_path, kills=3, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_a_run_that_is_killed_twelve_times_ends_with_the_same_weights(arguments, unbroken, tmp_path, seed):
    check_kills(arguments, unbroken, tmp_path, kills=12, seed=seed)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_run_that_is_asked_to_end_saves_its_step_and_ends_with_75(arguments, unbroken, tmp_path, name):
    """The signal goes to the data workers too, and comes twice, as launchers send it."""
    out = tmp_path / "out"
    command = [*arguments, f"output_dir={out}", "data.num_workers=2"]
    run = start(command, log=tmp_path / "said", write_s=0.2)
    assert run.wait_for(RunFolder(out).progress, "step_*.pt"), run.said()
    for _ in range(2):
        run.send(signal.Signals[name], groups=True)
    assert run.code() == 75, run.said()
    (step,) = set(map(int, re.findall(r"stopped by \w+ after step (\d+), ", run.said())))
    path = ProgressFolder(RunFolder(out).progress).file(step)
    assert run.said().splitlines()[-1] == (
        f"stopped by {name} after step {step}, saved in {path}; the same command with resume=auto goes on"
    )
    assert load_checkpoint(path)["step"] == step < STEPS
    last = start(command, log=tmp_path / "said")
    assert last.code() == 0, last.said()
    assert f"going on from step {step} of {path.name}\n" in last.said()
    assert equal(weights(out), unbroken)


def test_a_later_signal_ends_the_run_at_once(arguments, tmp_path):
    out = tmp_path / "out"
    run = start([*arguments, f"output_dir={out}"], log=tmp_path / "said", write_s=60.0, same_s=0.0)
    assert run.wait_for(RunFolder(out).progress, "step_*.partial"), run.said()
    run.send(signal.SIGUSR1)
    time.sleep(0.2)
    assert run.is_alive()
    run.send(signal.SIGTERM)
    assert run.code() == -signal.SIGTERM
    assert not ProgressFolder(RunFolder(out).progress).files()


def test_a_signal_in_the_last_step_leaves_the_finished_stage(arguments, unbroken, tmp_path):
    out = tmp_path / "out"
    command = [*arguments, f"output_dir={out}", "stage=all", "solver.checkpoint_period=100"]
    run = start(command, log=tmp_path / "said", write_s=1.0)
    assert run.wait_for(RunFolder(out).progress, "revit.pt.partial"), run.said()
    run.send(signal.SIGTERM)
    assert run.code() == 75
    assert "stopped by SIGTERM after the last step of stage 1, saved in " in run.said()
    assert equal(weights(out), unbroken) and not RunFolder(out).labels.exists()


def test_of_two_processes_one_is_asked_to_end_and_both_save_and_go_on_to_the_same_weights(
    arguments, tmp_path
):
    log, outs = tmp_path / "said", {name: f"output_dir={tmp_path / name}" for name in ("whole", "cut")}
    whole = start([*arguments, outs["whole"]], log=log, size=2)
    assert whole.code() == 0, whole.said()
    run = start([*arguments, outs["cut"]], log=log, size=2, write_s=0.2)
    assert run.wait_for(RunFolder(tmp_path / "cut").progress, "step_*.pt"), run.said()
    run.send(signal.SIGTERM, to=1)
    assert [run.code(rank) for rank in (0, 1)] == [75, 75], run.said()
    (step,) = set(map(int, re.findall(r"stopped by SIGTERM after step (\d+), ", run.said())))
    last = start([*arguments, outs["cut"]], log=log, size=2)
    assert last.code() == 0, last.said()
    assert f"going on from step {step} of step_{step:08d}.pt\n" in last.said()
    assert equal(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
