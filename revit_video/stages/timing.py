"""Wall time of a trained recognizer: do the saved multiply-adds become saved seconds?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from revit_video.report.throughput import interleave
from revit_video.routing.router import AssignerRouter, run_at_levels
from revit_video.stages.job import EvalJob


@torch.inference_mode()
def time_lengths(
    router: AssignerRouter,
    clips: Tensor,
    *,
    assigner_gmacs: float,
    batch_size: int,
    warmup: int = 1,
    repeats: int = 3,
) -> dict:
    """Clips per second of every length and of the assigner's choice, on the same clips, in turns in one
    process.

    `follows` is the speed-up over the longest length divided by what the multiply-adds promise on these very
    clips, the assigner's among them.
    """
    timings = interleave(
        timed_functions(router, clips, batch_size=batch_size),
        items=len(clips),
        warmup=warmup,
        repeats=repeats,
    )
    rate = {name: timing.items_per_s for name, timing in timings.items()}
    seen = {"clips_per_s": rate, "num_clips": len(clips), "batch_size": batch_size}
    if router.assigner is None:
        return seen
    lengths = router.backbone.token_lengths
    mean = torch.tensor(router.costs)[router.levels(clips).cpu()].mean().item() + assigner_gmacs
    speed_up, promised = rate["adaptive"] / rate[lengths[0]], router.costs[0] / mean
    return {**seen, "speed_up": speed_up, "gmacs_ratio": promised, "follows": speed_up / promised}


def timed_functions(
    router: AssignerRouter, clips: Tensor, *, batch_size: int
) -> dict[int | str, Callable[[], object]]:
    """What is timed: each fixed length and, where there is an assigner, it alone and the whole adaptive way
    (look, regroup, run, reorder).
    """

    def fixed(level: int) -> Callable[[], object]:
        levels = torch.full((len(clips),), level, device=clips.device)
        return lambda: run_at_levels(router.backbone, clips, levels, batch_size=batch_size)

    functions = {length: fixed(level) for level, length in enumerate(router.backbone.token_lengths)}
    if router.assigner is not None:
        functions["assigner"] = lambda: router.levels(clips, batch_size=batch_size)
        functions["adaptive"] = lambda: router(clips, batch_size=batch_size)
    return functions


def first_clips(evaluation: EvalJob, *, num_crops: int, limit: int) -> Tensor:
    """The first clips of a list, middle crops, ready for the model: (M, C, T, H, W) with M up to `limit`."""
    dataset, run = evaluation.dataset, evaluation.run
    clips: list[Tensor] = []
    for index in range(len(dataset)):
        item = dataset[(0, index)]
        if item.clips is not None:
            clips += item.clips[num_crops // 2 :: num_crops]
        if len(clips) >= limit:
            break
    return run.to_clips(torch.stack(clips[:limit]), dtype=run.dtype)
