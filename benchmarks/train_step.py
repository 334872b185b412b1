"""What a ReViT training step costs over one of the longest length alone: time, multiply-adds, memory.

    python benchmarks/train_step.py
    python benchmarks/train_step.py --models motionformer_base --depth 4 --batch 2 --dtype bfloat16
    python benchmarks/train_step.py --device cuda --dtype bfloat16 --compile --batch 8
    python benchmarks/train_step.py --quick                  a very small model, to see that it runs

One process. A step is what stage 1 does with a batch of clips: forward, losses and backward of each length,
clipping, AdamW. `all` runs every token length, `longest` the first alone, of the same model; they take turns,
and times are medians. `of promise` is the ratio of their times over the ratio of their GMACs: 1.00 says that
the step costs what its lengths cost, less that the parts that do not grow with them (the optimizer) weigh in.
Peak memory counts what two steps take on top of the empty model's process, weights and all, in a process of
its own for each. With a GPU, MFU is 6 operations per multiply-add over the time and over what the device
could do at best (report/device_peak.py).
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import torch
from torch import nn

from revit_video import command_line
from revit_video.backbones.core import ReViT
from revit_video.backbones.costs import level_gmacs
from revit_video.backbones.zoo import create_model
from revit_video.report.device_peak import peak_flops
from revit_video.report.provenance import provenance
from revit_video.report.tables import console_table
from revit_video.report.throughput import interleave
from revit_video.train.forward import TrainForward
from revit_video.train.loop import loss_backward
from revit_video.train.losses import Distillation
from revit_video.train.optim import build_optimizers
from revit_video.train.revit import revit_step

CLASSES = 400
SMALL = {"dim": 32, "depth": 2, "heads": 2, "crop": 64, "token_lengths": (8, 5, 3)}
COLUMNS = {
    "model": ("model", ""),
    "step": ("step", ""),
    "gmacs": ("GMACs / clip", ".1f"),
    "ms": ("ms", ".0f"),
    "clips_per_s": ("clips / s", ".2f"),
    "mfu": ("MFU", ".0%"),
    "times": ("times longest", ".2f"),
    "promise": ("GMACs promise", ".2f"),
    "of_promise": ("of promise", ".2f"),
    "peak_mb": ("peak MB", ".0f"),
    "more_memory": ("over longest", "+.1%"),
}


def make_model(name: str, args: argparse.Namespace) -> ReViT:
    """The backbone with random weights, as stage 1 trains it."""
    changes = {**SMALL} if args.quick else ({"depth": args.depth} if args.depth else {})
    torch.manual_seed(0)
    return create_model(name, num_classes=CLASSES, drop_path=0.1, **changes).to(args.device).train()


def step_of(model: ReViT, args: argparse.Namespace) -> Callable[[Sequence[int]], None]:
    """step(levels): a whole optimizer step on one batch of noise."""
    height, width = model.crop
    clips = torch.randn(args.batch, 3, model.num_frames, height, width, device=args.device)
    labels = torch.arange(args.batch, device=args.device) % CLASSES
    forward = TrainForward(model, recompute=args.recompute)
    if args.compile:
        forward.compile_for({args.batch})
    (optimizer,) = build_optimizers(model, "adamw", lr=1e-5, weight_decay=0.05)

    def step(levels: Sequence[int]) -> None:
        optimizer.zero_grad(set_to_none=True)
        revit_step(
            forward,
            clips,
            labels,
            levels=levels,
            distillation=Distillation(),
            autocast=autocast(args),
            backward=loss_backward(),
        )
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def autocast(args: argparse.Namespace) -> Callable[[], AbstractContextManager]:
    if args.dtype == "float32":
        return nullcontext
    return partial(torch.autocast, args.device, dtype=torch.bfloat16)


def level_sets(model: ReViT) -> dict[str, list[int]]:
    return {"longest": [0], "all": list(range(model.num_levels))}


def peak_mb(name: str, which: str, args: argparse.Namespace) -> float | None:
    """Of two steps, on top of the process without a model; None where the system does not tell."""
    before = 0.0 if args.device == "cuda" else status_mb("VmRSS")
    model = make_model(name, args)
    step, levels = step_of(model, args), level_sets(model)[which]
    for _ in range(2):  # the second one has the optimizer's moments
        step(levels)
    if args.device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return None if before is None else status_mb("VmHWM") - before


def status_mb(key: str) -> float | None:
    """A line of Linux's account of this process. (ru_maxrss will not do: a child inherits its parent's.)"""
    path = Path("/proc/self/status")
    if not path.exists():
        return None
    lines = path.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(f"{key}:"))


def peak_apart(name: str, which: str) -> float | None:
    """`peak_mb` in a process that has done nothing else, by the arguments of this one."""
    command = [sys.executable, __file__, *sys.argv[1:], "--peak-of", name, which]
    shown = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return ast.literal_eval(shown.splitlines()[-1])


def rows_of(name: str, args: argparse.Namespace) -> list[dict]:
    """The table's rows of one model: the longest length, all lengths."""
    model = make_model(name, args)
    step, gmacs = step_of(model, args), level_gmacs(model)
    steps = {which: partial(step, levels) for which, levels in level_sets(model).items()}
    took = interleave(steps, items=args.batch, warmup=args.warmup, repeats=args.repeats)
    device = torch.device(args.device)
    peak = peak_flops(device, getattr(torch, args.dtype)) if device.type == "cuda" else None
    rows = []
    for which, levels in level_sets(model).items():
        timing, cost = took[which], sum(gmacs[level] for level in levels)
        rows.append({"model": name, "step": which, "gmacs": cost, "ms": timing.ms_median})
        rows[-1] |= {"clips_per_s": timing.items_per_s, "peak_mb": peak_apart(name, which)}
        if peak is not None:
            rows[-1] |= {"mfu": 6e9 * cost * timing.items_per_s / peak}
    longest, every = rows
    every["times"], every["promise"] = every["ms"] / longest["ms"], every["gmacs"] / longest["gmacs"]
    every["of_promise"] = every["times"] / every["promise"]
    if longest["peak_mb"]:
        every["more_memory"] = every["peak_mb"] / longest["peak_mb"] - 1
    return rows


