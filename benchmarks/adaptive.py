"""Do the saved multiply-adds become saved seconds? Adaptive against the longest length, in one process, in
turns.

    python benchmarks/adaptive.py --checkpoint output/demo/recognizer.pt data.root=output/demo_data

For float32 and bfloat16: clips/s of each length and of the adaptive way (assigner, regrouping, backbone,
order restored) on the same clips, and the speed-up over the longest length divided by what the GMACs of these
clips promise.
"""

import sys
from pathlib import Path

from revit_video import cli
from revit_video.report.provenance import provenance
from revit_video.report.tables import console_table

COLUMNS = {
    "dtype": ("dtype", ""),
    "what": ("what", ""),
    "clips_per_s": ("clips / s", ".1f"),
    "speed_up": ("speed-up", ".2f"),
    "gmacs_ratio": ("GMACs promise", ".2f"),
    "follows": ("of the promise", ".2f"),
}


def main() -> int:
    made = cli.parser(__doc__)
    made.add_argument("--checkpoint", metavar="FILE", required=True, help="recognizer.pt of a run")
    made.add_argument("--repeats", type=int, default=7, metavar="N", help="rounds that count (7)")
    made.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings that replace the checkpoint's"
    )

    def command(args) -> None:
        from revit_video import build
        from revit_video.stages.test import timing

        rows = []
        for dtype in ("float32", "bfloat16"):
            config = build.checkpoint_config(Path(args.checkpoint), [*args.overrides, f"dtype={dtype}"])
            run = build.build_device(config)
            job = build.test_job(config, Path(args.checkpoint), run)
            seen = timing(job, repeats=args.repeats)
            for name, rate in seen["clips_per_s"].items():
                rows.append({"dtype": dtype, "what": str(name), "clips_per_s": rate})
            rows[-1] |= {
                key: seen[key] for key in ("speed_up", "gmacs_ratio", "follows")
            }  # adaptive, the last
        console_table(rows, COLUMNS, title=f"{seen['num_clips']} clips, batches of {seen['batch_size']}")
        for key, value in provenance(device=run.device, dtype="both", seed=None).items():
            print(f"{key}: {value}")

    return cli.run(command, made)


if __name__ == "__main__":
    sys.exit(main())
