"""What moves while a network is trained, and its checkpoints: a killed run goes on where it stopped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from revit_video.backbones.core import ReViT
from revit_video.train.checkpoint import load_checkpoint, load_weights, save_checkpoint
from revit_video.train.log import RunLog


@dataclass
class Training:
    """Everything a step changes. `averaged` is the model itself where no average is kept; `moving` are
    optimizers and schedules, in an order of their own.
    """

    model: ReViT
    averaged: torch.nn.Module
    moving: Sequence[Any]

    @property
    def networks(self) -> dict[str, torch.nn.Module]:
        return {"model": self.model, "ema": self.averaged}

    def grow(self, level: int) -> None:
        """All levels start from this one, in every network."""
        for network in {id(network): network for network in self.networks.values()}.values():
            network.grow(level)

    def state(self) -> dict[str, Any]:
        state = {name: network.state_dict() for name, network in self.networks.items()}
        return state | {
            "moving": [part.state_dict() for part in self.moving],
            "rng": torch.get_rng_state(),
        }

    def load(self, state: dict[str, Any], *, source: Path) -> None:
        for name, network in self.networks.items():
            load_weights(network, state[name], source=source)
        for part, saved in zip(self.moving, state["moving"], strict=True):
            part.load_state_dict(saved)
        torch.set_rng_state(state["rng"])


@dataclass(frozen=True)
class ProgressFolder:
    """The checkpoints of an unfinished run."""

    path: Path

    def save(self, training: Training, step: int) -> None:
        save_checkpoint({"kind": "progress", "step": step, **training.state()}, self.path)

    def resume(self, training: Training, log: RunLog) -> int:
        """Load the newest checkpoint, if there is one; the step to go on from."""
        if not self.path.exists():
            return 0
        state = load_checkpoint(self.path, kind="progress")
        training.load(state, source=self.path)
        log.say(f"going on from step {state['step']} of {self.path.name}")
        return state["step"]

    def clear(self) -> None:
        self.path.unlink(missing_ok=True)