def main() -> int:
    made = command_line.parser(__doc__)
    made.add_argument("--models", nargs="+", default=["timesformer_base"], metavar="NAME")
    made.add_argument(
        "--depth", type=int, default=0, metavar="N", help="blocks, to save memory (the model's)"
    )
    made.add_argument("--batch", type=int, default=1, metavar="B", help="clips of a step (1)")
    made.add_argument(
        "--dtype", default="float32", choices=("float32", "bfloat16"), help="bfloat16: autocast"
    )
    made.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    made.add_argument("--compile", action="store_true", help="torch.compile, for each length apart")
    made.add_argument("--recompute", action="store_true", help="activation checkpointing")
    made.add_argument("--warmup", type=int, default=1, metavar="N", help="rounds that do not count (1)")
    made.add_argument("--repeats", type=int, default=5, metavar="N", help="rounds that count (5)")
    made.add_argument(
        "--quick", action="store_true", help="a very small model, 2 rounds, to see that it runs"
    )
    made.add_argument("--peak-of", nargs=2, help=argparse.SUPPRESS)

    def command(args: argparse.Namespace) -> None:
        if args.device == "auto":
            args.device = "cuda" if torch.cuda.is_available() else "cpu"
        if args.quick:
            args.repeats = 2
        if args.peak_of:
            print(peak_mb(*args.peak_of, args))
            return
        rows = [row for name in args.models for row in rows_of(name, args)]
        columns = {key: column for key, column in COLUMNS.items() if any(row.get(key) for row in rows)}
        how = [f"batch {args.batch}", f"median of {args.repeats}", args.dtype]
        how += ["compiled"] * args.compile + ["blocks recomputed"] * args.recompute
        how += [f"{args.depth} blocks"] * bool(args.depth)
        console_table(rows, columns, title=", ".join(how))
        for key, value in provenance(device=args.device, dtype=args.dtype, seed=0).items():
            print(f"{key}: {value}")

    return command_line.run(command, made)


if __name__ == "__main__":
    sys.exit(main())
