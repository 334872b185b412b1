"""The commands: `revit-video COMMAND ...` and the scripts in tools/. Bad input: one line, exit code 2."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

from revit_video.types import InputError

Arguments = Sequence[str] | None


class Parser(argparse.ArgumentParser):
    """Ends mistakes on the command line as every other mistake: one line, exit code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; {self.prog} --help explains\n")


def parser(manual: str | None) -> Parser:
    """An argument parser whose help is the tool's docstring."""
    made = Parser(description=manual, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return made


def run(command: Callable[[argparse.Namespace], int | None], made: Parser, argv: Arguments = None) -> int:
    """Exit code of a command: 0 worked, 2 bad input (one line on stderr), 130 interrupted.

    Options may stand anywhere between files and settings. What the system refuses (no right to write, no
    space left) is bad input too; every other error is a bug and shows itself.
    """
    args = made.parse_intermixed_args(argv)
    try:
        return command(args) or 0
    except (InputError, OSError) as error:
        if args.debug:
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


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

    def command(args: argparse.Namespace) -> None:
        from revit_video.config import load_config
        from revit_video.pipeline import run_stages

        run_stages(load_config(args.cfg, args.overrides))

    return run(command, config_parser(manual), argv)


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
    """Predict the classes of files. One that cannot be read is named, the others go on, exit code 2."""
    made = parser(manual)
    made.add_argument("files", nargs="+", metavar="FILE")
    made.add_argument("--checkpoint", metavar="FILE", required=True, help="recognizer.pt of a run")
    made.add_argument("--length", default="adaptive", help="a token length, or adaptive (default)")
    made.add_argument("--top", type=int, default=5, metavar="N", help="how many classes to show")
    made.add_argument("--json", action="store_true", help="one JSON object per file and line")
    made.add_argument("--device", default="auto")
    made.add_argument("--dtype", default="auto")

    def command(args: argparse.Namespace) -> int:
        from revit_video.decode import DecodeError
        from revit_video.recognizer import Recognizer

        if args.top < 1:
            raise InputError(f"--top is {args.top}, but must be at least 1")
        recognizer = Recognizer.load(args.checkpoint, device=args.device, dtype=args.dtype)
        unreadable = 0
        for path in args.files:
            try:
                prediction = recognizer.predict(path, length=args.length, top=args.top)
            except DecodeError as error:
                if args.debug:
                    raise
                unreadable += 1
                shown = {"path": path, "error": str(error)} if args.json else f"{path}: not readable"
                print(f"error: {error}", file=sys.stderr)
            else:
                shown = asdict(prediction) if args.json else _as_text(prediction)
            print(json.dumps(shown) if args.json else shown, flush=True)
        return 2 if unreadable else 0

    return run(command, made, argv)


def _as_text(prediction) -> str:
    lengths = ", ".join(map(str, prediction.token_lengths))
    cost = f"{prediction.gmacs_per_view:.3g} GMACs per view; token lengths of its clips: {lengths}"
    pairs = zip(prediction.class_names, prediction.probabilities, strict=True)
    return "\n".join([f"{prediction.path}  ({cost})", *(f"  {100 * p:5.1f}%  {name}" for name, p in pairs)])


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
    made.add_argument("--json", metavar="FILE", help="write the rows there")

    def command(args: argparse.Namespace) -> None:
        from revit_video.backbones.costs import COLUMNS, cost_rows, model_names
        from revit_video.report.tables import console_table

        names = ("token_lengths", "num_classes", "patch_embed", "class_token_only")
        given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
        clips, crops = _views(args.views)
        rows = list(cost_rows(model_names(args.model), clips=clips, crops=crops, **given))
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
        "--dataset", default="kinetics400", help="what SRC was trained on: kinetics400, ssv2, ..."
    )
    made.add_argument("--class-names", metavar="FILE", type=Path, help="a name per line, or JSON")
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


def _views(text: str) -> tuple[int, int]:
    """Clips and crops of "1x3"."""
    sides = text.split("x")
    if len(sides) != 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise InputError(f"--views is {text!r}, but must be CLIPSxCROPS, such as 1x3: 1 clip of 3 crops")
    return int(sides[0]), int(sides[1])


COMMANDS = {"train": train, "test": test, "predict": predict, "flops": flops, "convert": convert}


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
