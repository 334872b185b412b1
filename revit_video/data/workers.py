"""Batches from worker processes that cannot stall a run in silence.

torch's DataLoader does the work. What it does not say is said here: which file a process was reading when it
died or hung, and, before it becomes a bus error, that the shared memory through which batches travel is too
small.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sized
from multiprocessing.connection import wait
from multiprocessing.sharedctypes import RawArray
from typing import Any, NoReturn

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from revit_video.types import InputError

SHARED_MEMORY = "/dev/shm"
POLL_S = 1.0  # seconds; so often the processes are looked at while a batch is waited for
PATIENCE_S = 300.0  # seconds that one video may take; readers give up after 60 without a frame
LESS = "use fewer data.num_workers, a smaller data.prefetch or a smaller batch"
ENLARGE = f"or enlarge {SHARED_MEMORY} (docker run --shm-size)"
DEATHS = {  # what a signal most likely means, and what to try
    "SIGKILL": f"was killed, most likely as memory ran out (dmesg tells); {LESS}",
    "SIGBUS": f"ended by a bus error: no shared memory was left; {LESS}, {ENLARGE}",
}
CRASH = "take the file off the list, or check the list with tools/check_videos.py"


class WorkerBatches:
    """Batches of a data set, read by processes or, with `num_workers` 0, by this one.

    An iteration starts the processes and ends them; a stage of a run is one iteration, whatever the number of
    its epochs. Each process has one torch thread.

    Args:
        dataset: items by key (epoch, index); `samples[index].path` is the file that a message names.
        batches: of keys.
        collate: items to a batch.
        num_workers, prefetch: processes, and batches that each of them reads ahead.
        pin_memory: batches are copied to page-locked memory, from where a GPU fetches them by itself; None:
            where this process has begun to use one.
        batch_bytes: of the largest batch; asked for and compared with the free shared memory where there are
            processes.
        patience: seconds that one video may take before its process counts as hanging and is killed.
        shared_memory: where Linux keeps it.

    Raises:
        InputError: shared memory is too small; or, while iterating, a process died or hangs.
    """

    def __init__(
        self,
        dataset: Dataset,
        batches: Sized,
        *,
        collate: Callable,
        num_workers: int = 0,
        prefetch: int = 2,
        pin_memory: bool | None = None,
        batch_bytes: Callable[[], int] = lambda: 0,
        patience: float = PATIENCE_S,
        shared_memory: str = SHARED_MEMORY,
    ) -> None:
        self.dataset, self.batches, self.patience = dataset, batches, patience
        self.num_workers, self._board = num_workers, Board(num_workers)
        pin_memory = torch.cuda.is_initialized() if pin_memory is None else pin_memory
        options: dict[str, Any] = {"pin_memory": pin_memory}
        if num_workers:
            if len(batches):
                held = min(num_workers * prefetch + 1, len(batches))  # one is with whoever asked for it
                check_shared_memory(held * batch_bytes(), num_workers, prefetch, mount=shared_memory)
            options |= {"prefetch_factor": prefetch, "timeout": POLL_S}
            dataset = Reporting(dataset, self._board)
        self._loader = DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=num_workers,
            # Starting a loader draws a number: not from the global stream, or a resumed run would differ.
            generator=torch.Generator(),
            worker_init_fn=heed_the_parent_alone if num_workers else None,
            **options,
        )

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator:
        if not len(self.batches):
            return iter(())
        return self._watched() if self.num_workers else iter(self._loader)

    def _watched(self) -> Iterator:
        batches, processes = started(self._loader)
        waiting: dict[int, tuple[int, float]] = {}  # worker -> (items it had begun, seconds without another)
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError) as error:
                is_late = str(error).startswith("DataLoader timed out")
                # One that is just dying has broken a connection before it is gone.
                wait([process.sentinel for process in processes], timeout=0 if is_late else 1)
                for process in processes:
                    if process.exitcode is not None:
                        self._refuse_dead(process, error)
                if not is_late:
                    raise
                self._refuse_hanging(waiting)
                continue
            waiting.clear()
            yield batch

    def _refuse_dead(self, process: multiprocessing.Process, error: Exception) -> NoReturn:
        code = process.exitcode
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        what = DEATHS.get(name, f"ended unexpectedly; {CRASH}")
        rows = map(self._board.row, range(self.num_workers))
        row = next((row for row in rows if row[0] == process.pid), (0, -1, 0))
        raise InputError(f"a worker process, {self._reading(row)}, {what} ({name})") from error

    def _refuse_hanging(self, waiting: dict[int, tuple[int, float]]) -> None:
        """Called after every POLL_S without a batch. Counting them, not asking a clock, a run that was itself
        stopped for an hour does not take its workers for hanging.
        """
        rows = [self._board.row(worker) for worker in range(self.num_workers)]
        busy = [worker for worker, row in enumerate(rows) if row[1] >= 0]
        for worker in busy or range(self.num_workers):
            pid, _, begun = rows[worker]
            before, seconds = waiting.get(worker, (begun, 0.0))
            waiting[worker] = begun, seconds + POLL_S if before == begun else 0.0
            if waiting[worker][1] < self.patience:
                continue
            if pid:
                os.kill(pid, signal.SIGKILL)
            what = f"gave nothing for {self.patience:g} s and was killed"
            raise InputError(f"a worker process, {self._reading(rows[worker])}, {what}; {CRASH}")

    def _reading(self, row: tuple[int, int, int]) -> str:
        if row[1] < 0:
            return "reading no video just then"
        return f"reading {self.dataset.samples[row[1]].path}"


class Board:
    """What each worker process is doing, in memory that all of them share."""

    def __init__(self, num_workers: int) -> None:
        self._cells = RawArray("q", 3 * num_workers)  # of each: its pid, index + 1 or 0, items begun

    def row(self, worker: int) -> tuple[int, int, int]:
        """(pid, index of the video it reads or -1, items it has begun); a pid of 0 before its first item."""
        pid, place, begun = self._cells[3 * worker : 3 * worker + 3]
        return pid, place - 1, begun

    def begin(self, worker: int, index: int) -> None:
        begun = self._cells[3 * worker + 2] + 1
        self._cells[3 * worker : 3 * worker + 3] = [os.getpid(), index + 1, begun]

    def end(self, worker: int) -> None:
        self._cells[3 * worker + 1] = 0


class Reporting(Dataset):
    """A data set whose items are noted on the board while a worker process reads them."""

    def __init__(self, dataset: Dataset, board: Board) -> None:
        self.dataset, self.board = dataset, board

    def __getitem__(self, key: tuple[int, int]) -> Any:
        worker = get_worker_info().id
        self.board.begin(worker, key[1])
        item = self.dataset[key]
        self.board.end(worker)
        return item


def heed_the_parent_alone(worker: int) -> None:
    """SIGTERM and SIGUSR1 often go to all processes of a job. They are for the parent, which may need more
    batches before it ends. Here they count only where they come from it: torch ends its workers so.
    """
    if not hasattr(signal, "sigwaitinfo"):  # macOS does not tell who sent a signal
        return
    numbers, parent = {signal.SIGTERM, signal.SIGUSR1}, multiprocessing.parent_process().pid
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)

    def listen() -> None:
        while signal.sigwaitinfo(numbers).si_pid != parent:
            pass
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()


def started(loader: DataLoader) -> tuple[Iterator, list[multiprocessing.Process]]:
    """An iterator of the loader, and its processes.

    torch lets the death of one interrupt this process wherever it is. That is taken back: it is told where a
    batch is waited for, with the file.
    """
    before, handler = set(multiprocessing.active_children()), signal.getsignal(signal.SIGCHLD)
    batches = iter(loader)
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, handler)
    return batches, [child for child in multiprocessing.active_children() if child not in before]


def check_shared_memory(needed: int, num_workers: int, prefetch: int, *, mount: str = SHARED_MEMORY) -> None:
    """Refuse a loader whose batches (`needed` bytes at once) do not fit into the free shared memory."""
    if sys.platform != "linux":  # elsewhere it is no file system
        return
    try:
        system = os.statvfs(mount)
    except OSError as error:
        raise InputError(
            f"worker processes hand over batches through shared memory, but {mount} cannot be used "
            f"({error.strerror}); mount it, or set data.num_workers=0"
        ) from error
    free = system.f_bavail * system.f_frsize
    if needed > free:
        raise InputError(
            f"{num_workers} worker processes that read {prefetch} batches ahead need "
            f"{needed / 2**20:.0f} MiB of shared memory, {mount} has {free / 2**20:.0f} MiB left; {LESS} "
            f"(data.num_workers=0 needs none), {ENLARGE}"
        )
