"""Write the demo data set: short generated H.264 videos in ten classes that only motion tells apart.

    python tools/make_demo_data.py OUT
    python tools/make_demo_data.py OUT --train 300 --val 100 --test 100 --seed 1 --processes 4

OUT gets videos/, Kinetics-style lists (train.csv, val.csv, test.csv), Something-Something-style lists
(*.json), the difficulty of every video (tags.csv) and the names of the classes (classes.txt). The same
settings give the same videos on any number of processes. A complete data set of these settings is left as
it is; one that a killed run left half-written is made anew; a folder that holds anything else is refused
(exit code 2).
"""

import argparse
import os
import sys
import time

from rich.progress import Progress

from revit_video import cli
from revit_video.data.demo import generate_demo


def main() -> int:
    made = cli.parser(__doc__)
    made.add_argument("out", metavar="OUT", help="folder to write to; made if it does not exist")
    made.add_argument("--train", type=int, default=3000, metavar="N", help="training videos (3000)")
    made.add_argument("--val", type=int, default=1000, metavar="N", help="validation videos (1000)")
    made.add_argument("--test", type=int, default=1200, metavar="N", help="test videos (1200)")
    made.add_argument("--seed", type=int, default=0, metavar="S", help="any number from 0 (0)")
    cores = os.cpu_count() or 1
    made.add_argument(
        "--processes", type=int, default=cores, metavar="P", help=f"workers (all cores: {cores})"
    )
    return cli.run(make, made)


def make(args: argparse.Namespace) -> None:
    start = time.perf_counter()
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
    took, number = time.perf_counter() - start, args.train + args.val + args.test
    if written:
        print(f"{args.out}: {number} videos written in {took:.1f} s ({number / took:.0f} videos/s)")
    else:
        print(f"{args.out}: this data set is complete already")


if __name__ == "__main__":
    sys.exit(main())
