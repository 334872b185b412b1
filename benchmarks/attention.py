"""Which attention kernel on this device: fused, or two matrix products and a softmax?

    python benchmarks/attention.py

Prints the time of the two products over that of the fused kernel for the shapes of TimeSformer-B (time and
space attention, 12 heads of 64) and of the demo's model (3 heads of 32, batch 16). Above 1: fused wins.
"""

import sys
from functools import partial

import torch
import torch.nn.functional as F

from revit_video import command_line
from revit_video.report.provenance import provenance
from revit_video.report.tables import console_table
from revit_video.report.throughput import interleave

SHAPES = {  # sequences, heads, tokens, channels of a head
    "base, time": (196, 12, 8, 64),
    "base, space": (8, 12, 197, 64),
    "demo, time": (16 * 196, 3, 5, 32),
    "demo, space at 14": (16 * 5, 3, 197, 32),
    "demo, space at 7": (16 * 5, 3, 50, 32),
}


def products(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1) @ v


def run(attention, qkv: list[torch.Tensor], *, backward: bool) -> None:
    with torch.set_grad_enabled(backward):
        out = attention(*qkv)
        if backward:
            torch.autograd.grad(out.sum(), qkv)


def main() -> int:
    made = command_line.parser(__doc__)
    made.add_argument("--repeats", type=int, default=10, metavar="N", help="rounds that count (10)")

    def command(args) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        rows = []
        for name, shape in SHAPES.items():
            row = {"shape": name}
            for dtype in (torch.float32, torch.bfloat16):
                qkv = [torch.randn(shape, device=device, dtype=dtype, requires_grad=True) for _ in range(3)]
                for way, backward in (("forward", False), ("training", True)):
                    kernels = {"products": products, "fused": F.scaled_dot_product_attention}
                    timed = {
                        kind: partial(run, kernel, qkv, backward=backward) for kind, kernel in kernels.items()
                    }
                    took = interleave(timed, items=1, warmup=2, repeats=args.repeats)
                    key = f"{str(dtype).removeprefix('torch.')} {way}"
                    row[key] = took["products"].ms_median / took["fused"].ms_median
            rows.append(row)
        columns = {"shape": ("shape", "")} | {key: (key, ".2f") for key in rows[0] if key != "shape"}
        console_table(rows, columns, title="time of two products / time of the fused kernel")
        for key, value in provenance(device=device, dtype="both", seed=None).items():
            print(f"{key}: {value}")

    return command_line.run(command, made)


if __name__ == "__main__":
    sys.exit(main())
