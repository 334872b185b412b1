"""Do the saved multiply-adds become saved seconds? Adaptive against the longest length, in one process, in
turns.

    python benchmarks/adaptive.py                                       TimeSformer-B and Motionformer-B
    python benchmarks/adaptive.py --models timesformer_base --clips 64 --repeats 5
    python benchmarks/adaptive.py --quick                               a very small model, for a test
    python benchmarks/adaptive.py --checkpoint output/demo/recognizer.pt data.root=output/demo_data

Without a checkpoint: random weights at real size, and a real assigner of which only the answer is forced,
to shares of the lengths that give the mean cost the paper reports (arXiv:2307.02092: TimeSformer-B a third
saved, Motionformer-B 183 of 370 GMACs); a fifth of the clips take the middle length. Three ways to run them:

    bucketed     a queue for each length over the whole set, full batches
    arrival      batches in the order of arrival, each regrouped by length
    single       one clip at a time

each over the longest length in batches of the same size. `of the promise` is the speed-up divided by what
the GMACs promise, the assigner's among them. With a checkpoint: its own clips and choices, in float32 and
bfloat16.
"""

import argparse
import sys
from pathlib import Path

import torch

from revit_video import command_line
from revit_video.report.provenance import provenance
from revit_video.report.tables import console_table

PAPER = {"timesformer_base": 0.67, "motionformer_base": 183 / 370}  # mean cost over the longest length's
COLUMNS = {
    "model": ("model", ""),
    "dtype": ("dtype", ""),
    "what": ("what", ""),
    "clips_per_s": ("clips / s", ".3g"),
    "longest_per_s": ("longest, clips / s", ".3g"),
    "speed_up": ("speed-up", ".2f"),
    "gmacs_ratio": ("GMACs promise", ".2f"),
    "follows": ("of the promise", ".2f"),
}
WAYS = {"bucketed": ("bucketed", 16), "arrival": ("arrival", 16), "single": ("arrival", 1)}
QUICK_COST = 0.98  # the assigner is as dear as a model of that size
QUICK = {"dim": 32, "depth": 2, "heads": 2, "crop": 32, "num_frames": 4, "token_lengths": (4, 3, 2)}


def random_rows(name: str, args: argparse.Namespace) -> list[dict]:
    """One model with random weights, in the three ways."""
    from revit_video.build.throughput import random_speed_job
    from revit_video.stages.throughput import ADAPTIVE, measure

    options = {"token_lengths": (14, 10, 7)}
    if args.quick:
        options = QUICK | {"assigner": {"width": 0.1, "depth": 0.3, "image_size": 32}}
    job = random_speed_job(
        name,
        cost=QUICK_COST if args.quick else PAPER[name],
        clips=args.clips,
        batch_size=16,
        repeats=args.repeats,
        device="cpu",
        dtype="float32",
        levels=[0],
        **options,
    )
    seen = {(row["what"], row["batch_size"]): row for row in measure(job)["rows"]}
    longest = {size: row["clips_per_s"] for (what, size), row in seen.items() if row["speed_up"] == 1}
    rows = []
    for way, (what, size) in WAYS.items():
        row = seen[ADAPTIVE[what], size]
        said = {"model": name, "dtype": "float32", "what": f"{way}, batch {size}"}
        rows.append({**row, **said, "longest_per_s": longest[size]})
    return rows


def checkpoint_rows(args: argparse.Namespace) -> list[dict]:
    """A trained recognizer on clips of its own test list."""
    from revit_video import build
    from revit_video.stages.test import timing

    rows = []
    for dtype in ("float32", "bfloat16"):
        config = build.checkpoint_config(Path(args.checkpoint), [*args.overrides, f"dtype={dtype}"])
        job = build.test_job(config, Path(args.checkpoint), build.build_device(config))
        seen = timing(job, repeats=args.repeats)
        for name, rate in seen["clips_per_s"].items():
            row = {"model": config.model.name, "dtype": dtype, "what": str(name), "clips_per_s": rate}
            if name == "adaptive":
                row |= {key: seen[key] for key in ("speed_up", "gmacs_ratio", "follows")}
            rows.append(row)
    return rows


def main() -> int:
    made = command_line.parser(__doc__)
    made.add_argument("--checkpoint", metavar="FILE", help="recognizer.pt of a run; none: random weights")
    made.add_argument("--models", nargs="+", choices=list(PAPER), default=list(PAPER), help="(both)")
    made.add_argument("--clips", type=int, default=48, metavar="N", help="of random weights (48)")
    made.add_argument("--repeats", type=int, default=5, metavar="N", help="rounds that count (5)")
    made.add_argument("--quick", action="store_true", help="very small models, to see that it runs")
    made.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings that replace the checkpoint's"
    )

    @torch.inference_mode()
    def command(args: argparse.Namespace) -> None:
        if args.checkpoint:
            rows = checkpoint_rows(args)
        else:
            rows = [row for name in args.models for row in random_rows(name, args)]
        console_table(rows, COLUMNS, title="Adaptive against the longest length")
        for key, value in provenance(device=torch.device("cpu"), dtype="see table", seed=0).items():
            print(f"{key}: {value}")

    return command_line.run(command, made)


if __name__ == "__main__":
    sys.exit(main())
