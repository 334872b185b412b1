"""Wall time of a trained recognizer: do the saved multiply-adds become saved seconds?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice

import torch
from torch import Tensor, nn

from revit_video.backbones.core import ReViT
from revit_video.report.throughput import interleave
from revit_video.routing.router import Router, run_at_levels
from revit_video.stages.job import EvalJob


@torch.inference_mode()
def time_lengths(
    backbone: ReViT,
    clips: Tensor,
    *,
    assigner: nn.Module | None = None,
    routers: Mapping[str, Router] | None = None,
    batch_size: int,
    warmup: int = 1,
    repeats: int = 3,
) -> dict:
    """Clips per second of every length and of every router, on the same clips, in turns in one process.

    `follows` is the speed-up of the router called `adaptive` over the longest length divided by what the
    multiply-adds promise on these very clips, the assigner's and those of every pass among them.
    """
    routers = routers or {}
    functions = timed_functions(backbone, clips, assigner=assigner, routers=routers, batch_size=batch_size)
    timings = interleave(functions, items=len(clips), warmup=warmup, repeats=repeats)
    rate = {name: timing.items_per_s for name, timing in timings.items()}
    seen = {"clips_per_s": rate, "num_clips": len(clips), "batch_size": batch_size}
    if "adaptive" not in routers:
        return seen
    adaptive = routers["adaptive"]
    mean = adaptive(clips, batch_size=batch_size).gmacs.mean().item()
    speed_up, promised = rate["adaptive"] / rate[backbone.token_lengths[0]], adaptive.costs[0] / mean
    return {**seen, "speed_up": speed_up, "gmacs_ratio": promised, "follows": speed_up / promised}


def timed_functions(
    backbone: ReViT,
    clips: Tensor,
    *,
    assigner: nn.Module | None,
    routers: Mapping[str, Router],
    batch_size: int,
) -> dict[int | str, Callable[[], object]]:
    """What is timed: each fixed length and, where there is an assigner, it alone, and each router (look,
    regroup, run, reorder).
    """

    def fixed(level: int) -> Callable[[], object]:
        levels = torch.full((len(clips),), level, device=clips.device)
        return lambda: run_at_levels(backbone, clips, levels, batch_size=batch_size)

    functions = {length: fixed(level) for level, length in enumerate(backbone.token_lengths)}
    if assigner is not None:
        functions["assigner"] = lambda: [assigner(part) for part in clips.split(batch_size)]
    return functions | {
        name: partial(router, clips, batch_size=batch_size) for name, router in routers.items()
    }


def each_clip(evaluation: EvalJob, *, num_crops: int, limit: int) -> Iterator[Tensor]:
    """The first clips of a list, middle crops, one after the other as they are decoded: up to `limit` of
    uint8 (T, C, H, W).
    """

    def clips() -> Iterator[Tensor]:
        for index in range(len(evaluation.dataset)):
            item = evaluation.dataset[(0, index)]
            if item.clips is not None:
                yield from item.clips[num_crops // 2 :: num_crops]

    return islice(clips(), limit)


def first_clips(evaluation: EvalJob, *, num_crops: int, limit: int) -> Tensor:
    """The same ready for the model: (M, C, T, H, W)."""
    clips = torch.stack(list(each_clip(evaluation, num_crops=num_crops, limit=limit)))
    return evaluation.run.to_clips(clips, dtype=evaluation.run.dtype)
