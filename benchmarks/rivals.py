"""Do fewer tokens mean fewer seconds? Rivals against the plain model on one machine, in turns.

    python benchmarks/rivals.py
    python benchmarks/rivals.py --video --batch 1 --repeats 5
    python benchmarks/rivals.py --quick

First table: an image model with its tokens reduced (`plain / this` is the gain in time, `GMACs` the promise),
and shorter token lengths of a plain model beside them. With --video the same for video models, where divided
and trajectory attention merge whole tubes; `features` is how far the class token moves, as a share of its
length, with random weights and without any training. Second table: a cascade whose pictures leave by the
shares `--shares`, against the sum of the exits that ran, each timed alone on the pictures that reached it:
what choosing and regrouping cost. Weights are random; times are medians.
"""

import argparse
import sys
from functools import partial

import torch
from torch import Tensor, nn

from revit_video import command_line
from revit_video.backbones.costs import closed_form_macs
from revit_video.competitors.early_exit import (
    EarlyExit,
    Thresholds,
    quantile_thresholds,
    surety,
    weights_digest,
)
from revit_video.competitors.zoo import build_reducer, create_model
from revit_video.report.provenance import provenance
from revit_video.report.tables import console_table
from revit_video.report.throughput import interleave

IMAGES = {
    "EViT keep .7": {"name": "evit", "keep": 0.7},
    "EViT keep .5": {"name": "evit", "keep": 0.5},
    "ToMe r 13": {"name": "tome", "r": 13},
    "random drop keep .7": {"name": "random_drop", "keep": 0.7},
}
VIDEOS = {
    "timesformer_joint_base": {"ToMe r 98": {"name": "tome", "r": 98}, "EViT keep .7": {"name": "evit"}},
    "timesformer_base": {"ToMe r 13 tubes": {"name": "tome", "r": 13}},
    "motionformer_base": {"ToMe r 13 tubes": {"name": "tome", "r": 13}},
}
QUICK = {"dim": 48, "depth": 4, "heads": 3, "crop": 64, "token_lengths": (8, 4), "num_classes": 10}
COLUMNS = {
    "model": ("model", ""),
    "what": ("tokens", ""),
    "ms": ("ms", ".1f"),
    "ratio": ("plain / this", ".2f"),
    "gmacs": ("GMACs", ".2f"),
    "gmacs_ratio": ("plain / this, GMACs", ".2f"),
    "moved": ("features", ".1%"),
}
CASCADE_COLUMNS = {
    "model": ("model", ""),
    "exits": ("pictures per exit", ""),
    "ms": ("cascade ms", ".1f"),
    "sum_ms": ("its exits, sum ms", ".1f"),
    "ratio": ("cascade / sum", ".3f"),
    "whole_ms": ("all to the end ms", ".1f"),
}


def draw_clips(model: nn.Module, batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, model.num_frames, *model.crop, generator=generator)


def reduced_rows(name: str, reducers: dict, args: argparse.Namespace, **changes) -> list[dict]:
    """A plain model at its token lengths, and each reducer on its longest."""
    plain = create_model(name, distill_token=False, **changes).eval()
    clips = draw_clips(plain, args.batch)
    models, calls = {}, {}
    for level, length in enumerate(plain.token_lengths):
        key = f"{length}x{length}" + (", plain" if level == 0 else "")
        models[key], calls[key] = (plain, level), partial(plain, clips, level)
    for what, spec in reducers.items():
        longest = {**changes, "token_lengths": plain.token_lengths[:1]}
        with torch.device("meta"):
            models[what] = create_model(name, distill_token=False, reducer=spec, **longest), 0
        calls[what] = partial(plain, clips, reducer=build_reducer(spec))
    with torch.inference_mode():
        took = interleave(calls, items=args.batch, warmup=args.warmup, repeats=args.repeats)
        moved = {what: moved_by(plain, clips, build_reducer(spec)) for what, spec in reducers.items()}
    first = next(iter(calls))
    gmacs = {key: closed_form_macs(*model).total / 1e9 for key, model in models.items()}
    return [
        {
            "model": name,
            "what": key,
            "ms": took[key].ms_median,
            "ratio": took[first].ms_median / took[key].ms_median,
            "gmacs": gmacs[key],
            "gmacs_ratio": gmacs[first] / gmacs[key],
            "moved": moved.get(key),
        }
        for key in calls
    ]


