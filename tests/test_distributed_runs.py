"""Whole runs on several processes, and what they leave, against the same run on one."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from processes import begin, free_port, start
from small_run import CFG, PLAIN, ROOT, SMALL, report_of, train

pytest_plugins = ["run_fixtures"]

# Stochastic depth draws in every process for itself; Muon rounds to bfloat16, and so makes much of last bits.
SAME = ["model.drop_path=0", "solver.optimizer=sgd", "solver.base_lr=0.1", *PLAIN]
LOOKS = "solver.eval_period=2"  # early evaluation, which changes no weight
PARALLEL = ["distributed.lengths=parallel"]


def arguments(out: Path, data: Path, *overrides: str) -> list[str]:
    return ["--cfg", str(CFG), f"output_dir={out}", f"data.root={data}", *SMALL, *overrides]


def run(rank: int, argv: list[str], folder: Path) -> None:
    """`tools/train_net.py` in one of several processes."""
    from revit_video import cli

    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / f"{name}{rank}", os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
    code = cli.train(argv)
    sys.stdout.flush()
    sys.exit(code)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints/revit.pt", weights_only=True)["model"]


def largest_difference(ours: Path, theirs: Path) -> float:
    """Of any weight."""
    one, other = weights(ours), weights(theirs)
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def accuracies(run: Path) -> list[float]:
    report = report_of(run)
    return [row["top1"] for row in (*report["per_length"], report["adaptive"])]


def looks(run: Path) -> list[tuple[int, list[float]]]:
    """The step and the accuracies of every early look at the validation list."""
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [
        (row["step"], [row[f"clip@1/level{level}"] for level in range(3)])
        for row in rows
        if row["stage"] == "val"
    ]


@pytest.fixture(scope="module")
def alone(tmp_path_factory, demo_data) -> Path:
    """The run in one process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    assert train(out, demo_data, *SAME, LOOKS) == 0
    return out


def killed_after_a_checkpoint(argv: list[str], out: Path, folder: Path, *, size: int) -> None:
    """Start a run, and SIGKILL all its processes when the first checkpoint is there."""
    import multiprocessing

    context = multiprocessing.get_context("forkserver")
    settings = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    workers = [
        context.Process(target=begin, args=(run, rank, settings, argv, folder)) for rank in range(size)
    ]
    for worker in workers:
        worker.start()
    while all(worker.is_alive() for worker in workers):
        if list(out.glob("checkpoints/**/step_*.pt")):
            break
        time.sleep(0.005)
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join()
    texts = [(folder / f"err{rank}").read_text() for rank in range(size)]
    assert workers[0].exitcode == -signal.SIGKILL, texts
    assert all(worker.exitcode in (-signal.SIGKILL, 2) for worker in workers), (
        texts
    )  # 2: it saw the others die


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_length_parallel_run_killed_once_ends_where_one_process_does(alone, demo_data, tmp_path, size):
    out = tmp_path / "run"
    argv = arguments(out, demo_data, *SAME, *PARALLEL, "solver.checkpoint_period=2")
    killed_after_a_checkpoint(argv, out, tmp_path, size=size)
    assert start(run, [*argv, "resume=true"], tmp_path, size=size) == [0] * size
    said = (tmp_path / "out0").read_text()
    assert "going on from step " in said and re.search(r"^ranks? 0.*: lengths 8", said, re.MULTILINE)
    assert not any((tmp_path / f"out{rank}").read_text() for rank in range(1, size)), "only rank 0 talks"
    assert largest_difference(out, alone) < 1e-4
    assert accuracies(out) == accuracies(alone)
    rows = (out / "log.jsonl").read_text()
    for level in range(3):
        assert f'"loss/level{level}"' in rows


def test_two_processes_are_resumed_bit_for_bit(demo_data, tmp_path):
    """With stochastic depth: every process goes on with its own draws."""
    results = []
    for name in ("whole", "cut"):
        out = tmp_path / name
        argv = arguments(
            out, demo_data, *PLAIN, "model.drop_path=0.5", "stage=revit", "solver.checkpoint_period=2"
        )
        argv += ["solver.ema=0.9"]
        if name == "cut":
            killed_after_a_checkpoint(argv, out, tmp_path, size=2)
            argv.append("resume=true")
        assert start(run, argv, tmp_path, size=2) == [0, 0]
        results.append(weights(out))
    assert all(torch.equal(results[0][name], tensor) for name, tensor in results[1].items())


def test_sharded_weights_give_the_same_run(alone, demo_data, tmp_path):
    plain = tmp_path / "plain"
    kind = [*SAME, "revit.grow_share=0", "solver.optimizer=adamw", "stage=revit"]
    kind += ["solver.ema=0", "solver.base_lr=0.001"]
    assert train(plain, demo_data, *kind) == 0
    out = tmp_path / "run"
    argv = arguments(out, demo_data, *kind, "distributed.strategy=fsdp", "solver.checkpoint_period=2")
    killed_after_a_checkpoint(argv, out, tmp_path, size=2)
    assert start(run, [*argv, "resume=true"], tmp_path, size=2) == [0, 0]
    assert largest_difference(out, plain) < 2e-3  # AdamW makes much of the last bits of small gradients


@pytest.mark.parametrize(
    ("override", "line"),
    [
        (
            "solver.optimizer=muon",
            "solver.optimizer needs whole weights, which distributed.strategy=fsdp cuts",
        ),
        ("solver.ema=0.9", "solver.ema needs whole weights"),
        ("distributed.lengths=parallel", "distributed.strategy is 'fsdp', but must be ddp where"),
        (
            "distributed.length_costs=[1,2]",
            "distributed.length_costs has 2 numbers, but model.token_lengths 3",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(demo_data, tmp_path, override, line):
    kind = ["revit.grow_share=0", "solver.optimizer=adamw", "solver.ema=0", "distributed.strategy=fsdp"]
    argv = arguments(tmp_path / "run", demo_data, *kind, override)
    assert start(run, argv, tmp_path, size=2) == [2, 2]
    said = "".join((tmp_path / f"err{rank}").read_text() for rank in range(2))
    assert said.count("\n") == 1 and line in said


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="two processes take a GPU each")
@pytest.mark.parametrize("kind", ["distributed.lengths=parallel", "distributed.strategy=fsdp"])
def test_two_gpus_give_what_one_gives(demo_data, tmp_path, kind):
    fixed = [*SAME, "revit.grow_share=0", "solver.ema=0", "stage=revit", "device=cuda"]
    assert train(tmp_path / "alone", demo_data, *fixed) == 0
    argv = arguments(tmp_path / "run", demo_data, *fixed, kind)
    assert start(run, argv, tmp_path, size=2) == [0, 0]
    assert largest_difference(tmp_path / "run", tmp_path / "alone") < 1e-3


def test_torchrun_runs_all_stages(alone, demo_data, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["tools/train_net.py", *arguments(out, demo_data, *SAME, LOOKS, "stage=all")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert "2 processes: all run lengths 8, 5, 3 on up to 4 of the 8 clips of a step" in done.stdout
    assert done.stdout.count("videos scored") == 1
    assert looks(out) == looks(alone) and [step for step, _ in looks(out)] == [4, 8, 12]
    assert (out / "checkpoints/best.pt").exists()
    assert accuracies(out) == accuracies(alone) and largest_difference(out, alone) < 1e-4
