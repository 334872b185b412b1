"""The one training loop. It knows batches, gradients and steps, but not what is learnt: that is the step
function's.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.distributed.tensor import DTensor

from revit_video.train.log import RunLog
from revit_video.train.meter import Meter, in_short
from revit_video.train.world import World
from revit_video.types import InputError


def fit(
    model: nn.Module,
    batches: Iterable,
    step: Callable[[int, object], Mapping[str, Tensor | float]],
    *,
    optimizers: Sequence[torch.optim.Optimizer],
    schedules: Sequence[torch.optim.lr_scheduler.LRScheduler],
    total_steps: int,
    log: RunLog,
    stage: str,
    start_step: int = 0,
    clip_grad: float = 0.0,
    scaler: GradScaler | None = None,
    max_skipped: int = 10,
    skipped: Skipped | None = None,
    after_step: Callable[[int], None] = lambda done: None,
    name_batch: Callable[[object], str] = lambda batch: "",
    world: World | None = None,
    meter: Meter | None = None,
    log_period: int = 10,
) -> None:
    """Run `step(number, batch)` for each batch; it does forward and backward and returns sums over the clips
    of this process: `clips` (how many), `loss`, and whatever else is to be logged as a mean per clip. Its
    backward is that of `loss_backward(scaler)`.

    The loop owns zeroing, clipping, optimizer and schedule. `after_step(done)` is for what follows a step:
    averaging the weights, checkpoints, early evaluation. A step whose loss or gradient is not finite is
    skipped as if it had not been, on all processes, and its batch is named by `name_batch`. `skipped` counts
    them, where a run goes on that has skipped some.

    Raises:
        InputError: more than `max_skipped` steps had to be skipped.
    """
    world, meter = world or World(), meter or Meter()
    log.resume(stage, start_step)
    parameters = [p for p in model.parameters() if p.requires_grad]
    statistics, skipped = Statistics(model), skipped or Skipped(max_skipped, world, log)
    model.train()
    with log.progress(stage, total_steps, start=start_step) as line:
        note = ""
        for number, batch in enumerate(meter.waiting_for(batches), start=start_step):
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            statistics.keep()
            sums = step(number, batch)
            moving = [optimizer for optimizer in optimizers if has_gradient(optimizer)]
            norm = gradient_norm(parameters, moving, clip_grad=clip_grad, scaler=scaler)
            lr = max(group["lr"] for group in optimizers[-1].param_groups)
            if math.isfinite(norm):
                meter.add(sums)
                take_step(moving, scaler)
            else:
                statistics.restore()
                skipped.note(number, norm, sums.get("loss", 0.0), name_batch(batch), scaler)
            advance(schedules)
            if number % log_period == 0 or number == total_steps - 1:
                report = meter.read(world) | {"lr": lr, "grad_norm": norm, "skipped_steps": skipped.count}
                if scaler is not None:
                    report |= {"loss_scale": scaler.get_scale()}
                log.scalars(stage, number, report)
                note = in_short(report)
            line.advance(note=note)
            after_step(number + 1)


def loss_backward(scaler: GradScaler | None = None) -> Callable[[Tensor], None]:
    """The backward pass of a loss, scaled where gradients are float16.

    A loss that is not finite may have finite gradients, or have them hidden among those of other lengths. It
    makes all that it reaches NaN here, without waiting for the device; the exchange of gradients tells the
    other processes. A finite loss is multiplied by one, which changes no bit.
    """

    def backward(loss: Tensor) -> None:
        loss = loss * (1.0 + 0.0 * loss.detach())
        (loss if scaler is None else scaler.scale(loss)).backward()

    return backward


def has_gradient(optimizer: torch.optim.Optimizer) -> bool:
    return any(p.grad is not None for group in optimizer.param_groups for p in group["params"])


def gradient_norm(
    parameters: Sequence[nn.Parameter],
    moving: Sequence[torch.optim.Optimizer],
    *,
    clip_grad: float,
    scaler: GradScaler | None,
) -> float:
    """The norm of all gradients, as it was before it is clipped to `clip_grad` (0: left alone), unscaled."""
    if scaler is not None:
        for optimizer in moving:
            scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(parameters, clip_grad if clip_grad else float("inf"))
    return (norm.full_tensor() if isinstance(norm, DTensor) else norm).item()


def take_step(moving: Sequence[torch.optim.Optimizer], scaler: GradScaler | None) -> None:
    for optimizer in moving:
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
    if scaler is not None and moving:
        scaler.update()


def advance(schedules: Iterable[torch.optim.lr_scheduler.LRScheduler]) -> None:
    """A skipped step counts for the learning rate; torch warns where the very first one was skipped."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
        for schedule in schedules:
            schedule.step()


class Skipped:
    """The steps whose loss or gradient was not finite. advice: what to try where they are too many."""

    def __init__(
        self,
        limit: int,
        world: World,
        log: RunLog,
        *,
        advice: str = "lower solver.base_lr or set solver.clip_grad",
    ) -> None:
        self.limit, self.world, self.log, self.advice, self.count = limit, world, log, advice, 0

    def note(
        self, number: int, norm: float, loss: Tensor | float, names: str, scaler: GradScaler | None
    ) -> None:
        """Count and tell a step; all processes come here together.

        In float16 a gradient above 65504 says that the scale was too large: it is halved, and that is no
        divergence while there is a scale to halve and the losses were finite.
        """
        seen = self.world.gather((float(loss), names))
        losses = [loss for loss, _ in seen]
        if scaler is not None:
            overflow = all(map(math.isfinite, losses)) and scaler.get_scale() > 1
            scaler.update(scaler.get_scale() * (scaler.get_backoff_factor() if overflow else 1.0))
            if overflow:
                return
        self.count += 1
        what = f"the gradient is {norm}"
        if not all(map(math.isfinite, losses)):
            what = f"the loss is {next(loss for loss in losses if not math.isfinite(loss))}"
        listed = "; ".join(filter(None, (names for _, names in seen)))
        self.log.say(
            f"step {number}: {what}, the step is skipped ({self.count} so far)"
            + f"; its videos: {listed}" * bool(listed)
        )
        if self.count > self.limit:
            raise InputError(
                f"{self.count} steps with a loss or gradient that is not finite, more than "
                f"solver.max_skipped_steps={self.limit} allows; {self.advice}"
            )


class Statistics:
    """What a forward pass changes: the running statistics of batch normalisation, as they were before."""

    def __init__(self, model: nn.Module) -> None:
        norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        self.now = [buffer for norm in norms for buffer in norm.buffers()]
        self.before = [buffer.clone() for buffer in self.now]

    def keep(self) -> None:
        for before, now in zip(self.before, self.now, strict=True):
            before.copy_(now)

    def restore(self) -> None:
        for before, now in zip(self.before, self.now, strict=True):
            now.copy_(before)
