"""How the gradients of several processes become one: torch's DistributedDataParallel or FSDP2.

A step is many passes, forward and backward: each length on each piece of the process's clips. All of them
share one exchange of gradients, in the last backward, while it still computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from revit_video.train.world import World
from revit_video.types import InputError


class Exchange:
    """One process: its gradients are those of the step.

    Call it as the model. `one_pass` is around forward and backward of every pass, `closed` around the loss of
    the last one, `finish` comes after it. Other kinds average over all processes, so that a loss is to be
    weighted by (number of processes) x (its clips / all clips of the step).
    """

    even_passes = False  # whether all processes must run equally many

    def __init__(self, model: nn.Module) -> None:
        self.model = self.run = model

    def __call__(self, clips: Tensor | None, level: int = 0, **options: bool) -> Any:
        return self.run(clips, level, **options)

    @contextmanager
    def one_pass(self, *, last: bool) -> Iterator[None]:
        yield

    def closed(self, loss: Tensor) -> Tensor:
        return loss

    def take_part(self, backward: Callable[[Tensor], None]) -> None:
        """The step of a process that has no clips."""

    def finish(self, levels: Sequence[int], *, complete: bool = True) -> None:
        """After the last pass. levels: of the step, over all processes. complete: all had clips."""


def has_statistics(model: nn.Module) -> bool:
    """Whether it has batch normalisation, with buffers that a forward pass changes."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


class Passes(nn.Module):
    """What DistributedDataParallel wraps: the model, that may also be called without clips."""

    def __init__(self, model: nn.Module, forward: Callable | None) -> None:
        super().__init__()
        self.model = model
        self.run = forward or model

    def forward(self, clips: Tensor | None, level: int = 0, **options: bool) -> Any:
        return None if clips is None else self.run(clips, level, **options)


class DataParallel(Exchange):
    """Every process has all weights (DistributedDataParallel).

    DistributedDataParallel exchanges what the backward that it watches touches. A pass of one length leaves
    out the other lengths' embeddings and tables, whose gradients lie there from the passes before. So the
    last loss touches them too, with gradients of zero. What no process touches in a step, as the longer
    lengths' own parameters while the model grows, gets no gradient, as in one process: a gradient of zero
    would let weight decay and momentum move it.

    forward: called in place of the model, such as its compiled form; with the model's own parameters.
    """

    def __init__(self, model: nn.Module, world: World, *, forward: Callable | None = None) -> None:
        super().__init__(model)
        self.run = self.ddp = DistributedDataParallel(Passes(model, forward), gradient_as_bucket_view=True)
        self.world = world
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.touched: set[Tensor] = set()
        self.idle: dict[tuple[int, ...], list[Tensor]] = {}  # of a step of these levels

    @contextmanager
    def one_pass(self, *, last: bool) -> Iterator[None]:
        if last:
            with self.world.watching():
                yield
        else:
            with self.ddp.no_sync():
                yield

    def closed(self, loss: Tensor) -> Tensor:
        last = leaves(loss)
        self.touched = last | {p for p in self.parameters if p.grad is not None}
        self.world.reach("the exchange of gradients")
        return _Touch.apply(loss, *(p for p in self.parameters if p not in last))

    def take_part(self, backward: Callable[[Tensor], None]) -> None:
        with self.one_pass(last=True):
            self.run(None)
            backward(self.closed(torch.zeros((), device=self.parameters[0].device)))

    def finish(self, levels: Sequence[int], *, complete: bool = True) -> None:
        key = tuple(levels)
        if key in self.idle:
            idle = self.idle[key]
        else:
            users = self.world.sum([float(p in self.touched) for p in self.parameters])
            idle = [p for p, count in zip(self.parameters, users, strict=True) if not count]
            if complete:
                self.idle[key] = idle
        for parameter in idle:
            parameter.grad = None
        self.touched = set()
        meet_on_the_host(self.world, self.parameters[0])


