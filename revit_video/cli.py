"""The commands: `revit-video COMMAND ...` and the scripts in tools/. Bad input: one line, exit code 2."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from revit_video.stream.options import add_options, fill, wants_windows
from revit_video.types import InputError, Stopped

Arguments = Sequence[str] | None
TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, the same command goes on
RESUME = "; the same command with resume=auto goes on from the last checkpoint"


class Parser(argparse.ArgumentParser):
    """Ends mistakes on the command line as every other mistake: one line, exit code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; {self.prog} --help explains\n")


def parser(manual: str | None) -> Parser:
    """An argument parser whose help is the tool's docstring."""
    made = Parser(description=manual, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return made


def run(
    command: Callable[[argparse.Namespace], int | None],
    made: Parser,
    argv: Arguments = None,
    *,
    then: str = "",
) -> int:
    """Exit code of a command: 0 worked, 2 bad input (one line on stderr), 75 stopped by a signal with what
    was done saved, 130 interrupted.

    Options may stand anywhere between files and settings. What the system refuses (no right to write, no
    space left) is bad input too; every other error is a bug and shows itself. `then`: what to do after an
    interruption.
    """
    args = made.parse_intermixed_args(argv)
    try:
        return command(args) or 0
    except (InputError, OSError) as error:
        if args.debug:
            raise
        if tells(error):
            print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except Stopped as stop:
        if tells(stop):
            print(stop, file=sys.stderr)
        return TRY_AGAIN
    except KeyboardInterrupt:
        print(f"interrupted{then}", file=sys.stderr)
        return 130


def tells(error: Exception) -> bool:
    """Of the processes that torchrun starts, all find the same mistake in their command, or are stopped
    together: the first of each machine tells it. Once they have met, the one that `start_world` chose.
    """
    return hasattr(error, "told_by") or os.environ.get("LOCAL_RANK", "0") == "0"


def one_line(error: Exception) -> str:
    """The message of an error. From a worker process torch brings the whole traceback: its last line has
    ours.
    """
    text = str(error).strip()
    if text.startswith("Caught "):
        text = text.splitlines()[-1].partition(": ")[2]
    return " ".join(text.splitlines())


def config_parser(manual: str | None) -> Parser:
    made = parser(manual)
    made.add_argument("--cfg", metavar="FILE", required=True, help="YAML file of the run")
    made.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace the file's")
    return made


def train(argv: Arguments = None, manual: str | None = None) -> int:
    """Run the stages of a config, one after the other."""
    made = config_parser(manual)
    made.add_argument("--dry-run", action="store_true", help="say what the run would do, and do nothing")
    made.add_argument("--processes", type=int, metavar="N", help="with --dry-run: plan for N processes")

    def command(args: argparse.Namespace) -> int:
        from revit_video.config import load_config

        config = load_config(args.cfg, args.overrides)
        if args.dry_run:
            from revit_video.dry_run import dry_run

            return 2 if dry_run(config, processes=args.processes) else 0
        if args.processes is not None:
            raise InputError("--processes plans a --dry-run; for a run say torchrun --nproc_per_node=N")
        from revit_video.pipeline import run_stages

        run_stages(config)
        return 0

    return run(command, made, argv, then=RESUME)


def test(argv: Arguments = None, manual: str | None = None) -> int:
    """Test a trained recognizer, with the views of its own config or others."""
    made = parser(manual)
    made.add_argument("--checkpoint", metavar="FILE", required=True, help="recognizer.pt of a run")
    made.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings instead of the checkpoint's"
    )

    def command(args: argparse.Namespace) -> None:
        from revit_video.pipeline import test_checkpoint

        test_checkpoint(Path(args.checkpoint), args.overrides)

    return run(command, made, argv)


def predict(argv: Arguments = None, manual: str | None = None) -> int:
    """Classes of files, folders, long videos, live streams. What cannot be read is named; exit code 2."""
    made = parser(manual)
    made.add_argument("files", nargs="+", metavar="INPUT", help="file, folder, camera, pipe or address")
    made.add_argument("--checkpoint", metavar="FILE", required=True, help="recognizer.pt of a run")
    made.add_argument("--length", default="adaptive", help="a token length, or adaptive (default)")
    made.add_argument("--top", type=int, default=5, metavar="N", help="how many classes to show")
    made.add_argument("--json", action="store_true", help="one JSON object per file (or window) and line")
    made.add_argument("--device", default="auto")
    made.add_argument("--dtype", default="auto")

    add_options(made)

    def command(args: argparse.Namespace) -> int:
        from revit_video.recognizer import Recognizer
        from revit_video.stream.command import predict_windows
        from revit_video.stream.files import predict_files
        from revit_video.stream.inputs import find_inputs

        if args.top < 1:
            raise InputError(f"--top is {args.top}, but must be at least 1")
        inputs = find_inputs(args.files)
        windows = wants_windows(args) or any(given.live for given in inputs)
        fill(args)
        recognizer = Recognizer.load(args.checkpoint, device=args.device, dtype=args.dtype)
        if windows:
            return predict_windows(recognizer, inputs, args)
        return predict_files(recognizer, [given.address for given in inputs], args)

    return run(command, made, argv)


