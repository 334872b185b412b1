"""The one training loop. It knows batches, gradients and steps, but not what is learnt: that is the step
function's.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn

from revit_video.train.log import RunLog
from revit_video.types import InputError

MAX_NONFINITE_STEPS = 10  # in a run; above it, training has diverged and going on wastes the machine


def fit(
    model: nn.Module,
    batches: Iterable,
    step: Callable[[int, object], dict[str, float]],
    *,
    optimizers: Sequence[torch.optim.Optimizer],
    schedules: Sequence[torch.optim.lr_scheduler.LRScheduler],
    total_steps: int,
    log: RunLog,
    stage: str,
    start_step: int = 0,
    clip_grad: float = 0.0,
    after_step: Callable[[int], None] = lambda done: None,
    log_period: int = 10,
) -> None:
    """Run `step(number, batch)` for each batch; it does forward and backward and returns numbers to log
    (`loss` among them).

    The loop owns zeroing, clipping, optimizer and schedule. `after_step(done)` is for what follows a step:
    averaging the weights, checkpoints, early evaluation. A step whose loss or gradient is not finite is
    skipped and counted.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    skipped = 0
    model.train()
    with log.progress(stage, total_steps, start=start_step) as line:
        for number, batch in enumerate(batches, start=start_step):
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            report = step(number, batch)
            norm = nn.utils.clip_grad_norm_(parameters, clip_grad if clip_grad else float("inf"))
            if torch.isfinite(norm):
                for optimizer in optimizers:
                    optimizer.step()
            else:
                skipped += 1
                log.say(
                    f"step {number}: the gradient is {norm.item()}, the step is skipped ({skipped} so far)"
                )
                if skipped > MAX_NONFINITE_STEPS:
                    raise InputError(
                        f"{skipped} steps with a gradient that is not finite; lower solver.base_lr "
                        "or set solver.clip_grad"
                    )
            report |= {"lr": optimizers[-1].param_groups[0]["lr"], "grad_norm": norm.item()}
            for schedule in schedules:
                schedule.step()
            if number % log_period == 0 or number == total_steps - 1:
                log.scalars(stage, number, report)
            line.advance(note=f"loss {report['loss']:.3f}")
            after_step(number + 1)
