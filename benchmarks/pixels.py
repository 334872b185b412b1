"""What clips cost before the first layer, where every length has pixels of its own (`patch_embed=resize`).

    python benchmarks/pixels.py                      8 frames of 224 px, lengths 14, 10 and 7

Two ways from decoded pixels to normalised frames of a length's size: whole frames to the device, normalised,
resized there (as in training), and eight-bit pixels resized on the host first (as wherever a clip runs at
its own length alone). Prints the time of the first over the second, and the share of the bytes it moves.
"""

import sys

import torch
from torch import Tensor

from revit_video import command_line
from revit_video.report.provenance import provenance
from revit_video.report.tables import console_table
from revit_video.report.throughput import interleave

CROP, FRAMES, LENGTHS = 224, 8, (14, 10, 7)
COLUMNS = {
    "length": ("length", ""),
    "dtype": ("dtype", ""),
    "ratio": ("whole / own pixels", ".2f"),
    "ms": ("own pixels, ms a clip", ".2f"),
    "bytes": ("share of the bytes", ".2f"),
}


def main() -> int:
    made = command_line.parser(__doc__)
    made.add_argument("--clips", type=int, default=8, metavar="N", help="in a batch (8)")
    made.add_argument("--repeats", type=int, default=15, metavar="N", help="rounds that count (15)")
    made.add_argument("--device", default="auto", help="(a GPU where there is one)")

    @torch.inference_mode()
    def command(args) -> None:
        from revit_video.build.device import build_device
        from revit_video.config import Config
        from revit_video.layers.patch_embed import ResizePatchEmbed
        from revit_video.routing.from_pixels import resized
        from revit_video.types import TokenGrid

        run = build_device(Config(device=args.device))
        pixels = torch.randint(0, 256, (args.clips, FRAMES, 3, CROP, CROP), dtype=torch.uint8)
        rows = []
        for length in LENGTHS:
            embed = ResizePatchEmbed(1, TokenGrid(FRAMES, length, length), patch=(16, 16))
            for dtype in (torch.float32, torch.bfloat16):

                def whole(embed=embed, dtype=dtype) -> Tensor:
                    return embed.resize(run.to_clips(pixels, dtype=dtype))

                def own(embed=embed, dtype=dtype) -> Tensor:
                    return run.to_clips(resized(pixels, embed.size), dtype=dtype)

                took = interleave(
                    {"whole": whole, "own": own}, items=args.clips, warmup=2, repeats=args.repeats
                )
                rows.append(
                    {
                        "length": length,
                        "dtype": str(dtype).removeprefix("torch."),
                        "ratio": took["whole"].ms_median / took["own"].ms_median,
                        "ms": took["own"].ms_median / args.clips,
                        "bytes": resized(pixels, embed.size).nbytes / pixels.nbytes,
                    }
                )
        console_table(rows, COLUMNS, title="from decoded pixels to normalised frames of a length")
        for key, value in provenance(device=run.device, dtype="both", seed=None).items():
            print(f"{key}: {value}")

    return command_line.run(command, made)


if __name__ == "__main__":
    sys.exit(main())
