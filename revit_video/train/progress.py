"""What moves while a network is trained, and its checkpoints: a killed run goes on where it stopped."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from revit_video.backbones.core import ReViT
from revit_video.train.checkpoint import PARTIAL, BrokenFile, load_checkpoint, load_weights, save_checkpoint
from revit_video.train.log import RunLog
from revit_video.train.loop import Skipped
from revit_video.train.parallel import cut, cut_like, is_sharded, whole, whole_weights
from revit_video.train.world import World
from revit_video.types import InputError

STEP_FILE = re.compile(r"step_(\d{8,})\.pt")


@dataclass
class Training:
    """Everything a step changes. `averaged` is the model itself where no average is kept.

    The position in the stream of batches is a function of the step, and data sets seed their own draws. What
    is drawn from torch's own generators (stochastic depth) goes on from their state; Python's and NumPy's are
    not drawn from.
    """

    model: ReViT
    averaged: nn.Module
    optimizers: Sequence[Optimizer]
    schedules: Sequence[LRScheduler]
    skipped: Skipped
    scaler: GradScaler | None = None

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Each of them once."""
        average = {} if self.averaged is self.model else {"ema": self.averaged}
        return {"model": self.model} | average

    def grow(self, level: int) -> None:
        """All levels start from this one, in every network."""
        for network in self.networks.values():
            network.grow(level)

    def state(self, world: World) -> dict[str, Any]:
        """All of it, for a file: weights whole, wherever they lie, and every process's generators. All
        processes call it.
        """
        return {
            **{name: whole(network.state_dict()) for name, network in self.networks.items()},
            "optimizers": [whole(optimizer.state_dict()) for optimizer in self.optimizers],
            "schedules": [schedule.state_dict() for schedule in self.schedules],
            "scaler": self.scaler.state_dict() if self.scaler is not None else None,
            "skipped": self.skipped.count,
            "generators": world.gather(generator_states(self.device)),
        }

    def load(self, state: Mapping[str, Any], world: World, *, source: Path) -> None:
        """A process that was not there when the state was saved keeps its own generators."""
        for name, network in self.networks.items():
            weights = cut(state[name], network) if is_sharded(network) else state[name]
            load_weights(network, weights, source=source)
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(cut_moments(saved, optimizer))
        for schedule, saved in zip(self.schedules, state["schedules"], strict=True):
            schedule.load_state_dict(saved)
        if self.scaler is not None and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.skipped.count = state["skipped"]
        if world.rank < len(state["generators"]):
            set_generators(state["generators"][world.rank], self.device)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device


def generator_states(device: torch.device) -> dict[str, torch.Tensor]:
    """Of torch's own generators, on the CPU and on this process's GPU."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_generators(states: Mapping[str, torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def cut_moments(saved: dict[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """An optimizer's whole state as the parts that this process holds of its parameters."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = {
        number: {name: cut_like(value, parameters[number]) for name, value in values.items()}
        for number, values in saved["state"].items()
    }
    return {**saved, "state": moments}


