"""What a training would be, from its settings: who runs what, steps, costs, memory. Nothing is trained."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch

from revit_video.backbones.memory import StepMemory, step_memory
from revit_video.build.networks import build_model
from revit_video.config import Config
from revit_video.report.tables import markdown_table
from revit_video.stages.revit import RevitJob
from revit_video.train.lengths import pieces_of
from revit_video.train.parallel import has_statistics
from revit_video.train.team import Group, Team, refuse_what_cannot_be_parted, split_levels, team_lines
from revit_video.train.world import World
from revit_video.types import InputError

TRIED = 4  # videos that are decoded
LENGTHS = {
    "length": ("length", "d"),
    "tokens": ("tokens", "d"),
    "gmacs": ("GMACs per clip", ",.2f"),
    "step": ("GMACs per step, forward and backward", ",.0f"),
}


def plan_lines(config: Config, job: RevitJob, *, processes: int) -> list[str]:
    """The plan of stage 1 for so many processes, a line or a table each."""
    team, groups = team_of(job, processes=processes)
    shares = team_lines(team, groups, job.length_costs or (), job.model.token_lengths)
    return [
        model_line(config, job),
        *cost_lines(job),
        *(shares or ["1 process: runs everything"]),
        batch_line(team, job, processes=processes),
        steps_line(config, job),
        *memory_lines(config, job, clips=largest_pass(team, job, processes=processes), processes=processes),
    ]


def team_of(job: RevitJob, *, processes: int) -> tuple[Team, tuple[Group, ...]]:
    """As train.crew puts the processes together, without them."""
    kind = {"batch_size": job.batch_size, "even": job.mix is not None}
    if job.length_costs is None or processes == 1:
        team, groups = Team.of_all(range(job.model.num_levels), World(size=processes), **kind), ()
    else:
        transfers = job.distillation.feature_weight > 0 or job.distillation.attention_weight > 0
        refuse_what_cannot_be_parted(transfers=transfers, statistics=has_statistics(job.model))
        groups = split_levels(job.length_costs, processes)
        team = Team.of_groups(groups, **kind)
    for rank in range(processes):
        team.rows(rank)  # refuses a batch with too few videos
    return team, groups


def model_line(config: Config, job: RevitJob) -> str:
    parameters = sum(p.numel() for p in job.model.parameters())
    lengths = ", ".join(map(str, job.model.token_lengths))
    return (
        f"model: {config.model.name}, {parameters:,} parameters, {job.model.num_classes} classes, lengths "
        f"{lengths}, clips of {config.data.num_frames} frames of {config.data.crop} px"
    )


def cost_lines(job: RevitJob) -> list[str]:
    clips = job.batch_size * job.views
    rows = [
        {
            "length": length,
            "tokens": grid.frames * grid.per_frame,
            "gmacs": cost,
            "step": 3 * cost * clips,
        }
        for length, grid, cost in zip(job.model.token_lengths, job.model.grids, job.gmacs, strict=True)
    ]
    grown = job.total_steps - job.grow_at
    whole = 6e9 * clips * (sum(job.gmacs) * grown + job.gmacs[-1] * job.grow_at)
    step = sum(row["step"] for row in rows)
    return [
        markdown_table(rows, LENGTHS).rstrip(),
        f"all lengths: {in_figures(step)} GMACs per step, {in_figures(whole / 1e15)} PFLOP in all (a "
        "multiply-add is two)",
    ]


def in_figures(number: float) -> str:
    return f"{number:,.0f}" if number >= 1000 else f"{number:.4g}"


def clips_of(team: Team, job: RevitJob, *, processes: int) -> list[int]:
    return [len(team.rows(rank)) * job.views for rank in range(processes)]


def largest_pass(team: Team, job: RevitJob, *, processes: int) -> int:
    most = max(clips_of(team, job, processes=processes))
    return min(most, job.micro_batch) if job.micro_batch else most


def batch_line(team: Team, job: RevitJob, *, processes: int) -> str:
    clips, each = job.batch_size * job.views, clips_of(team, job, processes=processes)
    spread = f"{min(each)} to {max(each)}" if min(each) < max(each) else str(max(each))
    passes = len(pieces_of(range(max(each)), job.micro_batch))
    largest = largest_pass(team, job, processes=processes)
    return (
        f"effective batch: {clips} clips, {spread} to a process, in {passes} "
        f"pass{'es' * (passes > 1)} of up to {largest}; {job.rates}"
    )


def steps_line(config: Config, job: RevitJob) -> str:
    per_epoch = len(job.dataset) / job.batch_size
    grow = f", the first {job.grow_at} at the shortest length alone" * (job.grow_at > 0)
    return (
        f"steps: {job.total_steps:,}{grow}: {job.total_steps / per_epoch:.4g} epochs of {per_epoch:,.1f} "
        f"steps over {len(job.dataset):,} videos; {config.solver.schedule}"
    )


def memory_lines(config: Config, job: RevitJob, *, clips: int, processes: int) -> list[str]:
    """What the largest process would need on its device."""
    if job.cascade:
        return ["memory per device: not estimated for a cascade"]
    with torch.device("meta"):
        model = build_model(config, job.model.num_classes).train()
    solver, on_gpu = config.solver, job.run.device.type == "cuda"
    needed = step_memory(
        model,
        clips=clips,
        dtype=job.run.dtype,
        optimizer=solver.optimizer,
        momentum=solver.momentum,
        ema=solver.ema > 0,
        recompute=solver.activation_checkpointing,
        fused=on_gpu or job.run.dtype == torch.float32,
        parts=processes if config.distributed.strategy == "fsdp" else 1,
    )
    dtype = str(job.run.dtype).removeprefix("torch.")
    lines = [f"memory per device, estimated, {dtype}, {clips} clips a pass: {in_gib(needed)}"]
    if on_gpu:
        there = torch.cuda.get_device_properties(job.run.device).total_memory
        lines[0] += f" of {there / 2**30:.0f} GiB"
        if needed.total > there:
            raise InputError(
                f"{lines[0]}: it will not fit; set solver.micro_batch_size below {clips}, or "
                "solver.activation_checkpointing=true"
            )
    return lines


def in_gib(needed: StepMemory) -> str:
    parts = ", ".join(f"{name} {size / 2**30:.2f}" for name, size in vars(needed).items() if size)
    return f"{needed.total / 2**30:.2f} GiB ({parts})"


def try_videos(config: Config, job: RevitJob) -> Iterator[str]:
    """Decode some videos of the training list, spread over it, and say how fast that went.

    Raises:
        InputError: none of them can be read.
    """
    indices = sorted({i * (len(job.dataset) - 1) // max(1, TRIED - 1) for i in range(TRIED)})
    began = time.perf_counter()
    items = [job.dataset[0, index] for index in indices]
    seconds = (time.perf_counter() - began) / len(items)
    broken = [item.unreadable for item in items if item.clips is None]
    if len(broken) == len(items):
        raise InputError(f"none of {len(items)} training videos can be read: {broken[0]}")
    workers = max(1, config.data.num_workers)
    yield (
        f"decoded {len(items) - len(broken)} of {len(items)} training videos, {seconds:.2f} s each: "
        f"{workers} worker{'s' * (workers > 1)} would read {workers * job.views / seconds:,.1f} clips/s for "
        "a process"
    )
    yield from (f"cannot be read: {reason}" for reason in broken)
