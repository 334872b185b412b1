"""How fast every point of a comparison is: in one process, in turns, warm, medians."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from revit_video.compare.points import level_names, title_of
from revit_video.compare.rows import EXITS, Row
from revit_video.competitors.early_exit import EarlyExit
from revit_video.report.peak_memory import peak_bytes
from revit_video.report.throughput import interleave
from revit_video.routing.router import Router
from revit_video.routing.stored import rules_at
from revit_video.stages.test import TestJob
from revit_video.stages.timing import first_clips

BATCHES, SINGLES = 2, 8  # of the batch's size, and of one clip, that a round runs


@torch.inference_mode()
def time_points(
    jobs: Mapping[Row, TestJob], *, batch_size: int, warmup: int = 1, repeats: int = 5
) -> dict[str, dict[str, float]]:
    """`clips_per_s` in batches, `ms` of one clip alone, `peak_mib` of a batch (weights and the most that is
    alive at once) of every point, by its title.

    Ways that choose run whole batches of clips of the test list, so that what they choose counts.
    """
    batched, single, memory = {}, {}, {}
    for row, job in jobs.items():
        crops = job.num_crops
        clips = first_clips(job.evaluation, num_crops=crops, limit=max(BATCHES * batch_size, SINGLES))
        several = [clips[i * batch_size :][:batch_size] for i in range(max(1, len(clips) // batch_size))]
        several, alone = several[:BATCHES], list(clips[:SINGLES].split(1))
        weights = sum(p.nbytes for part in (job.model, job.assigner) if part for p in part.parameters())
        for name, run in ways(job, row, batch_size=batch_size).items():
            title = title_of(row.name, name)
            batched[title] = (over(run, several), sum(map(len, several)))
            single[title] = (over(run, alone), len(alone))
            peak = peak_bytes(lambda run=run, part=several[0]: run(part), job.evaluation.run.device)
            memory[title] = (weights + peak) / 2**20
    rounds = {"warmup": warmup, "repeats": repeats}
    fast = interleave({title: run for title, (run, _) in batched.items()}, items=1, **rounds)
    slow = interleave({title: run for title, (run, _) in single.items()}, items=1, **rounds)
    return {
        title: {
            "clips_per_s": 1000 * batched[title][1] / fast[title].ms_median,
            "ms": slow[title].ms_median / single[title][1],
            "peak_mib": memory[title],
        }
        for title in batched
    }


def over(run: Callable[[Tensor], object], parts: list[Tensor]) -> Callable[[], object]:
    return lambda: [run(part) for part in parts]


def ways(job: TestJob, row: Row, *, batch_size: int) -> dict[str, Callable[[Tensor], object]]:
    """What runs at each point of a row but the random one."""
    found: dict[str, Callable[[Tensor], object]] = {
        name: (lambda clips, level=level: job.model(clips, level))
        for level, name in enumerate(level_names(job, row))
    }
    if row.reads == EXITS:
        found["early exit"] = EarlyExit(job.model, job.exits[0])
    if job.assigner is not None:
        look = job.router["assigner_cost"]
        for kind, rule in rules_at(job.router, job.router["budget"]).items():
            router = Router(job.model, job.assigner, costs=job.costs, rule=rule, look=look, heads=job.heads)
            found[kind] = lambda clips, router=router: router(clips, batch_size=batch_size)
    return found