@dataclass
class ProgressFolder:
    """The checkpoints of an unfinished run: `step_00000500.pt` and so on, the last `keep` of them. Beside
    them `best.pt`, the averaged weights with the best score so far, which outlasts the run.

    identity: what the files say of themselves: config, class names, versions.
    settings: by dotted keys, those in which a checkpoint and the run must agree.
    circumstances: what may change, but not without changing rounding, or which process draws what.
    """

    path: Path
    keep: int = 2
    identity: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    circumstances: Mapping[str, Any] = field(default_factory=dict)
    world: World = field(default_factory=World)
    best: dict[str, float] | None = None  # step and score of best.pt

    def file(self, step: int) -> Path:
        return self.path / f"step_{step:08d}.pt"

    def files(self) -> dict[int, Path]:
        """The checkpoints by their steps, newest first."""
        named = [(STEP_FILE.fullmatch(path.name), path) for path in self.path.glob("step_*.pt")]
        return dict(sorted(((int(match[1]), path) for match, path in named if match), reverse=True))

    def save(self, training: Training, step: int) -> Path:
        """After so many steps; all processes call it. A full disk keeps the checkpoints of before."""
        state = {
            "kind": "progress",
            "step": step,
            "best": self.best,
            "settings": dict(self.settings),
            "circumstances": self._now(training),
            **self.identity,
            **training.state(self.world),
        }
        self.world.from_main(lambda: self._write(state, step))
        return self.file(step)

    def _write(self, state: dict[str, Any], step: int) -> None:
        """The new one is there before an old one goes. Files of later steps were broken, or this run would
        have gone on from them.
        """
        save_checkpoint(state, self.file(step))
        kept = [number for number in self.files() if number <= step][: self.keep]
        for number, path in self.files().items():
            if number not in kept:
                path.unlink()

    def note_score(self, training: Training, step: int, score: float) -> None:
        """The higher, the better; the same in all processes, which all call it."""
        if self.best is not None and not score > self.best["score"]:
            return
        self.best = {"step": step, "score": score}
        state = {"kind": "revit", "model": whole_weights(training.averaged), **self.best, **self.identity}
        self.world.from_main(lambda: save_checkpoint(state, self.path / "best.pt"))

    def resume(self, training: Training, log: RunLog) -> int:
        """Load the newest whole checkpoint, if there are any; the step to go on from. All processes call it.

        Raises:
            InputError: all of them are broken, or of another run.
        """
        read: dict[str, Any] = {}

        def newest() -> str:
            path, state = self._newest(log)
            read.update(state)
            return path.name if path else ""

        name = self.world.from_main(newest)
        if not name:
            return 0
        state = read or load_checkpoint(self.path / name, kind="progress")
        self._refuse_another_run(state, self.path / name)
        training.load(state, self.world, source=self.path / name)
        self.best = state["best"]
        changed = [
            f"{key} was {state['circumstances'].get(key)}, now {value}"
            for key, value in self._now(training).items()
            if state["circumstances"].get(key) != value
        ]
        but = (
            f"; the result is not exactly that of a run without the stop: {', '.join(changed)}"
            if changed
            else ""
        )
        log.say(f"going on from step {state['step']} of {name}{but}")
        return state["step"]

    def _newest(self, log: RunLog) -> tuple[Path | None, dict[str, Any]]:
        """Called where files are written: what a kill left half written goes."""
        for partial in self.path.glob(f"*{PARTIAL}"):
            partial.unlink()
        broken: list[str] = []
        for path in self.files().values():
            try:
                state = load_checkpoint(path, kind="progress")
            except BrokenFile as error:
                broken.append(f"{path.name} ({error.reason})")
                continue
            if broken:
                log.say(f"not readable: {', '.join(broken)}; taking {path.name} in its place")
            return path, state
        if broken:
            raise InputError(
                f"no checkpoint in {self.path} can be read: {', '.join(broken)}; "
                "remove them to start from the beginning"
            )
        return None, {}

    def _refuse_another_run(self, state: Mapping[str, Any], path: Path) -> None:
        for key, value in self.settings.items():
            theirs = state["settings"].get(key, value)  # the key is new: it has its default
            if theirs != value:
                raise InputError(
                    f"{path} is of a run with {key}={theirs}, now it is {value}; "
                    "give another output_dir= or the same settings"
                )
        ours, theirs = (list(of.get("class_names", ())) for of in (self.identity, state))
        if ours != theirs:
            at = next((i for i, pair in enumerate(zip(ours, theirs, strict=False)) if len(set(pair)) > 1), -1)
            what = f"; number {at} was {theirs[at]!r}, now it is {ours[at]!r}" if at >= 0 else ""
            raise InputError(
                f"{path} is of a run with other classes: {len(theirs)}, now {len(ours)}{what}; "
                "give another output_dir= or the same lists"
            )

    def _now(self, training: Training) -> dict[str, Any]:
        made = {"processes": self.world.size, "device": training.device.type}
        return {**made, "torch": str(torch.__version__), **self.circumstances}

    def clear(self) -> None:
        """The run is through."""
        for path in [*self.files().values(), *self.path.glob(f"step_*{PARTIAL}")]:
            path.unlink()
