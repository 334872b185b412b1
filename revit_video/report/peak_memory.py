"""How much memory a call takes at its peak, on top of what is there before it."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_bytes(fn: Callable[[], object], device: torch.device) -> int:
    """Bytes of tensors that are alive at once while `fn()` runs, those from before it left out.

    On a GPU the allocator says so. On a CPU every storage that an operation makes is counted until it is
    freed; what a kernel takes for itself inside one operation is not seen there.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        fn()
        return torch.cuda.max_memory_allocated(device) - before
    with Alive() as alive:
        fn()
    return alive.peak


class Alive(TorchDispatchMode):
    """Counts the bytes of the storages that operations make, until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}  # of the storages alive, by their address
        self.now = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if is_dense(leaf)}
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if not is_dense(leaf):
                continue
            storage = leaf.untyped_storage()
            key = storage._cdata
            if key not in given and key not in self.sizes:  # neither a view nor changed in place
                self.sizes[key] = storage.nbytes()
                self.now += storage.nbytes()
                weakref.finalize(storage, self.freed, key).atexit = False
        self.peak = max(self.peak, self.now)
        return made

    def freed(self, key: int) -> None:
        self.now -= self.sizes.pop(key)


def is_dense(leaf: object) -> bool:
    return isinstance(leaf, Tensor) and leaf.layout == torch.strided
