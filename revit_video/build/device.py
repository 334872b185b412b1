"""Where and how a run computes."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import torch

from revit_video.config import Config
from revit_video.stages.job import Device
from revit_video.train.world import World
from revit_video.transform import normalise
from revit_video.types import InputError


def build_device(config: Config, world: World | None = None) -> Device:
    """`auto` is the first GPU, else the CPU; dtype `auto` is bfloat16 where the device multiplies it
    natively. Of several processes each has a GPU of its own.
    """
    world = world or World()
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    device = torch.device(device_name(config))
    if device.type == "cuda" and world.size > 1:
        device = own_gpu(device, world)
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    dtype = dtypes.get(config.dtype) or (torch.bfloat16 if has_native_bfloat16(device) else torch.float32)
    half = partial(torch.autocast, device.type, dtype=dtype)

    def to_clips(clips, dtype=torch.float32):
        data = config.data
        order = data.channel_order
        return normalise(
            clips.to(device, non_blocking=True),
            mean=data.mean,
            std=data.std,
            channel_order=order,
            dtype=dtype,
        )

    return Device(device, dtype, nullcontext if dtype == torch.float32 else half, to_clips, world)


def device_name(config: Config) -> str:
    """cpu, cuda or cuda:N."""
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device is {name!r}, but torch sees no GPU here; use device=cpu or device=auto")
    return name


def own_gpu(device: torch.device, world: World) -> torch.device:
    """The GPU of this process: the one with its number on this machine."""
    there = torch.cuda.device_count()
    if device.index is not None or world.local_rank >= there:
        raise InputError(
            f"device is {str(device)!r} for process {world.local_rank} of this machine, which has {there} "
            "GPUs; every process takes one of its own: start as many as there are GPUs, with device=cuda"
        )
    own = torch.device("cuda", world.local_rank)
    torch.cuda.set_device(own)
    return own


def has_native_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 matrix products are faster than float32 ones there, by the instructions the device
    has.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
