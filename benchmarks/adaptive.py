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
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from revit_video import cli
from revit_video.report.provenance import provenance
from revit_video.report.tables import console_table

PAPER = {"timesformer_base": 0.67, "motionformer_base": 183 / 370}  # mean cost over the longest length's
MIDDLE = 0.2  # share of the clips at the middle length
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
QUICK = {"dim": 32, "depth": 2, "heads": 2, "crop": 32, "num_frames": 4, "token_lengths": (4, 3, 2)}


class Forced(nn.Module):
    """An assigner that works as always, and then says what is written into a clip's first pixel."""

    def __init__(self, assigner: nn.Module) -> None:
        super().__init__()
        self.assigner = assigner

    def forward(self, clips: Tensor) -> Tensor:
        logits = self.assigner(clips)
        wanted = clips[:, 0, 0, 0, 0].round().long()
        return 0 * logits + 100.0 * nn.functional.one_hot(wanted, logits.shape[-1])


def shares_for(target: float, costs: list[float], look: float) -> list[float]:
    """Shares of three levels with this mean cost (of the longest's), look included, a fifth in the middle."""
    spare = target * costs[0] - look - MIDDLE * costs[1] - (1 - MIDDLE) * costs[2]
    longest = min(max(spare / (costs[0] - costs[2]), 0.0), 1 - MIDDLE)
    return [longest, MIDDLE, 1 - MIDDLE - longest]


def marked_clips(count: int, levels: Tensor, model: nn.Module) -> Tensor:
    """Seeded noise, the level of each clip in its first pixel: (M, C, T, H, W)."""
    generator = torch.Generator().manual_seed(1)
    clips = torch.randn(count, 3, model.num_frames, *model.crop, generator=generator)
    clips[:, 0, 0, 0, 0] = levels.float()
    return clips


def dealt(shares: list[float], count: int) -> Tensor:
    """Levels (M,) at these shares, in a random order."""
    ends = (torch.tensor(shares).cumsum(0) * count).round()
    levels = torch.bucketize(torch.arange(count).float(), ends, right=True).clamp(max=len(shares) - 1)
    return levels[torch.randperm(count, generator=torch.Generator().manual_seed(0))]


def random_rows(name: str, args: argparse.Namespace) -> list[dict]:
    """One model with random weights, in the three ways."""
    from revit_video.backbones.costs import level_gmacs
    from revit_video.competitors.zoo import create_model
    from revit_video.report.macs import count_macs
    from revit_video.report.throughput import interleave
    from revit_video.routing.assigner import Assigner
    from revit_video.routing.buckets import run_bucketed
    from revit_video.routing.router import Router, run_at_levels
    from revit_video.routing.rule import assigner_rule

    torch.manual_seed(0)
    model = create_model(name, num_classes=10, **(QUICK if args.quick else {"token_lengths": (14, 10, 7)}))
    model, costs = model.eval(), level_gmacs(model)
    assigner = Assigner(3, **({"width": 0.1, "depth": 0.3, "image_size": 32} if args.quick else {})).eval()
    look = count_macs(assigner, torch.zeros(1, 3, 1, *model.crop)) / 1e9
    assigner = assigner.fold_norms()
    levels = dealt(shares_for(PAPER[name], costs, look), args.clips)
    clips = marked_clips(args.clips, levels, model)
    router = Router(model, Forced(assigner), costs=costs, rule=assigner_rule(0.0, 3), look=look)
    longest = torch.zeros(args.clips, dtype=torch.long)

    def in_parts(run: Callable[[Tensor], object], size: int) -> Callable[[], object]:
        return lambda: [run(part) for part in clips.split(size)]

    rows = []
    ways = {
        "bucketed": (16, lambda: list(run_bucketed(router, clips[:, None], batch_size=16))),
        "arrival": (16, in_parts(router, 16)),
        "single": (1, in_parts(router, 1)),
    }
    promised = costs[0] / router(clips, batch_size=16).gmacs.mean().item()
    for way, (size, run) in ways.items():
        fixed = in_parts(lambda part: run_at_levels(model, part, longest[: len(part)]), size)
        calls = {"longest": fixed, "adaptive": run}
        seen = interleave(calls, items=args.clips, warmup=1, repeats=args.repeats)
        speed_up = seen["adaptive"].items_per_s / seen["longest"].items_per_s
        rates = {"clips_per_s": seen["adaptive"].items_per_s, "longest_per_s": seen["longest"].items_per_s}
        ratios = {"speed_up": speed_up, "gmacs_ratio": promised, "follows": speed_up / promised}
        rows.append({"model": name, "dtype": "float32", "what": f"{way}, batch {size}", **rates, **ratios})
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
    made = cli.parser(__doc__)
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

    return cli.run(command, made)


if __name__ == "__main__":
    sys.exit(main())
