"""Where and how a run computes."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import torch

from revit_video.config import Config
from revit_video.stages.job import Device
from revit_video.transform import normalise
from revit_video.types import InputError


def build_device(config: Config) -> Device:
    """`auto` is the first GPU, else the CPU; dtype `auto` is bfloat16 where the device multiplies it
    natively.
    """
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device is {name!r}, but torch sees no GPU here; use device=cpu or device=auto")
    device = torch.device(name)
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    dtype = dtypes.get(config.dtype) or (torch.bfloat16 if has_native_bfloat16(device) else torch.float32)
    half = partial(torch.autocast, device.type, dtype=torch.bfloat16)

    def to_clips(clips, dtype=torch.float32):
        data = config.data
        order = data.channel_order
        return normalise(clips.to(device), mean=data.mean, std=data.std, channel_order=order, dtype=dtype)

    return Device(device, dtype, half if dtype == torch.bfloat16 else nullcontext, to_clips)


def has_native_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 matrix products are faster than float32 ones there, by the instructions the device
    has.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
