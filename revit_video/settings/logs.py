"""Settings of what a run writes down while it works."""

from __future__ import annotations

import math
from dataclasses import dataclass

from revit_video.settings.checks import within


@dataclass(frozen=True)
class LogConfig:
    wandb: str = ""  # project at Weights & Biases; "": not used
    peak_tflops: float = 0.0  # 1e12 operations per second of a device, for MFU; 0: known or measured

    def __post_init__(self) -> None:
        within(self, 0, math.inf, "peak_tflops")
