"""Find the files of a data set that cannot be read, before a training does.

    python tools/check_videos.py /data/k400/train.csv --root /data/k400/videos
    python tools/check_videos.py /data/ssv2 --dataset ssv2 --split val --root /data/ssv2/videos
    python tools/check_videos.py files.txt --full --processes 16 --seconds 60

LIST is a list in any form that training reads, a folder of class folders, or a text with a path per line.
Every file is opened, counted and decoded at its first, middle and last frame (--full: at every frame), in
processes of their own; one that takes longer than --seconds is killed and counts as broken.

Writes LIST.report.csv (path, status, frames, fps, width, height, seconds, error, how) and LIST.clean, the
list without the broken files. The report grows while the check runs: stop it with Ctrl-C and start the same
command again to go on. Nothing is written over. Exit code: 0 all can be read, 1 some cannot, 2 bad input.
"""

import argparse
import os
import sys
from collections import Counter
from pathlib import Path

from revit_video import command_line
from revit_video.data.check import Report, check_files
from revit_video.data.check_list import FORMS, compare_with_released, file_list
from revit_video.train.log import RunLog
from revit_video.types import InputError

SHOWN = 20  # broken files on the console


def main() -> int:
    made = command_line.parser(__doc__)
    made.add_argument("list", metavar="LIST", type=Path)
    made.add_argument(
        "--dataset", choices=FORMS, default="auto", help="form of the list (auto: by its looks)"
    )
    made.add_argument("--root", type=Path, metavar="DIR", help="folder that the paths start from")
    made.add_argument("--split", default="", help="of class folders and of Something-Something")
    made.add_argument("--separator", default="auto", help="of a Kinetics list")
    made.add_argument("--report", type=Path, metavar="FILE", help="default: LIST.report.csv")
    made.add_argument("--clean", type=Path, metavar="FILE", help="default: LIST.clean with LIST's ending")
    made.add_argument("--full", action="store_true", help="decode every frame")
    made.add_argument("--seconds", type=float, default=30.0, metavar="S", help="time limit of a file (30)")
    made.add_argument("--decoder", default="auto", help="reader of the videos")
    cores = os.cpu_count() or 1
    made.add_argument("--processes", type=int, default=cores, metavar="P", help=f"all cores: {cores}")
    return command_line.run(check, made)


def check(args: argparse.Namespace) -> int:
    listed = file_list(
        args.list, form=args.dataset, root=args.root, split=args.split, separator=args.separator
    )
    name = "-".join(part for part in (str(args.list), args.split) if part)
    report_file = args.report or Path(f"{name}.report.csv")
    clean_file = args.clean or Path(f"{name}.clean{listed.ending}")
    with RunLog(None) as log, Report(report_file, how="full" if args.full else "quick") as report:
        todo = [path for path in listed.paths if path not in report.rows]
        log.say(f"{args.list}: {len(listed.paths)} files ({listed.form}), {len(todo)} to check")
        options = {"processes": args.processes, "seconds": args.seconds}
        options |= {"decoder": args.decoder, "full": args.full}
        with log.progress(
            "check", len(listed.paths), start=len(listed.paths) - len(todo), unit="file"
        ) as line:
            for row in check_files(todo, **options):
                report.add(row)
                line.advance(note=f"{sum(r.status != 'ok' for r in report.rows.values())} broken")
        rows = [report.rows[path] for path in listed.paths]
        broken = [row for row in rows if row.status != "ok"]
        for row in broken[:SHOWN]:
            log.say(f"{row.status}: {row.path}: {row.error}")
        counts = ", ".join(f"{count} {status}" for status, count in Counter(r.status for r in rows).items())
        log.say(f"{counts}; report: {report_file}")
        compared = compare_with_released(listed, len(broken))
        if compared:
            log.say(compared)
        if broken:
            write_new(clean_file, listed.without({row.path for row in broken}))
            log.say(f"the list without the broken files: {clean_file}")
    return 1 if broken else 0


def write_new(path: Path, text: str) -> None:
    """Write a file that is not there yet, or is the same already."""
    if path.exists() and path.read_text() != text:
        raise InputError(f"{path} is there already and holds something else; give another --clean")
    path.write_text(text)


if __name__ == "__main__":
    sys.exit(main())
