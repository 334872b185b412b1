"""Write the demo data set: short generated H.264 videos in ten classes of motion, or pictures.

    python tools/make_demo_data.py OUT
    python tools/make_demo_data.py OUT --train 300 --val 100 --test 100 --seed 1 --processes 4
    python tools/make_demo_data.py OUT --train 1 --val 1 --shift textures
    python tools/make_demo_data.py OUT --images

OUT gets videos/, Kinetics-style lists (train.csv, val.csv, test.csv), Something-Something-style lists
(*.json), the difficulty of every video (tags.csv) and the names of the classes (classes.txt). The same
settings give the same videos on any number of processes. A complete data set of these settings is left as
it is; one that a killed run left half-written is made anew; a folder that holds anything else is refused
(exit code 2). --shift draws the same clips with other textures (finer, and dark on bright), sizes (0.7 of
them) or speeds (1.5 times): tools/study.py shift tests a trained recognizer there. --images writes JPEG
pictures in nine classes of shape and texture instead: class folders for data.dataset=image_folders, tags.csv.
"""

import argparse
import os
import sys
import time

from rich.progress import Progress

from revit_video import command_line
from revit_video.data.demo import generate_demo
from revit_video.data.demo_images import generate_images
from revit_video.data.demo_render import SHIFTS
from revit_video.types import InputError

VIDEOS = {"train": 3000, "val": 1000, "test": 1200}
IMAGES = {"train": 4500, "val": 1350, "test": 1800}


def main() -> int:
    made = command_line.parser(__doc__)
    made.add_argument("out", metavar="OUT", help="folder to write to; made if it does not exist")
    made.add_argument("--images", action="store_true", help="pictures in place of videos")
    for split, number in VIDEOS.items():
        hint = f"files of that list ({number} videos, {IMAGES[split]} pictures)"
        made.add_argument(f"--{split}", type=int, metavar="N", help=hint)
    made.add_argument("--seed", type=int, default=0, metavar="S", help="any number from 0 (0)")
    looks = [name for name in SHIFTS if name]
    made.add_argument("--shift", choices=looks, default="", help="the same clips in another look")
    cores = os.cpu_count() or 1
    made.add_argument(
        "--processes", type=int, default=cores, metavar="P", help=f"workers (all cores: {cores})"
    )
    return command_line.run(make, made)


def make(args: argparse.Namespace) -> None:
    if args.images and args.shift:
        raise InputError(f"--shift {args.shift} changes videos; leave it out with --images")
    what, usual, generate = (
        ("pictures", IMAGES, generate_images) if args.images else ("videos", VIDEOS, generate_demo)
    )
    asked = {split: getattr(args, split) for split in usual}
    counts = {split: usual[split] if number is None else number for split, number in asked.items()}
    look = {} if args.images else {"shift": args.shift}
    start = time.perf_counter()
    with Progress(disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(what, total=None)
        written = generate(
            args.out,
            **{f"num_{split}": number for split, number in counts.items()},
            seed=args.seed,
            **look,
            processes=args.processes,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    took, number = time.perf_counter() - start, sum(counts.values())
    if written:
        print(f"{args.out}: {number} {what} written in {took:.1f} s ({number / took:.0f} {what}/s)")
    else:
        print(f"{args.out}: this data set is complete already")


if __name__ == "__main__":
    sys.exit(main())
