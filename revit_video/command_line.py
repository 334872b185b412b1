"""How a command runs: its parser, its mistakes in one line, its exit code."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from revit_video.types import InputError, Stopped

Arguments = Sequence[str] | None
TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, the same command goes on


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
