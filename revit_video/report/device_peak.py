"""How fast a device could multiply at best: what model FLOPs utilisation (MFU) is measured against."""

from __future__ import annotations

import statistics
import time

import torch

# Dense bfloat16 (older: float16) with float32 sums, in 1e12 operations per second, from the makers' data
# sheets. The first name that a device's contains counts.
TENSOR_CORES = {
    "B200": 2250.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "A100": 312.0,
    "A30": 165.0,
    "A10G": 70.0,
    "A10": 125.0,
    "A40": 150.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "V100": 125.0,
    "T4": 65.0,
    "RTX 4090": 165.0,
    "RTX 3090": 71.0,
}
SIDE = {"cpu": 1024, "cuda": 8192}  # of the square matrices that are multiplied


def peak_flops(device: torch.device, dtype: torch.dtype, *, given: float = 0.0) -> float:
    """Operations per second, a multiply-add being two. `given` wins; then the data sheet of a known GPU in a
    16-bit type; else the best that a large matrix product reaches here and now.
    """
    if given:
        return given
    if device.type == "cuda" and dtype in (torch.bfloat16, torch.float16):
        name = torch.cuda.get_device_name(device)
        known = next((peak for part, peak in TENSOR_CORES.items() if part in name), None)
        if known:
            return known * 1e12
    return measured_flops(device, dtype)


@torch.no_grad()
def measured_flops(device: torch.device, dtype: torch.dtype, *, repeats: int = 3) -> float:
    """Of a product of two large matrices, the median; draws no random numbers."""
    side = SIDE.get(device.type, 1024)
    a = torch.full((side, side), 0.5, device=device, dtype=dtype)
    took = []
    for _ in range(1 + repeats):
        synchronize(device)
        began = time.perf_counter()
        a @ a
        synchronize(device)
        took.append(time.perf_counter() - began)
    return 2 * side**3 / statistics.median(took[1:])


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
