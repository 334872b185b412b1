"""How much faster, and leaner, is the rewrite of trajectory attention than its equations as they read?

    python benchmarks/trajectory.py

One block of Motionformer-B (12 heads of 64, 8 frames of 14x14 patches, batch 1) against a plain transcription
of the official equations with the same weights, in turns in one process: time of the plain one over ours, and
the most memory that the tensors of a training step, gradients included, take at one time, MB.
"""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from revit_video import command_line
from revit_video.layers.block import Trunk
from revit_video.layers.trajectory import TrajectoryBlock
from revit_video.report.provenance import provenance
from revit_video.report.tables import console_table
from revit_video.report.throughput import interleave
from revit_video.types import TokenGrid

sys.path.insert(0, str(Path(__file__).parent))
from plain import add_dead_weights, trajectory_block

COLUMNS = {"mode": ("mode", ""), "dtype": ("dtype", "")}
COLUMNS |= {"forward": ("forward", ".2f"), "training": ("training", ".2f")}
COLUMNS |= {"ms": ("ours forward, ms", ".0f"), "training_ms": ("training, ms", ".0f")}
COLUMNS |= {"plain_mb": ("plain peak, MB", ".0f"), "ours_mb": ("ours peak, MB", ".0f")}
DTYPES = ("float32", "bfloat16", "autocast")  # autocast: float32 weights, bfloat16 products


def forward(block: Callable, x: torch.Tensor, cast: Callable) -> None:
    with torch.no_grad(), cast():
        block(x)


def training(block: Callable, x: torch.Tensor, wanted: list[torch.Tensor], cast: Callable) -> None:
    with cast():
        out = block(x)
    torch.autograd.grad(out, [x, *wanted], torch.ones_like(out), allow_unused=True)


def peak_mb(step: Callable[[], None], *, device: str) -> float:
    """The most that tensors made by `step` held at one time."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step()
    held = peak = 0
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak / 1e6


def compare(mode: str, dtype: str, *, frames: int, side: int, repeats: int, device: str) -> dict:
    torch.manual_seed(0)
    grid = TokenGrid(frames, side, side)
    kind = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    cast = partial(torch.autocast, device, torch.bfloat16) if dtype == "autocast" else nullcontext
    ours = TrajectoryBlock(Trunk(768, 12, 1), drop_path_rate=0.0, prefix_only=False, mode=mode)
    ours = ours.to(device, kind)
    weights = list(ours.parameters())
    state = {f"blocks.0.{name}": one for name, one in ours.named_parameters()}
    add_dead_weights(state)
    state = {name: one.detach().requires_grad_() for name, one in state.items()}
    shape = {"level": 0, "heads": 12, "frames": frames}
    blocks = {
        "plain": (lambda x: trajectory_block(x, state, "blocks.0", **shape), list(state.values())),
        "ours": (lambda x: ours(x, grid, prefix=1), weights),
    }
    x = torch.randn(1, 1 + frames * side**2, 768, device=device, dtype=kind, requires_grad=True)
    ways = {
        "forward": {name: partial(forward, block, x, cast) for name, (block, _) in blocks.items()},
        "training": {name: partial(training, block, x, own, cast) for name, (block, own) in blocks.items()},
    }
    row = {"mode": mode, "dtype": dtype}
    for way, timed in ways.items():
        took = interleave(timed, items=1, warmup=2, repeats=repeats)
        row[way] = took["plain"].ms_median / took["ours"].ms_median
        row["ms" if way == "forward" else "training_ms"] = took["ours"].ms_median
    for name, step in ways["training"].items():
        row[f"{name}_mb"] = peak_mb(step, device=device)
    return row


def main() -> int:
    made = command_line.parser(__doc__)
    made.add_argument("--repeats", type=int, default=10, metavar="N", help="rounds that count (10)")
    made.add_argument("--frames", type=int, default=8, metavar="N", help="frames of tokens (8)")
    made.add_argument("--side", type=int, default=14, metavar="N", help="patches per side (14)")
    made.add_argument("--modes", nargs="+", default=["original"], metavar="MODE", help="original, fixed")

    def command(args) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        shape = {"frames": args.frames, "side": args.side, "repeats": args.repeats, "device": device}
        rows = [compare(mode, dtype, **shape) for mode in args.modes for dtype in DTYPES]
        console_table(rows, COLUMNS, title="one block: time of the plain equations / time of ours")
        for key, value in provenance(device=device, dtype="all", seed=0).items():
            print(f"{key}: {value}")

    return command_line.run(command, made)


if __name__ == "__main__":
    sys.exit(main())
