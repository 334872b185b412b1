"""Do exact rewrites and chosen kernels pay? Our backbones against the papers' equations written out plainly.

    python benchmarks/backbones.py
    python benchmarks/backbones.py --models motionformer_base --dtypes bfloat16 --training --device cuda

Both sides (benchmarks/plain.py and the model zoo) share their weights, which are drawn at random; first their
logits are compared in float32 at every token length, and a difference above 1e-4 ends the command. Then all
take turns in one process; times are medians. `bfloat16` is autocast, `bfloat16_weights` a model in bfloat16.
The table has a row for each token length; the plain side runs at the longest. A training step is forward,
cross-entropy, backward and AdamW; its peak memory is taken in a process of its own and counts what comes on
top of the weights.
"""

import argparse
import ast
import copy
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from plain import FAMILIES, Plain
from torch import Tensor, nn

from revit_video import command_line
from revit_video.backbones.core import ReViT
from revit_video.backbones.zoo import create_model
from revit_video.report.macs import count_macs_torch
from revit_video.report.provenance import provenance
from revit_video.report.tables import console_table
from revit_video.report.throughput import interleave
from revit_video.types import InputError

DTYPES = ("float32", "bfloat16", "bfloat16_weights")
TOLERANCE = 1e-4  # of logits around 1, in float32
COLUMNS = {
    "model": ("model", ""),
    "dtype": ("dtype", ""),
    "what": ("what", ""),
    "length": ("length", "d"),
    "plain_ms": ("plain ms", ".1f"),
    "ours_ms": ("ours ms", ".1f"),
    "ratio": ("plain / ours", ".2f"),
    "plain_gmacs": ("plain GMACs", ".1f"),
    "ours_gmacs": ("ours GMACs", ".1f"),
    "plain_peak": ("plain peak MB", ".0f"),
    "ours_peak": ("ours peak MB", ".0f"),
}


def build_pair(name: str, device: str | torch.device = "cpu", **changes) -> dict[str, nn.Module]:
    """The model `name` of the zoo and the plain equations with its weights: {"plain": ..., "ours": ...}."""
    family = name.partition("_")[0]
    if family not in FAMILIES:
        raise InputError(f"no plain equations for {name!r}; there are some for: {', '.join(FAMILIES)}")
    ours = create_model(name, distill_token=False, **{"class_token_only": True, **changes})
    randomize(ours)
    heads = ours.blocks[0].attn.heads
    plain = Plain(ours.state_dict(), family=family, heads=heads)
    return {side: model.to(device).eval() for side, model in (("plain", plain), ("ours", ours))}


@torch.no_grad()
def randomize(model: nn.Module, *, seed: int = 0) -> None:
    """Weights that keep the size of what passes through them, all else around 0 (norm scales around 1), so
    that no part hides behind the zeros of a fresh model."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("weight"):
            parameter.copy_(noise * parameter[0].numel() ** -0.5)
        else:
            parameter.copy_(0.3 * noise + name.endswith("scale"))


def draw_clips(model: ReViT, batch: int, device: str | torch.device = "cpu") -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, model.num_frames, *model.crop, generator=generator).to(device)


def check(pair: dict[str, nn.Module], clips: Tensor) -> float:
    """The largest difference of the logits over all levels, in the weights' own precision.

    Raises:
        RuntimeError: it is above the tolerance, so that times would compare different things.
    """
    with torch.inference_mode():
        differences = [
            (pair["ours"](clips, level) - pair["plain"](clips, level)).abs().max().item()
            for level in range(pair["ours"].num_levels)
        ]
    if not max(differences) <= TOLERANCE:  # or not a number
        listed = ", ".join(f"{difference:.1e}" for difference in differences)
        raise RuntimeError(f"logits differ by {listed} at the levels; at most {TOLERANCE} is allowed")
    return max(differences)


def variants(pair: dict[str, nn.Module], dtype: str, *, compiled: bool) -> dict[str, nn.Module]:
    """Copies of both sides as they are timed."""
    weights = torch.bfloat16 if dtype == "bfloat16_weights" else torch.float32
    copies = {side: copy.deepcopy(model).to(weights) for side, model in pair.items()}
    if compiled:
        for model in copies.values():
            model.compile()
    return copies


def autocast(dtype: str, clips: Tensor) -> torch.autocast:
    return torch.autocast(clips.device.type, dtype=torch.bfloat16, enabled=dtype == "bfloat16")


def time_forward(pair: dict[str, nn.Module], clips: Tensor, dtype: str, *, repeats: int) -> dict:
    """Median ms of the plain side and of ours at each level: {"plain": ..., 0: ..., 1: ...}."""
    if dtype == "bfloat16_weights":
        clips = clips.bfloat16()

    def forward(model: nn.Module, level: int) -> None:
        with torch.inference_mode(), autocast(dtype, clips):
            model(clips, level)

    return timed({key: partial(forward, *side) for key, side in sides(pair).items()}, clips, repeats)


def training_step(model: nn.Module, clips: Tensor, dtype: str) -> Callable[[int], None]:
    """A function that makes a step at a level: forward, loss, backward, update. The weights drift with it."""
    labels = torch.zeros(len(clips), dtype=torch.long, device=clips.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)

    def step(level: int) -> None:
        optimizer.zero_grad()
        with autocast(dtype, clips):
            loss = F.cross_entropy(model(clips, level).float(), labels)
        loss.backward()
        optimizer.step()

    return step


def time_training(pair: dict[str, nn.Module], clips: Tensor, dtype: str, *, repeats: int) -> dict:
    """As `time_forward`, for a training step."""
    steps = {model: training_step(model.train(), clips, dtype) for model in pair.values()}
    calls = {key: partial(steps[model], level) for key, (model, level) in sides(pair).items()}
    return timed(calls, clips, repeats)


def sides(pair: dict[str, nn.Module]) -> dict:
    """What takes turns: the plain side at the longest length, ours at every level."""
    ours = {level: (pair["ours"], level) for level in range(pair["ours"].num_levels)}
    return {"plain": (pair["plain"], 0)} | ours


def timed(calls: dict, clips: Tensor, repeats: int) -> dict:
    warmup = 2 if clips.device.type == "cpu" else 5
    took = interleave(calls, items=len(clips), warmup=warmup, repeats=repeats)
    return {key: timing.ms_median for key, timing in took.items()}


def gmacs(pair: dict[str, nn.Module], clips: Tensor) -> dict:
    """GMACs per clip, with the keys of `time_forward`."""
    called = sides(pair).items()
    return {key: count_macs_torch(model, clips[:1], level=level) / 1e9 for key, (model, level) in called}


def peak_memory(side: str, name: str, args: argparse.Namespace, device: str) -> float | None:
    """MB that a training step takes on top of the weights, highest value of two steps; None where unknown."""
    dtype = args.dtypes[0]
    pair = build_pair(name, device, **parse_changes(args.change))
    clips = draw_clips(pair["ours"], args.batch, device)
    model = variants({side: pair[side]}, dtype, compiled=args.compile)[side].train()
    del pair
    step = training_step(model, clips, dtype)
    if clips.device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step(0), step(0)
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    if not Path("/proc/self/status").exists():
        return None
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = status_mb("VmRSS")
    step(0), step(0)
    return status_mb("VmHWM") - before


def status_mb(key: str) -> float:
    """A line of Linux's account of this process. (ru_maxrss will not do: a child inherits its parent's.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(f"{key}:"))


