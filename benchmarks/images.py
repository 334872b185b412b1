"""Is our image transformer as fast as timm's, and do shorter lengths save the time they promise?

    python benchmarks/images.py --threads 2 --batches 1 16 --repeats 20

deit_small at its longest length and timm's deit_small_patch16_224 have the same weights; first their logits
are compared in float32, and a difference above 1e-4 ends the command. Then timm's model and ours at every
length take turns in one process; times are medians of forward passes without gradients. `bfloat16` is
autocast, `bfloat16_weights` a model in bfloat16. Two ratios count: timm's time over ours at the longest
length, and for a shorter one its speed-up over the longest divided by what its multiply-adds promise. The
distillation tokens are off: timm's model has none.
"""

import argparse
import copy
import sys
from functools import partial

import torch
from torch import Tensor, nn

from revit_video import command_line
from revit_video.backbones.core import ReViT
from revit_video.backbones.costs import level_gmacs
from revit_video.backbones.zoo import create_model
from revit_video.convert import convert_state_dict
from revit_video.report.provenance import provenance
from revit_video.report.tables import console_table
from revit_video.report.throughput import interleave
from revit_video.types import InputError

DTYPES = ("float32", "bfloat16", "bfloat16_weights")
TOLERANCE = 1e-4  # of logits around 1, in float32
COLUMNS = {
    "dtype": ("dtype", ""),
    "batch": ("batch", "d"),
    "length": ("length", "d"),
    "timm_ms": ("timm ms", ".1f"),
    "ours_ms": ("ours ms", ".1f"),
    "ratio": ("timm / ours", ".3f"),
    "speed_up": ("speed-up", ".2f"),
    "promise": ("GMACs promise", ".2f"),
    "kept": ("of the promise", ".2f"),
}


def build_pair(timm_name: str, name: str, **changes) -> tuple[nn.Module, ReViT]:
    """timm's model with random weights, and the one of the zoo whose longest length has the same."""
    import timm

    torch.manual_seed(0)
    theirs = timm.create_model(timm_name, **changes).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():  # no part may hide behind the zeros of a fresh model
            parameter.add_(0.02 * torch.randn_like(parameter))
    ours = create_model(name, num_classes=theirs.num_classes, distill_token=False, **sizes(theirs)).eval()
    ours.load_state_dict(convert_state_dict(theirs.state_dict(), target=ours)[0])
    return theirs, ours


def sizes(theirs: nn.Module) -> dict:
    """Sizes of timm's model as arguments of ours."""
    longest = theirs.patch_embed.grid_size[0]
    block = theirs.blocks[0]
    return {
        "dim": theirs.embed_dim,
        "depth": len(theirs.blocks),
        "heads": block.attn.num_heads,
        "crop": theirs.patch_embed.img_size,
        "token_lengths": (longest, round(longest * 10 / 14), longest // 2),
    }


def check(theirs: nn.Module, ours: ReViT, images: Tensor) -> float:
    """The largest difference of the logits.

    Raises:
        RuntimeError: it is above the tolerance, so that times would compare different things.
    """
    with torch.inference_mode():
        difference = (theirs(images) - ours(images[:, :, None])).abs().max().item()
    if not difference <= TOLERANCE:  # or not a number
        raise RuntimeError(f"logits differ by {difference:.1e}; at most {TOLERANCE} is allowed")
    return difference


def time_both(theirs: nn.Module, ours: ReViT, images: Tensor, dtype: str, *, repeats: int) -> dict:
    """Median ms: {"timm": ..., 0: ..., 1: ...}, ours by level."""
    if dtype == "bfloat16_weights":
        theirs, ours = (copy.deepcopy(model).bfloat16() for model in (theirs, ours))
        images = images.bfloat16()
    half = partial(torch.autocast, images.device.type, torch.bfloat16, enabled=dtype == "bfloat16")
    clips = images[:, :, None]

    def forward(model: nn.Module, *inputs: object) -> None:
        with torch.inference_mode(), half():
            model(*inputs)

    calls = {"timm": partial(forward, theirs, images)}
    calls |= {level: partial(forward, ours, clips, level) for level in range(ours.num_levels)}
    warmup = 3 if images.device.type == "cpu" else 10
    took = interleave(calls, items=len(images), warmup=warmup, repeats=repeats)
    return {key: timing.ms_median for key, timing in took.items()}


def rows_of(theirs: nn.Module, ours: ReViT, images: Tensor, dtype: str, *, repeats: int) -> list[dict]:
    """A row for each token length."""
    ms, costs, rows = time_both(theirs, ours, images, dtype, repeats=repeats), level_gmacs(ours), []
    for level, length in enumerate(ours.token_lengths):
        row = {"dtype": dtype, "batch": len(images), "length": length, "ours_ms": ms[level]}
        if level == 0:
            row |= {"timm_ms": ms["timm"], "ratio": ms["timm"] / ms[0]}
        else:
            speed_up, promise = ms[0] / ms[level], costs[0] / costs[level]
            row |= {"speed_up": speed_up, "promise": promise, "kept": speed_up / promise}
        rows.append(row)
    return rows


def main() -> int:
    made = command_line.parser(__doc__)
    made.add_argument("--timm", default="deit_small_patch16_224", metavar="NAME", help="timm's model")
    made.add_argument("--model", default="deit_small", metavar="NAME", help="ours, with the same weights")
    made.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=DTYPES)
    made.add_argument(
        "--batches", nargs="+", type=int, default=[1, 16], metavar="B", help="pictures per call"
    )
    made.add_argument("--repeats", type=int, default=20, metavar="N", help="rounds that count (20)")
    made.add_argument("--threads", type=int, default=0, metavar="N", help="of torch on the CPU (0: its own)")
    made.add_argument("--device", default="auto", help="auto, cpu, cuda (auto)")

    def command(args: argparse.Namespace) -> None:
        if min(args.batches) < 1 or args.repeats < 1 or args.threads < 0:
            raise InputError("--batches and --repeats must be at least 1, --threads at least 0")
        if args.threads:
            torch.set_num_threads(args.threads)
        device = args.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        theirs, ours = (model.to(device) for model in build_pair(args.timm, args.model))
        images = torch.randn(max(args.batches), 3, *ours.crop, device=device)
        print(f"logits differ by {check(theirs, ours, images[:2]):.1e} at most", file=sys.stderr)
        rows = []
        for dtype in args.dtypes:
            for batch in args.batches:
                rows += rows_of(theirs, ours, images[:batch], dtype, repeats=args.repeats)
        console_table(rows, COLUMNS, title=f"{args.timm} and {args.model}, median of {args.repeats}")
        for key, value in provenance(device=device, dtype=" ".join(args.dtypes), seed=0).items():
            print(f"{key}: {value}")
        print(f"threads: {torch.get_num_threads()}")

    return command_line.run(command, made)


if __name__ == "__main__":
    sys.exit(main())
