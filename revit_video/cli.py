"""The commands: `revit-video COMMAND ...` and the scripts in tools/. Bad input: one line, exit code 2."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import fields
from pathlib import Path

from revit_video.command_line import Arguments, config_parser, parser, run
from revit_video.stream.options import add_options, fill, wants_windows
from revit_video.types import InputError

RESUME = "; the same command with resume=auto goes on from the last checkpoint"


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
        from revit_video.stream.inputs import each_picture, find_inputs

        if args.top < 1:
            raise InputError(f"--top is {args.top}, but must be at least 1")
        inputs = find_inputs(args.files)
        windows = wants_windows(args) or any(given.live for given in inputs)
        fill(args)
        recognizer = Recognizer.load(args.checkpoint, device=args.device, dtype=args.dtype)
        if recognizer.backbone.num_frames == 1:
            inputs = each_picture(inputs)
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
    """Pictures: trainings, accuracy over GMACs or clips/s, clips by length, cost over lengths."""
    made = parser(manual)
    made.add_argument("what", choices=("training", "curve", "throughput", "sheet", "lengths"))
    made.add_argument("words", nargs="*", metavar="RUN", help="output_dir of a run; sheet: key=value too")
    made.add_argument("--out", metavar="FILE", type=Path, help="picture (default: in the first run's folder)")
    made.add_argument("--model", metavar="NAME", help="lengths: of the zoo (deit_small)")
    made.add_argument("--token-lengths", type=int, nargs="+", metavar="N", help="lengths: (14 10 7 4)")
    made.add_argument("--measure", type=int, metavar="B", help="lengths: time steps of B clips too")

    def command(args: argparse.Namespace) -> None:
        from revit_video.figures import Asked, draw

        names = [field.name for field in fields(Asked)]
        print(f"written: {draw(Asked(**{name: getattr(args, name) for name in names}))}")

    return run(command, made, argv)


def compare(argv: Arguments = None, manual: str | None = None) -> int:
    """Train several methods with one recipe, and put them into one table."""
    made = parser(manual)
    made.add_argument("--cfg", metavar="FILE", required=True, help="YAML file of all rows")
    made.add_argument("--dry-run", action="store_true", help="say what would be trained, and do nothing")
    hint = "methods=[...] or ablation=NAME, seeds=[0,1,2], and settings of all rows"
    made.add_argument("words", nargs="*", metavar="key=value", help=hint)

    def command(args: argparse.Namespace) -> int:
        from revit_video.compare.command import compare as run_comparison

        return run_comparison(args.cfg, args.words, dry_run=args.dry_run)

    return run(command, made, argv, then="; the same command goes on with what is missing")


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


def study(argv: Arguments = None, manual: str | None = None) -> int:
    """Studies of runs: shifted videos, easy and hard ones, when training pays, folds."""
    made = parser(manual)
    made.add_argument("what", choices=("shift", "extremes", "payback", "folds"))
    made.add_argument("folders", nargs="+", metavar="FOLDER", help="runs; of shift: videos, and key=value")
    made.add_argument("--checkpoint", metavar="FILE", type=Path, help="shift: recognizer.pt of a run")
    made.add_argument("--videos", type=int, default=0, metavar="N", help="shift: of each folder; 0: all (0)")
    made.add_argument("--json", metavar="FILE", type=Path, help="write the rows there")

    def command(args: argparse.Namespace) -> None:
        from revit_video import studies
        from revit_video.report.tables import console_table

        found = studies.study(args.what, args.folders, checkpoint=args.checkpoint, most=args.videos)
        console_table(found.rows, found.columns, title=found.title)
        for line in found.notes:
            print(line)
        if args.json:
            args.json.write_text(json.dumps(found.rows, indent=2) + "\n")

    return run(command, made, argv)


def throughput(argv: Arguments = None, manual: str | None = None) -> int:
    """Speed of every length and of the router, in batches and clip by clip."""
    made = parser(manual)
    made.add_argument("--checkpoint", metavar="FILE", type=Path, help="recognizer.pt or revit.pt of a run")
    made.add_argument("--model", metavar="NAME", help="a model of the zoo, with random weights")
    made.add_argument("--token-lengths", type=int, nargs="+", metavar="N", help="of --model")
    made.add_argument("--cost", type=float, metavar="X", help="of --model: mean over the longest's (0.5)")
    made.add_argument("--decode", action="store_true", help="decode inside the time")
    made.add_argument("--clips", type=int, default=64, metavar="N", help="(64)")
    made.add_argument("--batch-size", type=int, default=16, metavar="N", help="clips (16)")
    made.add_argument("--repeats", type=int, default=3, metavar="N", help="rounds that count (3)")
    made.add_argument("--json", metavar="FILE", type=Path, help="write the rows there")
    made.add_argument("--plot", metavar="FILE", type=Path, help="draw them there")
    hint = "settings that replace the checkpoint's; of --model: device and dtype"
    made.add_argument("overrides", nargs="*", metavar="key=value", help=hint)

    def command(args: argparse.Namespace) -> None:
        from revit_video.build.throughput import asked_speed_job
        from revit_video.report.speed_table import COLUMNS, plot_speeds
        from revit_video.report.tables import console_table
        from revit_video.stages.throughput import measure

        kept = ("checkpoint", "model", "token_lengths", "cost", "decode", "overrides")
        numbers = {name: getattr(args, name) for name in ("clips", "batch_size", "repeats")}
        seen = measure(asked_speed_job(**{name: getattr(args, name) for name in kept}, **numbers))
        title = f"{seen['model']}: {seen['num_clips']} clips, {seen['device_name']}, {seen['dtype']}"
        console_table(seen["rows"], COLUMNS, title=title)
        if args.json:
            args.json.write_text(json.dumps(seen, indent=2) + "\n")
        if args.plot:
            plot_speeds(args.plot, seen["rows"], title=title)

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
    "compare": compare,
    "submit": submit,
    "study": study,
    "throughput": throughput,
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