def flops(argv: Arguments = None, manual: str | None = None) -> int:
    """Multiply-adds and parameters of models at each of their token lengths."""
    made = parser(manual)
    made.add_argument("--model", required=True, nargs="+", metavar="NAME", help="all: the whole zoo")
    made.add_argument("--views", default="1x1", metavar="CLIPSxCROPS", help="of a video (default 1x1)")
    made.add_argument("--token-lengths", type=int, nargs="+", metavar="N")
    made.add_argument("--num-classes", type=int, metavar="K")
    made.add_argument("--patch-embed", metavar="KIND", help="conv, resize or another of layers/stems.py")
    switch, hint = argparse.BooleanOptionalAction, "the last block computes the class token alone"
    made.add_argument("--class-token-only", action=switch, help=hint)
    hint = "fewer tokens on the way: evit keep=0.7, tome r=13, random_drop"
    made.add_argument("--reducer", nargs="+", metavar="NAME key=value", help=hint)
    made.add_argument("--json", metavar="FILE", help="write the rows there")

    def command(args: argparse.Namespace) -> None:
        from revit_video.backbones.costs import COLUMNS, cost_rows, model_names
        from revit_video.competitors.zoo import create_model, parse_reducer
        from revit_video.report.tables import console_table

        names = ("token_lengths", "num_classes", "patch_embed", "class_token_only")
        given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
        if args.reducer:
            given["reducer"] = parse_reducer(*args.reducer)
        clips, crops = _views(args.views)
        names = model_names(args.model)
        rows = list(cost_rows(names, clips=clips, crops=crops, create=create_model, **given))
        console_table(rows, COLUMNS)
        if args.json:
            Path(args.json).write_text(json.dumps(rows, indent=2) + "\n")

    return run(command, made, argv)


def convert(argv: Arguments = None, manual: str | None = None) -> int:
    """Weights of another project as a checkpoint of this one."""
    made = parser(manual)
    made.add_argument("source_file", metavar="SRC", help=".pyth, .pth, .pt or .safetensors")
    made.add_argument("--to", metavar="OUT", required=True, help="checkpoint to write; must not exist")
    made.add_argument("--source", metavar="NAME", help="layout of SRC (default: by its keys)")
    made.add_argument("--model", metavar="NAME", help="model of the zoo (default: by its sizes)")
    made.add_argument(
        "--token-lengths", type=int, nargs="+", metavar="N", default=[], help="default: its own"
    )
    made.add_argument(
        "--dataset", help="what SRC was trained on: kinetics400, ssv2, epic, ... (default: by its kind)"
    )
    made.add_argument(
        "--class-names", metavar="FILE", type=Path, help="a name per line, or JSON; EPIC's folder"
    )
    made.add_argument("--resize", default="bicubic", help="bicubic (default), nearest, flat_nearest")
    made.add_argument("--new-head", type=int, default=0, metavar="K", help="start a new head of K classes")
    made.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings that replace the weights' own"
    )

    def command(args: argparse.Namespace) -> None:
        from revit_video.build.weights import convert_file

        if args.new_head < 0:
            raise InputError(f"--new-head is {args.new_head}, but must be a number of classes, at least 1")
        convert_file(
            Path(args.source_file),
            Path(args.to),
            source=args.source,
            model=args.model,
            token_lengths=args.token_lengths,
            dataset=args.dataset,
            class_names=args.class_names,
            resize=args.resize,
            new_head=args.new_head,
            overrides=args.overrides,
        )
        print(f"\nwritten: {args.to}")

    return run(command, made, argv)


def pack(argv: Arguments = None, manual: str | None = None) -> int:
    """Pack the lists of a config, and their videos, into tar shards."""
    made = config_parser(manual)
    made.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder of the shards")
    made.add_argument("--shard-mb", type=int, default=512, metavar="N", help="MiB of a shard at most (512)")
    splits = ("train", "val", "test")
    made.add_argument("--split", action="append", choices=splits, help="may come again; default: all three")

    def command(args: argparse.Namespace) -> None:
        from revit_video.build.packing import pack_lists
        from revit_video.config import load_config

        if args.shard_mb < 1:
            raise InputError(f"--shard-mb is {args.shard_mb}, but must be at least 1")
        config = load_config(args.cfg, args.overrides)
        pack_lists(config, args.split or splits, args.out, shard_bytes=args.shard_mb << 20)

    return run(command, made, argv)


