"""The processes of a run: which one this is, what it does of a step, and the numbers they exchange.

torchrun starts the processes and says so in the environment; `start_world` joins them by torch.distributed.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from revit_video.types import InputError, Stopped

T = TypeVar("T")
ENVIRONMENT = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # as torchrun sets it
FAILED = 2  # exit code of processes that end because another one has failed, which tells why
POLL_S = 0.1


@dataclass(frozen=True)
class Share:
    """What one process does of every step: these levels, for part `part` of `parts` of the step's batch.

    Sequential training: every process has all levels and a part of its own. Length-parallel training (ReViT,
    arXiv:2307.02092, section 3.3): processes form groups, each with some of the levels and the whole batch.
    """

    levels: tuple[int, ...]
    part: int = 0
    parts: int = 1


@dataclass(frozen=True)
class World:
    """One process alone: every exchange gives back what came in."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among the processes of this machine

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return self.rank == 0

    def sum(self, numbers: Sequence[float], *, at: str = "") -> list[float]:
        """Each number summed over all processes. `at`: the place in the run, such as "step 3"."""
        return list(numbers)

    def gather(self, thing: Any) -> list[Any]:
        """What every process gave, in the order of ranks, on every process."""
        return [thing]

    def from_main(self, make: Callable[[], T]) -> T:
        """What `make` returns, called on rank 0 alone. The others wait for it, however long it takes."""
        return make()

    def reach(self, at: str) -> None:
        """Tell the others that this process has come to a place where all of them meet."""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Exchanges that torch does by itself: a process that is missing in them is named."""
        yield


@dataclass(frozen=True, eq=False, kw_only=True)
class Processes(World):
    """One of several. Numbers travel over groups of their own on the CPU (gloo), whatever the device.

    All processes meet at the same places in the same order. Each leaves a heartbeat, how many places it has
    reached and the last one's name, in the store; whoever waits in vain reads there who is missing.
    """

    store: dist.Store
    timeout_s: float
    control: dist.ProcessGroup  # where all meet
    wire: dist.ProcessGroup  # from process to process
    place: list = field(default_factory=lambda: [0, "the start"])  # of the heartbeat
    lost: list[str] = field(default_factory=list)  # what was said when the store could not be reached

    def __post_init__(self) -> None:
        self.store.set(f"host/{self.rank}", socket.gethostname())
        self._beat()

    def sum(self, numbers: Sequence[float], *, at: str = "") -> list[float]:
        total = torch.tensor(list(numbers), dtype=torch.float64)
        self.reach(at)
        with self.watching():
            dist.all_reduce(total, group=self.control)
        return total.tolist()

    def gather(self, thing: Any) -> list[Any]:
        things: list[Any] = [None] * self.size
        self.reach("")
        with self.watching():
            dist.all_gather_object(things, thing, group=self.control)
        return things

    def from_main(self, make: Callable[[], T]) -> T:
        self.reach("")
        key = f"main/{self.place[0]}"
        if self.is_main:
            made = make()
            self.store.set(key, "done")
        else:
            made = None
            with self.watching():
                while not self.store.check([key]):
                    self._follow()
                    time.sleep(POLL_S)
        return self.gather(made)[0]

    def reach(self, at: str) -> None:
        self.place[0] += 1
        if at:
            self.place[1] = at
        self._beat()

    def _beat(self) -> None:
        with self.watching():
            self.store.set(f"beat/{self.rank}", json.dumps(self.place))

    @contextmanager
    def watching(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if not from_the_network(error):
                raise
            self._follow()
            raise self._blame(error) from None

    def _follow(self) -> None:
        """End in silence where another process has failed: that one tells why."""
        if self._stored("failure"):
            raise SystemExit(FAILED)

    def _blame(self, error: RuntimeError) -> OSError:
        """The one line that names who is missing."""
        places = {r: json.loads(self._stored(f"beat/{r}") or "[0, null]") for r in range(self.size)}
        late = [r for r, (count, _) in places.items() if count < self.place[0]]
        if "timed out" not in str(error).lower() and "timeout" not in str(error).lower():
            who = "; ".join(f"{self.name(r)} was last at {places[r][1]}" for r in late[:4])
            return ConnectionError(
                f"the connection to another process broke at {self.place[1]}: it has ended"
                + f"; {who}" * bool(who)
            )
        for_long = f"for {self.timeout_s:g} s (distributed.timeout_s)"
        if not late:
            return TimeoutError(f"all processes reached {self.place[1]}, but no answer came {for_long}")
        who = "; ".join(
            f"{self.name(r)} has not reached {self.place[1]} {for_long}; it was last at {places[r][1]}"
            for r in late[:4]
        )
        return TimeoutError(who + f"; {len(late) - 4} more are missing" * (len(late) > 4))

    def name(self, rank: int) -> str:
        return f"rank {rank} ({self._stored(f'host/{rank}') or 'unknown host'})"

    def _stored(self, key: str) -> str:
        if self.lost:
            return ""
        try:
            return self.store.get(key).decode() if self.store.check([key]) else ""
        except RuntimeError as error:  # the store's process has ended too; torch says so at length every time
            self.lost.append(str(error))
            return ""

    def speak_first(self, error: BaseException) -> bool:
        """Whether this process is the first that fails, and so the one that tells why."""
        if self.lost:
            return self.is_main
        try:
            mine = f"{self.rank}: {error}"
            return self.store.compare_set("failure", "", mine).decode() == mine
        except RuntimeError:
            return self.is_main


def from_the_network(error: RuntimeError) -> bool:
    """Whether torch.distributed says so, rather than the model or the device."""
    return isinstance(error, dist.DistError) or "gloo" in str(error) or "Connection " in str(error)


@contextmanager
def start_world(*, device_type: str, timeout_s: float) -> Iterator[World]:
    """The processes that torchrun started, until the end of the block; one alone where it did not.

    Where one of them fails, all end: it raises its error with its rank, the others leave with exit code 2.

    Raises:
        InputError: a part of torchrun's environment is missing.
        TimeoutError, ConnectionError: a process hangs, or has ended; the message names it.
    """
    given = {name: os.environ.get(name, "") for name in ENVIRONMENT}
    if int(given["WORLD_SIZE"] or 1) == 1:
        yield World()
        return
    missing = [name for name, value in given.items() if not value]
    if missing:
        raise InputError(
            f"WORLD_SIZE is {given['WORLD_SIZE']}, but {', '.join(missing)} is not set; start with "
            "torchrun --nproc_per_node=N tools/train_net.py ..."
        )
    timeout, local_rank = timedelta(seconds=timeout_s), int(given["LOCAL_RANK"])
    device = torch.device("cuda", local_rank) if device_type == "cuda" else None
    store, rank, size = next(dist.rendezvous("env://", timeout=timeout))
    dist.init_process_group(
        "nccl" if device else "gloo",
        store=dist.PrefixStore("groups", store),
        rank=rank,
        world_size=size,
        timeout=timeout,
        device_id=device,
    )
    world = Processes(
        rank=rank,
        size=size,
        local_rank=local_rank,
        store=dist.PrefixStore("world", store),
        timeout_s=timeout_s,
        control=dist.new_group(backend="gloo", timeout=timeout),
        wire=dist.new_group(backend="gloo", timeout=timeout),
    )
    try:
        yield world
        world.gather(None)  # nobody leaves, and closes connections, while another one works
    except (InputError, OSError) as error:
        if not world.speak_first(error):
            raise SystemExit(FAILED) from None
        raise named(error, world.name(rank)) from error
    except Stopped:  # all of them, together
        world.gather(None)
        raise
    except SystemExit:
        raise
    except BaseException as error:
        world.speak_first(error)
        raise
    dist.destroy_process_group()


def named(error: Exception, name: str) -> Exception:
    """The same kind of error with the name of the process that met it; `told_by` says that it is to tell."""
    told = error
    if not isinstance(error, (TimeoutError, ConnectionError)):  # these name the one that is missing
        told = (InputError if isinstance(error, InputError) else OSError)(f"{name}: {error}")
    told.told_by = name
    return told
