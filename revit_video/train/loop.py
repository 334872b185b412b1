"""The one training loop. It knows batches, gradients and steps, but not what is learnt: that is the step
function's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from revit_video.train.log import RunLog
from revit_video.train.meter import Meter
from revit_video.train.world import World
from revit_video.types import InputError

MAX_NONFINITE_STEPS = 10  # in a run; above it, training has diverged and going on wastes the machine


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
    after_step: Callable[[int], None] = lambda done: None,
    name_batch: Callable[[object], str] = lambda batch: "",
    world: World | None = None,
    log_period: int = 10,
) -> None:
    """Run `step(number, batch)` for each batch; it does forward and backward and returns sums over the clips
    of this process: `clips` (how many), `loss`, and whatever else is to be logged as a mean per clip.

    The loop owns zeroing, clipping, optimizer and schedule. `after_step(done)` is for what follows a step:
    averaging the weights, checkpoints, early evaluation. A step whose gradient is not finite is skipped,
    counted and named by `name_batch`.
    """
    world, meter = world or World(), Meter()
    parameters = [p for p in model.parameters() if p.requires_grad]
    skipped = 0
    model.train()
    with log.progress(stage, total_steps, start=start_step) as line:
        note = ""
        for number, batch in enumerate(meter.waiting_for(batches), start=start_step):
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            meter.add(step(number, batch))
            norm = nn.utils.clip_grad_norm_(parameters, clip_grad if clip_grad else float("inf"))
            if torch.isfinite(norm):
                for optimizer in optimizers:
                    optimizer.step()
            else:
                skipped += 1
                names = "; ".join(filter(None, world.gather(name_batch(batch))))
                log.say(
                    f"step {number}: the gradient is {norm.item()}, the step is skipped ({skipped} so far)"
                    + f"; its videos: {names}" * bool(names)
                )
                if skipped > MAX_NONFINITE_STEPS:
                    raise InputError(
                        f"{skipped} steps with a gradient that is not finite; lower solver.base_lr "
                        "or set solver.clip_grad"
                    )
            lr = optimizers[-1].param_groups[0]["lr"]
            for schedule in schedules:
                schedule.step()
            if number % log_period == 0 or number == total_steps - 1:
                report = meter.read(world) | {"lr": lr, "grad_norm": norm.item()}
                log.scalars(stage, number, report)
                note = f"loss {report.get('loss', float('nan')):.3f}"
            line.advance(note=note)
            after_step(number + 1)
