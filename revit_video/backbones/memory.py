"""How much memory a training step of a backbone takes, found out without running it.

The model goes forward on torch's meta device, where tensors have sizes but no numbers, and every tensor that
autograd keeps for the backward pass is counted once, by its storage. Two things that do not happen there are
put in by hand: the kernel of attention, and autocast.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from revit_video.backbones.core import ReViT

# By torch's lists for autocast; what is in none of them runs in the type it is given.
IN_HALF = {
    F.linear,
    F.conv2d,
    F.conv3d,
    torch.matmul,
    torch.bmm,
    torch.einsum,
    Tensor.matmul,
    Tensor.__matmul__,
}
IN_FLOAT = {F.layer_norm, torch.layer_norm, F.softmax, torch.softmax, Tensor.softmax}
FLOAT = 4  # bytes


@dataclass(frozen=True)
class StepMemory:
    """Bytes at the peak of a training step on one device. Not counted: what torch, its libraries and the
    driver take for themselves, and gaps between blocks.

    The backward pass frees activations while it makes gradients; `passing` are those of activations and what
    the operations need on the way.
    """

    weights: int
    gradients: int
    optimizer: int
    averaged: int
    activations: int
    passing: int

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))


def step_memory(
    model: ReViT,
    *,
    clips: int,
    dtype: torch.dtype,
    optimizer: str,
    momentum: float = 0.9,
    ema: bool = False,
    recompute: bool = False,
    fused: bool = True,
    parts: int = 1,
) -> StepMemory:
    """Of a step that runs all levels one after the other; the one that keeps most counts.

    Args:
        model: on the meta device, in training mode.
        clips: of a forward pass.
        dtype: of autocast; float32: none.
        optimizer: sgd, adamw or muon.
        recompute: blocks keep their input alone (activation checkpointing).
        fused: attention is one kernel that keeps no scores.
        parts: of the weights, of which this device has one (FSDP).
    """
    weights = FLOAT * sum(p.numel() for p in model.parameters())
    matrices = FLOAT * sum(p.numel() for block in model.blocks for p in block.parameters() if p.ndim == 2)
    states = {"sgd": weights * (momentum > 0), "adamw": 2 * weights, "muon": 2 * weights - matrices}
    kept, largest = max(
        saved_bytes(model, level, clips=clips, dtype=dtype, recompute=recompute, fused=fused)
        for level in range(model.num_levels)
    )
    return StepMemory(
        weights=weights // parts,
        gradients=weights // parts if parts == 1 else weights,  # whole until the last pass
        optimizer=states[optimizer] // parts,
        averaged=weights * ema,
        activations=kept,
        passing=4 * largest,
    )


class FusedAttention(torch.autograd.Function):
    """What F.scaled_dot_product_attention keeps, where it is one kernel."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        per_query = q.new_empty(q.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(q, k, v, out, per_query)
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(x) for x in ctx.saved_tensors[:3])


class PlainAttention(torch.autograd.Function):
    """What two matrix products with a softmax between them keep."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, v, q.new_empty(*q.shape[:-1], k.shape[-2]))
        return q.new_empty(*q.shape[:-1], v.shape[-1])

    backward = FusedAttention.backward


class AsOnDevice(TorchFunctionMode):
    """The kernel of attention, and autocast to `dtype` (float32: none), for tensors without numbers."""

    def __init__(self, dtype: torch.dtype, *, fused: bool) -> None:
        super().__init__()
        self.dtype, self.cast = dtype, {}
        self.attention = FusedAttention if fused else PlainAttention

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ):
        kwargs = kwargs or {}
        half = self.dtype != torch.float32
        if function is F.scaled_dot_product_attention:
            q, k, v = (self.to(x, self.dtype) for x in args[:3])
            return self.attention.apply(q, k, v)
        if half and function in IN_HALF:
            args = tuple(self.to(x, self.dtype) for x in args)
            kwargs = {name: self.to(x, self.dtype) for name, x in kwargs.items()}
        elif half and function in IN_FLOAT:
            args = tuple(self.to(x, torch.float32) for x in args)
        return function(*args, **kwargs)

    def to(self, x: Any, dtype: torch.dtype) -> Any:
        """A tensor in this type; a weight is cast once, and the copy kept."""
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.dtype == dtype:
            return x
        if isinstance(x, nn.Parameter):
            return self.cast.setdefault((id(x), dtype), x.to(dtype))
        return x.to(dtype)


def saved_bytes(
    model: ReViT,
    level: int,
    *,
    clips: int,
    dtype: torch.dtype = torch.float32,
    recompute: bool = False,
    fused: bool = True,
) -> tuple[int, int]:
    """Bytes that a forward pass keeps for the backward pass, weights not counted, and the largest tensor of
    them. Arguments as of `step_memory`.
    """
    seen: dict[int, tuple[int, int]] = {}  # storage -> its bytes and the block, -1 outside
    weights = {p.untyped_storage()._cdata for p in model.parameters()}
    alive: list[Any] = []  # so that no two storages get one address
    inputs: list[int] = []
    current = [-1]

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            seen.setdefault(storage._cdata, (storage.nbytes(), current[0]))
        alive.append(tensor)
        return tensor

    def enter(block: nn.Module, args: tuple) -> None:
        current[0] += 1
        inputs.append(args[0].numel() * args[0].element_size())

    blocks = list(model.blocks)
    handles = [block.register_forward_pre_hook(enter) for block in blocks]
    handles.append(blocks[-1].register_forward_hook(lambda *_: current.__setitem__(0, -1)))
    clip = torch.empty(clips, 3, model.num_frames, *model.crop, device="meta")
    try:
        kernels = AsOnDevice(dtype, fused=fused)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), kernels:
            alive.append(model(clip, level, full_output=True))
    finally:
        for handle in handles:
            handle.remove()
    largest = max(size for size, _ in seen.values())
    if not recompute:
        return sum(size for size, _ in seen.values()), largest
    of_block = [sum(size for size, owner in seen.values() if owner == i) for i in range(len(blocks))]
    outside = sum(size for size, owner in seen.values() if owner == -1)
    return outside + sum(inputs) + max(of_block), largest
