"""Write the demo data set: short generated H.264 videos in ten classes that only motion tells apart.

    python tools/make_demo_data.py OUT
    python tools/make_demo_data.py OUT --train 300 --val 100 --test 100 --seed 1 --processes 4

OUT gets videos/, Kinetics-style lists (train.csv, val.csv, test.csv), Something-Something-style lists
(*.json), the difficulty of every video (tags.csv) and the names of the classes (classes.txt). The same
settings give the same videos on any number of processes. A complete data set of these settings is left as
it is; one that a killed run left half-written is made anew; a folder that holds anything else is refused
(exit code 2).
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from rich.progress import Progress

from revit_video.data.demo import generate_demo
from revit_video.types import InputError


def main() -> int:
    args = parse_args()
    start = time.perf_counter()
    try:
        with Progress(disable=not sys.stderr.isatty()) as bar:
            task = bar.add_task("videos", total=None)
            written = generate_demo(
                args.out,
                num_train=args.train,
                num_val=args.val,
                num_test=args.test,
                seed=args.seed,
                processes=args.processes,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    took, number = time.perf_counter() - start, args.train + args.val + args.test
    if written:
        print(f"{args.out}: {number} videos written in {took:.1f} s ({number / took:.0f} videos/s)")
    else:
        print(f"{args.out}: this data set is complete already")
    return 0


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", metavar="OUT", help="folder to write to; made if it does not exist")
    parser.add_argument("--train", type=int, default=3000, metavar="N", help="training videos (3000)")
    parser.add_argument("--val", type=int, default=1000, metavar="N", help="validation videos (1000)")
    parser.add_argument("--test", type=int, default=800, metavar="N", help="test videos (800)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="any number from 0 (0)")
    cores = os.cpu_count() or 1
    parser.add_argument(
        "--processes", type=int, default=cores, metavar="P", help=f"workers (all cores: {cores})"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
