"""Stage 2 of a cascade: from which surety on its pictures leave, for a budget; and what that is worth.

A cascade needs no assigner: the thresholds are solved on the label list, from what the labels stage found.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from revit_video.competitors.early_exit import EarlyExit, Thresholds, exits_taken, solve_thresholds
from revit_video.evaluate.adaptive import Stored, shares, summary
from revit_video.report.throughput import interleave
from revit_video.routing.stored import CURVE_BUDGETS
from revit_video.stages.job import RunFolder
from revit_video.stages.labels import finished_labels
from revit_video.train.log import RunLog
from revit_video.types import InputError


@dataclass
class ExitsJob:
    """costs: GMACs of a picture that leaves at each level, dearest first. budget: mean GMACs. weights: digest
    of the trained cascade, see `early_exit.weights_digest`.
    """

    samples: Sequence  # the label list
    costs: Sequence[float]
    budget: float
    weights: str
    crossed: bool = False  # labels by models that have not seen the pictures


def solve_exits(job: ExitsJob, folder: RunFolder, log: RunLog) -> None:
    """Thresholds for the budget, and for every one of the curve, into `folder.exits`."""
    labels = finished_labels(folder, job.samples, crossed=job.crossed)
    sure, right = (torch.tensor(rows).T.flip(0) for rows in (labels.confidences, labels.correct))
    costs = list(reversed(job.costs))
    curve = [share * job.costs[0] for share in CURVE_BUDGETS if share * job.costs[0] > costs[0]]
    solved = []
    for budget in (job.budget, *curve):
        values = solve_thresholds(sure, right, costs, budget)
        solved.append(Thresholds(tuple(values.tolist()), job.weights, budget=budget))
    save_exits(solved, folder.exits)
    shown = ", ".join(f"{value:.4g}" for value in solved[0].values[:-1])
    log.say(f"exits: for {job.budget:.4g} GMACs pictures leave from a confidence of {shown} on")


def save_exits(solved: Sequence[Thresholds], path: Path) -> None:
    """Whole or not at all; those that were asked for are the first."""
    partial = Path(f"{path}.partial")
    partial.write_text(json.dumps([asdict(one) for one in solved], indent=2) + "\n")
    partial.replace(path)


def load_exits(path: Path, *, weights: str) -> list[Thresholds]:
    """What `save_exits` wrote, refused where it is of other weights."""
    try:
        found = json.loads(path.read_text())
        solved = [Thresholds(**{**one, "values": tuple(one["values"])}) for one in found]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} holds no thresholds ({error}); run stage=assigner again") from None
    for one in solved:
        if one.checkpoint != weights:
            raise InputError(
                f"{path} is of weights {one.checkpoint[:12]}, the checkpoint has {weights[:12]}; "
                "run stage=labels and stage=assigner again"
            )
    return solved


def left_at(stored: Stored, values: Sequence[float]) -> Tensor:
    """Levels (N, C) at which the clips of a cascade leave."""
    sure = stored.confidence.flatten(0, 1).T.flip(0)  # (E, N*C), cheapest exit first
    exits = exits_taken(sure, list(values))
    return (stored.num_levels - 1 - exits).view(stored.logits.shape[:2])


def every_view(stored: Stored) -> Stored:
    """Every view as a clip of its own: each leaves by itself."""
    return replace(stored, logits=stored.logits.flatten(1, 2)[:, :, None])


def exit_tables(stored: Stored, solved: Sequence[Thresholds]) -> dict:
    """The report's part on leaving early: with the thresholds that were asked for, and over all budgets."""
    each, rows = every_view(stored), []
    for one in solved:
        levels = left_at(each, one.values)
        rows.append({"budget": one.budget, **summary(each, levels, gmacs=each.cost(levels))})
    asked = left_at(each, solved[0].values)
    share = {f"exit {1 + i}": part for i, part in enumerate(reversed(shares(asked, each.num_levels)))}
    return {"early_exit": {**rows[0], "share": share}, "curve": {"early exit": rows[1:]}}


@torch.inference_mode()
def time_exits(
    model: nn.Module, clips: Tensor, solved: Sequence[Thresholds], *, batch_size: int, repeats: int = 3
) -> dict:
    """Clips per second of a cascade up to each exit, and left early, in turns in one process."""

    def in_batches(run: Callable[[Tensor], object]) -> Callable[[], object]:
        return lambda: [run(part) for part in clips.split(batch_size)]

    functions = {
        f"exit {model.num_exits - level}": in_batches(lambda part, level=level: model(part, level))
        for level in range(model.num_levels)
    }
    if solved:
        functions["early exit"] = in_batches(EarlyExit(model, solved[0]))
    timings = interleave(functions, items=len(clips), warmup=1, repeats=repeats)
    rate = {name: timing.items_per_s for name, timing in timings.items()}
    return {"clips_per_s": rate, "num_clips": len(clips), "batch_size": batch_size}
