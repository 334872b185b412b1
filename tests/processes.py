"""Several processes of one run inside the suite: gloo on the CPU, one thread each.

    result = run_checks("distributed_checks", size=2, folder=tmp_path)
    result("check_gradients")         raises what any process raised in it

The functions `check_*(world, folder)` of a module run one after the other in the same processes.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import socket
import time
import traceback
from collections.abc import Callable
from pathlib import Path

# Guards against hanging alone, which no good run comes near: on a busy machine each process may get a tenth.
TIMEOUT_S = 120.0  # that a check waits for a process which does not come
END_S = 1200.0  # of all processes


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def names_of_checks(module: str) -> list[str]:
    return [name for name in vars(importlib.import_module(module)) if name.startswith("check_")]


def start(target: Callable, *arguments, size: int, timeout_s: float = END_S, hanging: int = 0) -> list[int]:
    """Run target(rank, *arguments) in so many processes; their exit codes, by rank.

    So many that hang are killed, as torchrun does it, but when all others have ended: no clock decides who
    had the time to end by itself. What is left after `timeout_s` is killed in any case.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torch.distributed", "revit_video.pipeline"])
    settings = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    workers = [
        context.Process(target=begin, args=(target, rank, settings, *arguments)) for rank in range(size)
    ]
    for worker in workers:
        worker.start()
    end = time.monotonic() + timeout_s
    while sum(worker.is_alive() for worker in workers) > hanging and time.monotonic() < end:
        time.sleep(0.02)
    for worker in workers:
        worker.kill()
        worker.join()
    return [worker.exitcode for worker in workers]


def begin(target: Callable, rank: int, settings: dict[str, str], *arguments) -> None:
    import torch

    torch.set_num_threads(1)
    os.environ.update(settings, RANK=str(rank), LOCAL_RANK=str(rank))
    target(rank, *arguments)


def run_checks(module: str, *, size: int, folder: Path) -> Callable[[str], None]:
    """Run the checks of a module that are for so many processes; then ask for the result of one."""
    start(work, module, size, folder, size=size)

    def result(name: str) -> None:
        for rank in range(size):
            seen = json.loads((folder / f"result{rank}.json").read_text())
            assert name in seen, f"{name} did not run on rank {rank}; the checks before it: {seen}"
            assert not seen[name], f"rank {rank}:\n{seen[name]}"

    return result


def work(rank: int, module: str, size: int, folder: Path) -> None:
    import torch

    from revit_video.train.world import start_world

    checks = dict(vars(importlib.import_module(module)))
    seen: dict[str, str] = {}
    with start_world(device_type="cpu", timeout_s=TIMEOUT_S) as world:
        for name, check in checks.items():
            if name.startswith("check_") and size in getattr(check, "sizes", (2, 3)):
                torch.manual_seed(0)
                try:
                    check(world, folder)
                    seen[name] = ""
                except BaseException:
                    seen[name] = traceback.format_exc()
                (folder / f"result{rank}.json").write_text(json.dumps(seen))
                if seen[name]:
                    os._exit(1)  # the others wait in vain for it, and end too


def only(*sizes: int) -> Callable:
    """A check for so many processes; else 2 and 3."""

    def mark(check: Callable) -> Callable:
        check.sizes = sizes
        return check

    return mark
