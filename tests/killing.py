"""Runs of tools/train_net.py in processes of their own, to be killed at any moment: inside a write too.

    run = start(arguments, log=folder / "said", write_s=0.2)    # every file takes its time to be written
    run.kill_writing(folder, after_s=0.03)                      # SIGKILL while a file is half there
    assert start(arguments, log=folder / "said").code() == 0

A run is forked from a server that has imported torch and the package, so that a start costs little. `size=2`
starts that many processes, joined as torchrun would join them.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from processes import free_port
from small_run import run_tool

PATIENCE_S = 120.0
PRELOAD = ["torch", "timm.utils", "revit_video.cli", "revit_video.pipeline", "revit_video.stages.revit"]


@dataclass
class Run:
    processes: list[multiprocessing.Process]
    log: Path

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self.processes]

    def is_alive(self) -> bool:
        return any(process.is_alive() for process in self.processes)

    def code(self, rank: int | None = None) -> int:
        """The exit code of a process at the end, or of the first one that failed; 0 if none did."""
        for process in self.processes:
            process.join(PATIENCE_S)
            assert process.exitcode is not None, self.said()
        codes = [process.exitcode for process in self.processes]
        return next(filter(None, codes), 0) if rank is None else codes[rank]

    def said(self) -> str:
        return self.log.read_text()

    def send(self, number: int, *, to: int | None = None, groups: bool = False) -> None:
        """A signal to the processes, or to one of them; with `groups` to all that they have started too."""
        for pid in self.pids if to is None else [self.pids[to]]:
            (os.killpg if groups else os.kill)(pid, number)

    def kill(self) -> bool:
        """SIGKILL; whether the run was still going on."""
        for process in self.processes:
            process.kill()
        return self.was_killed()

    def was_killed(self) -> bool:
        for process in self.processes:
            process.join(PATIENCE_S)
        return any(process.exitcode == -signal.SIGKILL for process in self.processes)

    def wait_for(self, folder: Path, pattern: str) -> bool:
        """Until there is such a file that has been written since; False if the run ended before."""
        end, before = time.monotonic() + PATIENCE_S, stamps(folder, pattern)
        while not stamps(folder, pattern) - before:
            if not self.is_alive():
                return False
            assert time.monotonic() < end, self.said()
            time.sleep(0.002)
        return True

    def kill_writing(self, folder: Path, *, after_s: float = 0.0) -> bool:
        """SIGKILL while a checkpoint is written; whether there is one that is half there."""
        if not self.wait_for(folder, "step_*.partial"):
            return False
        time.sleep(after_s)
        return self.kill() and any(folder.glob("step_*.partial"))


def stamps(folder: Path, pattern: str) -> set[tuple[str, int]]:
    """Files with the moment of their last change. They come and go meanwhile."""
    found = set()
    for path in folder.glob(pattern):
        with contextlib.suppress(FileNotFoundError):
            found.add((path.name, path.stat().st_mtime_ns))
    return found


def start(
    arguments: Sequence[str], *, log: Path, write_s: float = 0.0, same_s: float | None = None, size: int = 1
) -> Run:
    """tools/train_net.py with these arguments.

    write_s: seconds that a checkpoint takes to be written. same_s: see train/signals.py.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    port, options = free_port(), {"log": log, "write_s": write_s, "same_s": same_s}
    log.write_text("")
    run = [
        context.Process(target=train_net, args=(list(arguments), rank, size, port), kwargs=options)
        for rank in range(size)
    ]
    for process in run:
        process.start()
    return Run(run, log)


def train_net(
    arguments: list[str],
    rank: int,
    size: int,
    port: int,
    *,
    log: Path,
    write_s: float,
    same_s: float | None,
) -> None:
    import torch

    from revit_video.train import signals

    os.setpgid(0, 0)  # its data workers are in a group with it, and nothing else
    multiprocessing.set_start_method("fork", force=True)  # of data workers, as in a run of its own
    file = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    torch.set_num_threads(1)
    if size > 1:
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    if write_s:
        write_slowly(write_s)
    if same_s is not None:
        signals.SAME_S = same_s
    sys.exit(run_tool("train_net.py", *arguments))


def write_slowly(seconds: float, *, pieces: int = 4) -> None:
    """From now on torch.save writes a piece at a time, and a file waits before it takes its name."""
    import torch

    save, replace, nap = torch.save, os.replace, seconds / (pieces + 1)

    def slow_save(state, file, **options) -> None:
        if options:  # a tensor on its way to another process
            return save(state, file, **options)
        content = io.BytesIO()
        save(state, content)
        whole = content.getvalue()
        for piece in range(pieces):
            begin, end = (cut * len(whole) // pieces for cut in (piece, piece + 1))
            file.write(whole[begin:end])
            file.flush()
            time.sleep(nap)

    def slow_replace(*paths) -> None:
        time.sleep(nap)
        replace(*paths)

    torch.save, os.replace = slow_save, slow_replace