class _Touch(torch.autograd.Function):
    """The loss as it is; every parameter behind it gets a gradient of zero."""

    @staticmethod
    def forward(ctx, loss: Tensor, *parameters: Tensor) -> Tensor:
        ctx.parameters = parameters
        return loss.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, ...]:
        return gradient, *(torch.zeros_like(parameter) for parameter in ctx.parameters)


def leaves(loss: Tensor) -> set[Tensor]:
    """The parameters that a backward of `loss` reaches."""
    found, seen, todo = set(), set(), [loss.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(node.variable)
        todo += [following for following, _ in node.next_functions]
    return found


class Sharded(Exchange):
    """Every process has a part of each weight (FSDP2); `shard` has cut the model.

    Gradients add up whole during a step and are reduced to the parts in the last pass. Weights travel in
    every pass, so all processes must run equally many.
    """

    even_passes = True

    def __init__(self, model: nn.Module, world: World, *, forward: Callable | None = None) -> None:
        super().__init__(model)
        self.run, self.world = forward or model, world

    @contextmanager
    def one_pass(self, *, last: bool) -> Iterator[None]:
        self.model.set_requires_gradient_sync(last)
        with self.world.watching():
            yield

    def closed(self, loss: Tensor) -> Tensor:
        self.world.reach("the exchange of gradients")
        return loss

    def finish(self, levels: Sequence[int], *, complete: bool = True) -> None:
        meet_on_the_host(self.world, next(self.model.parameters()))


def meet_on_the_host(world: World, parameter: Tensor) -> None:
    """On a GPU the exchange of gradients goes on while the process does; it would wait in vain where no
    message can name who is missing. So the processes meet once more when all of them have begun it.
    """
    if parameter.is_cuda:
        world.sum([1.0])


def shard(model: nn.Module) -> nn.Module:
    """Cut every block's weights, and all others together, over the processes; before optimizers are made."""
    for block in model.blocks:
        fully_shard(block)
    return fully_shard(model)


def build_exchange(model: nn.Module, world: World, *, forward: Callable | None = None) -> Exchange:
    """What the model's way of being trained is, by the processes and by whether `shard` has cut it."""
    if world.size == 1:
        alone = Exchange(model)
        alone.run = forward or model
        return alone
    kind = Sharded if is_sharded(model) else DataParallel
    return kind(model, world, forward=forward)


def is_sharded(model: nn.Module) -> bool:
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def whole(state: Any) -> Any:
    """A state dict with every tensor whole, on the CPU. All processes call it, in the same order."""
    if isinstance(state, DTensor):
        return state.full_tensor().cpu()
    if isinstance(state, dict):
        return {key: whole(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(whole(value) for value in state)
    return state


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """The model's weights for a file, whole, on the CPU. All processes call it; rank 0 gets them."""
    if not is_sharded(model):
        return {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def cut(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Whole weights as this model holds them: the parts of this process where it is sharded."""
    return {name: cut_like(state[name], ours) for name, ours in model.state_dict().items()}


def cut_like(tensor: Any, ours: Tensor) -> Any:
    """A whole tensor cut as `ours` is, where it is of the same shape."""
    fits = isinstance(ours, DTensor) and isinstance(tensor, Tensor) and tensor.shape == ours.shape
    return distribute_tensor(tensor, ours.device_mesh, ours.placements) if fits else tensor


def refuse_what_cannot_be_sharded(*, optimizer: str, ema: float, grow_share: float, eval_period: int) -> None:
    """Parts of the training that need whole weights."""
    for key, on, off in (
        ("solver.optimizer", optimizer == "muon", "adamw"),
        ("solver.ema", ema > 0, "0"),
        ("revit.grow_share", grow_share > 0, "0"),
        ("solver.eval_period", eval_period > 0, "0"),
    ):
        if on:
            raise InputError(
                f"{key} needs whole weights, which distributed.strategy=fsdp cuts into parts; "
                f"set {key}={off} or distributed.strategy=ddp"
            )
