"""Speed of a recognizer in all the ways it can run, on the same clips, in turns in one process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from revit_video.backbones.core import ReViT
from revit_video.report.peak_memory import peak_bytes
from revit_video.report.throughput import Way, flows
from revit_video.routing.buckets import run_bucketed
from revit_video.routing.router import Router

ADAPTIVE = {"bucketed": "adaptive, bucketed", "arrival": "adaptive, in order of arrival"}


@dataclass
class SpeedJob:
    """What is timed.

    model: in evaluation mode on its device. router: None: the fixed lengths alone.
    clips: gives the clips (C, T, H, W), normalised and on the device, anew at each call; what it does for
        that (decoding) is inside the time.
    levels: fixed lengths that are timed.
    """

    model: ReViT
    router: Router | None
    costs: Sequence[float]  # GMACs of a clip at each level
    clips: Callable[[], Iterable[Tensor]]
    batch_size: int
    levels: Sequence[int]
    warmup: int = 1
    repeats: int = 3
    protocol: dict = field(default_factory=dict)


@torch.inference_mode()
def measure(job: SpeedJob) -> dict:
    """Rows of every way, each with the rate, the time of a clip, memory and cost; ratios are to the longest
    length in batches of the same size.

    `ms_p50` and `ms_p95` are from asking for a clip until its logits are there: a clip waits for its batch,
    and in the queues of `bucketed` for others of its length. `peak_mb` is on top of weights and clips.
    """
    ways = {(name, size): way for size in sizes(job) for name, way in ways_of(job, size).items()}
    memory = {at: peak_bytes(partial(run_through, way, job.clips), device(job)) for at, way in ways.items()}
    timed = flows(ways, job.clips, warmup=job.warmup, repeats=job.repeats)
    costs = {fixed_name(job, level): job.costs[level] for level in job.levels}
    if job.router is not None:
        mean = mean_gmacs(job)
        costs |= dict.fromkeys(ADAPTIVE.values(), mean)
    rows = []
    for (name, size), flow in timed.items():
        longest = timed[fixed_name(job, 0), size].items_per_s
        speed_up, promised = flow.items_per_s / longest, job.costs[0] / costs[name]
        seen = asdict(flow)
        rows.append(
            {
                "what": name,
                "batch_size": size,
                "clips_per_s": seen.pop("items_per_s"),
                **seen,
                "peak_mb": memory[name, size] / 1e6,
                "gmacs": costs[name],
                "speed_up": speed_up,
                "gmacs_ratio": promised,
                "follows": speed_up / promised,
            }
        )
    count = sum(1 for _ in job.clips())
    return {"rows": rows, "num_clips": count, "repeats": job.repeats, **job.protocol}


def sizes(job: SpeedJob) -> list[int]:
    return sorted({job.batch_size, 1}, reverse=True)


def device(job: SpeedJob) -> torch.device:
    return next(job.model.parameters()).device


def fixed_name(job: SpeedJob, level: int) -> str:
    length = job.model.token_lengths[level]
    return f"{length}x{length}"


def ways_of(job: SpeedJob, size: int) -> dict[str, Way]:
    """The ways to run clips in batches of this size."""

    def fixed(level: int) -> Way:
        return partial(in_batches, lambda clips: job.model(clips, level), size=size)

    ways = {fixed_name(job, level): fixed(level) for level in job.levels}
    if job.router is None:
        return ways
    ways[ADAPTIVE["arrival"]] = partial(in_batches, job.router, size=size)
    if size > 1:  # a queue of one is the order of arrival
        ways[ADAPTIVE["bucketed"]] = partial(in_queues, job.router, size=size)
    return ways


def in_batches(run: Callable[[Tensor], object], clips: Iterator[Tensor], *, size: int) -> Iterator[int]:
    while part := list(islice(clips, size)):
        run(torch.stack(part))
        yield len(part)


def in_queues(router: Router, clips: Iterator[Tensor], *, size: int) -> Iterator[int]:
    for _ in run_bucketed(router, (clip[None] for clip in clips), batch_size=size):
        yield 1


def run_through(way: Way, clips: Callable[[], Iterable[Tensor]]) -> None:
    for _ in way(iter(clips())):
        pass


def mean_gmacs(job: SpeedJob) -> float:
    """Of a clip of the router's, its look among them."""
    clips, spent = iter(job.clips()), []
    while part := list(islice(clips, job.batch_size)):
        spent.append(job.router(torch.stack(part)).gmacs)
    return torch.cat(spent).mean().item()