def plot(argv: Arguments = None, manual: str | None = None) -> int:
    """Pictures of runs: training over its steps, or accuracy against GMACs."""
    made = parser(manual)
    made.add_argument("what", choices=("training", "curve"))
    made.add_argument("runs", nargs="+", metavar="RUN", type=Path, help="output_dir of a run")
    made.add_argument("--out", metavar="FILE", type=Path, help="picture (default: in the first run's folder)")

    def command(args: argparse.Namespace) -> None:
        from revit_video.report.training_plots import plot_curves, plot_training, read_log, read_report

        read, draw = {"training": (read_log, plot_training), "curve": (read_report, plot_curves)}[args.what]
        out = args.out or args.runs[0] / f"{args.what}.png"
        names = [run.resolve().name for run in args.runs]
        if len(set(names)) < len(names):
            names = [str(run) for run in args.runs]
        draw(out, {name: read(run) for name, run in zip(names, args.runs, strict=True)})
        print(f"written: {out}")

    return run(command, made, argv)


def submit(argv: Arguments = None, manual: str | None = None) -> int:
    """Submit a training to a SLURM cluster."""
    made = config_parser(manual)
    made.add_argument("--nodes", type=int, default=1, metavar="N", help="machines (1)")
    made.add_argument("--gpus", type=int, default=8, metavar="N", help="of a node, a process each (8)")
    made.add_argument("--processes", type=int, default=0, metavar="N", help="of a node, with --gpus 0")
    made.add_argument("--cpus", type=int, default=8, metavar="N", help="of a process (8)")
    made.add_argument("--hours", type=float, default=24.0, metavar="H", help="time limit (24)")
    made.add_argument("--partition", default="", metavar="NAME")
    made.add_argument("--slurm", action="append", default=[], metavar="KEY=VALUE", help="option of sbatch")
    made.add_argument("--name", metavar="NAME", help="of the job (default: the folder's)")
    made.add_argument("--logs", type=Path, metavar="DIR", help="default: output_dir/slurm")
    made.add_argument("--cluster", choices=("slurm", "local"), default="slurm")
    made.add_argument("--wait", action="store_true", help="until the job has ended")
    made.add_argument("--dry-run", action="store_true", help="say what would run, and submit nothing")

    def command(args: argparse.Namespace) -> int:
        from revit_video import submit as jobs
        from revit_video.config import load_config
        from revit_video.dry_run import dry_run, folder_of

        config = load_config(args.cfg, args.overrides)
        numbers = ("nodes", "gpus", "processes", "cpus", "hours", "partition")
        asked = {key: getattr(args, key) for key in numbers}
        options = dict(jobs.sbatch_option(text) for text in args.slurm)
        folder = folder_of(config)
        wanted = jobs.Resources(name=args.name or folder.name, slurm=options, **asked)
        if args.dry_run:
            return 2 if dry_run(config, processes=wanted.size) else 0
        logs = args.logs or folder / "slurm"
        train_arguments = ["--cfg", str(Path(args.cfg).resolve()), *args.overrides]
        job = jobs.submit(train_arguments, wanted, cluster=args.cluster, logs=logs)
        print("\n".join(jobs.how_to_follow(job, logs=logs, cluster=args.cluster)), flush=True)
        return jobs.ended(job) if args.wait else 0

    return run(command, made, argv)


def _views(text: str) -> tuple[int, int]:
    """Clips and crops of "1x3"."""
    sides = text.split("x")
    if len(sides) != 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise InputError(f"--views is {text!r}, but must be CLIPSxCROPS, such as 1x3: 1 clip of 3 crops")
    return int(sides[0]), int(sides[1])


COMMANDS = {
    "train": train,
    "test": test,
    "predict": predict,
    "flops": flops,
    "convert": convert,
    "pack": pack,
    "plot": plot,
    "submit": submit,
}


def main() -> None:
    """`revit-video COMMAND ...`"""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in COMMANDS:
        sys.exit(COMMANDS[name](sys.argv[2:], COMMANDS[name].__doc__))
    asked = name in ("-h", "--help")
    known = "\n".join(f"  {name:10} {command.__doc__}" for name, command in COMMANDS.items())
    text = f"usage: revit-video COMMAND ...  (each has --help)\n{known}"
    print(text, file=sys.stdout if asked else sys.stderr)
    sys.exit(0 if asked else 2)


if __name__ == "__main__":
    main()