def peaks(name: str, dtype: str, args: argparse.Namespace, device: str) -> dict[str, float | None]:
    """`peak_memory` of both sides, each in a process that has done nothing else."""
    seen = {}
    for side in ("plain", "ours"):
        command = [sys.executable, __file__, "--models", name, "--dtypes", dtype, "--batch", str(args.batch)]
        command += ["--device", device, "--peak-of", side, "--change", *args.change]
        command += ["--compile"] if args.compile else []
        shown = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        seen[side] = ast.literal_eval(shown)
    return seen


def rows_of(name: str, args: argparse.Namespace, device: str) -> list[dict]:
    """All rows of one model, in the order of the table."""
    pair = build_pair(name, device, **parse_changes(args.change))
    clips, lengths = draw_clips(pair["ours"], args.batch, device), pair["ours"].token_lengths
    print(f"{name}: logits differ by {check(pair, clips):.1e} at most", file=sys.stderr)
    macs = gmacs(pair, clips)
    rows = []
    for dtype in args.dtypes:
        copies = variants(pair, dtype, compiled=args.compile)
        took = {"forward": time_forward(copies, clips, dtype, repeats=args.repeats)}
        if args.training and dtype != "bfloat16_weights":
            took["training step"] = time_training(copies, clips, dtype, repeats=args.repeats)
        for what, ms in took.items():
            for level, length in enumerate(lengths):
                row = {"model": name, "dtype": dtype, "what": what, "length": length, "ours_ms": ms[level]}
                rows.append(row | {"ours_gmacs": macs[level]})
                if level == 0:
                    rows[-1] |= {"plain_ms": ms["plain"], "ratio": ms["plain"] / ms[0]}
                    rows[-1] |= {"plain_gmacs": macs["plain"]}
                if level == 0 and what == "training step":
                    seen = peaks(name, dtype, args, device)
                    rows[-1] |= {"plain_peak": seen["plain"], "ours_peak": seen["ours"]}
    return rows


def parse_changes(pairs: list[str]) -> dict:
    """["dim=48", "token_lengths=(4,2)"] as arguments of the model."""
    changes = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        try:
            changes[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            raise InputError(
                f"--change got {pair!r}; expected key=value, such as depth=2 or token_lengths=(4,2)"
            ) from None
    return changes


def main() -> int:
    made = command_line.parser(__doc__)
    models = ["motionformer_base", "timesformer_base"]
    made.add_argument("--models", nargs="+", default=models, metavar="NAME", help=" ".join(models))
    made.add_argument("--dtypes", nargs="+", default=list(DTYPES[:2]), choices=DTYPES)
    made.add_argument("--training", action="store_true", help="training steps too, with their peak memory")
    made.add_argument("--batch", type=int, default=1, metavar="B", help="clips per call (1)")
    made.add_argument("--repeats", type=int, default=5, metavar="N", help="rounds that count (5)")
    made.add_argument("--device", default="auto", help="auto, cpu, cuda (auto)")
    made.add_argument("--compile", action="store_true", help="torch.compile for both sides")
    hint = "arguments of the models, such as depth=2 dim=96"
    made.add_argument("--change", nargs="*", default=[], metavar="key=value", help=hint)
    made.add_argument("--peak-of", choices=("plain", "ours"), help=argparse.SUPPRESS)

    def command(args: argparse.Namespace) -> None:
        device = args.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if args.peak_of:
            print(peak_memory(args.peak_of, args.models[0], args, device))
            return
        rows = [row for name in args.models for row in rows_of(name, args, device)]
        columns = {key: column for key, column in COLUMNS.items() if any(key in row for row in rows)}
        title = f"batch {args.batch}, median of {args.repeats}" + (", compiled" if args.compile else "")
        console_table(rows, columns, title=title)
        for key, value in provenance(device=device, dtype=" ".join(args.dtypes), seed=0).items():
            print(f"{key}: {value}")

    return command_line.run(command, made)


if __name__ == "__main__":
    sys.exit(main())
