"""Processes of which one fails in some way, for test_distributed_failures.py."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import torch

from revit_video import cli
from revit_video.train.parallel import build_exchange
from revit_video.train.world import World, start_world
from revit_video.types import InputError

HANGING = ("hangs between steps", "hangs in a pass")
TIMEOUT_S = 5.0  # where one is waited for in vain, or longer than this
HANGS_S = 600.0


class Line(torch.nn.Module):
    """A model with one level, and one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)

    def forward(self, clips: torch.Tensor, level: int = 0) -> torch.Tensor:
        return self.layer(clips).sum()


def fail(rank: int, mode: str, folder: Path) -> None:
    """Three processes, five steps; rank 1 fails in step 3. Leaves what it says in `folder`."""
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / f"{name}{rank}", os.O_CREAT | os.O_WRONLY), number)

    def command(args) -> None:
        timeout_s = TIMEOUT_S if mode in (*HANGING, "long work of rank 0") else 12 * TIMEOUT_S
        with start_world(device_type="cpu", timeout_s=timeout_s) as world:
            if mode == "mistake of all":
                raise InputError("a setting is wrong")
            steps(world, mode)
            if mode == "rank 0 alone":
                world.from_main(lambda: (folder / "no/such/folder").write_text(""))
            if mode == "long work of rank 0":
                world.from_main(lambda: time.sleep(1.5 * TIMEOUT_S))
        print("done")

    sys.argv = ["processes"]
    code = cli.run(command, cli.parser("test"))
    sys.stdout.flush()
    sys.exit(code)


def steps(world: World, mode: str) -> None:
    exchange = build_exchange(Line(), world)
    for step in range(5):
        ill = step == 3 and world.rank == 1
        if ill and mode == "hangs between steps":
            time.sleep(HANGS_S)
        world.sum([1.0], at=f"step {step}")
        if ill:
            act(mode)
        with exchange.one_pass(last=True):
            out = exchange(torch.ones(2, 3))
            if ill and mode == "hangs in a pass":
                time.sleep(HANGS_S)
            exchange.closed(out).backward()
        exchange.finish((0,))


def act(mode: str) -> None:
    if mode == "mistake of one":
        raise InputError("two of three videos cannot be read")
    if mode == "system":
        Path("/no/such/file").read_text()
    if mode == "bug":
        raise AssertionError("a bug")
    if mode == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