def moved_by(model: nn.Module, clips: Tensor, reducer: object) -> float:
    """How far a reducer moves what the head reads, as a share of its length: the mean over the clips."""
    seen = []
    hook = model.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(clips), model(clips, reducer=reducer)
    hook.remove()
    return ((seen[1] - seen[0]).norm(dim=-1) / seen[0].norm(dim=-1)).mean().item()


def cascade_row(name: str, args: argparse.Namespace, **changes) -> dict:
    """A batch through a cascade, and every exit alone on what reached it."""
    model = create_model(name, **changes).eval()
    clips = draw_clips(model, args.batch)
    with torch.inference_mode():
        sure = torch.stack([surety(logits) for logits in model(clips, all_exits=True)])
        values = quantile_thresholds(sure, args.shares)
        leave = EarlyExit(model, Thresholds(tuple(values.tolist()), weights_digest(model)))
        taken = leave(clips)[1]
        calls = {"cascade": partial(leave, clips), "whole": partial(model, clips)}
        rest, passed = torch.arange(len(clips)), None
        for exit in range(int(taken.max()) + 1):
            stay = taken[rest] >= exit
            rest = rest[stay]
            passed = None if passed is None else passed.rows(stay.nonzero().squeeze(1))
            calls[exit] = partial(model.step, exit, clips[rest], passed)
            passed = calls[exit]()[1]
        took = interleave(calls, items=args.batch, warmup=args.warmup, repeats=args.repeats)
    ms = {key: timing.ms_median for key, timing in took.items()}
    total = sum(value for key, value in ms.items() if isinstance(key, int))
    return {
        "model": name,
        "exits": " ".join(map(str, taken.bincount(minlength=model.num_exits).tolist())),
        "ms": ms["cascade"],
        "sum_ms": total,
        "ratio": ms["cascade"] / total,
        "whole_ms": ms["whole"],
    }


def main() -> int:
    made = command_line.parser(__doc__)
    made.add_argument("--model", default="deit_small", metavar="NAME", help="image model (deit_small)")
    made.add_argument("--cascades", nargs="*", default=["dvt_deit_small", "dvt_t2t_vit_12"], metavar="NAME")
    made.add_argument(
        "--shares", nargs=3, type=float, default=[0.5, 0.25, 0.25], metavar="S", help="of the exits"
    )
    made.add_argument("--video", action="store_true", help="video models in place of images and cascades")
    made.add_argument("--batch", type=int, default=8, metavar="B", help="pictures or clips per call (8)")
    made.add_argument("--repeats", type=int, default=7, metavar="N", help="rounds that count (7)")
    made.add_argument("--warmup", type=int, default=2, metavar="N", help="rounds before them (2)")
    made.add_argument("--quick", action="store_true", help="small models: does it run?")

    def command(args: argparse.Namespace) -> None:
        torch.manual_seed(0)
        changes = dict(QUICK) if args.quick else {}
        if args.video:
            frames = {"num_frames": 4} if args.quick else {}
            lengths = {} if args.quick else {"token_lengths": (14, 10, 7)}
            rows = []
            for name, reducers in VIDEOS.items():
                small = {key: {**spec, "r": 8} if "r" in spec else spec for key, spec in reducers.items()}
                rows += reduced_rows(
                    name, small if args.quick else reducers, args, **lengths, **changes, **frames
                )
        else:
            rows = reduced_rows(args.model, IMAGES, args, **changes)
        console_table(rows, COLUMNS, title=f"batch {args.batch}, median of {args.repeats}")
        if not args.video:
            if args.quick:
                changes["token_lengths"] = (8, 6, 4)
            rows = [cascade_row(name, args, **changes) for name in args.cascades]
            console_table(rows, CASCADE_COLUMNS, title=f"cascades, batch {args.batch}")
        for key, value in provenance(device="cpu", dtype="float32", seed=0).items():
            print(f"{key}: {value}")

    return command_line.run(command, made)


if __name__ == "__main__":
    sys.exit(main())
