"""What a comparison needs to know of its config, and of each of its runs."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import torch

from revit_video.backbones.costs import level_gmacs
from revit_video.build.device import build_device
from revit_video.build.jobs import budget_share
from revit_video.build.lists import build_split
from revit_video.build.networks import build_model
from revit_video.build.training import revit_job, videos_of_a_step
from revit_video.config import Config
from revit_video.stages.revit import RevitJob

FORWARDS = 3  # of a training step: one forward pass, and twice its work backward
SAMPLED = 64  # steps of a warm-up whose cost is looked at


def comparison_facts(config: Config) -> dict[str, Any]:
    """The settings that rows refer to, see compare.rows.placeholders."""
    split = build_split(config, "train")
    steps_per_epoch = max(1, len(split.samples) // videos_of_a_step(config))
    solver, data = config.solver, config.data
    with torch.device("meta"):
        costs = level_gmacs(build_model(config, len(split.class_names)))
    return {
        "name": config.model.name,
        "token_lengths": config.model.token_lengths,
        "num_frames": data.num_frames,
        "sampling_rate": data.sampling_rate,
        "epochs": solver.max_steps / steps_per_epoch if solver.max_steps else float(solver.max_epoch),
        "budget_gmacs": budget_share(config, costs) * costs[0],
        "same_cost": steps_of_same_cost(config),
    }


def steps_of_same_cost(config: Config) -> list[int]:
    """How many steps of each length, trained alone, cost as many multiply-adds as the config's training."""
    config = replace(config, model=replace(config.model, init_from=""))
    plan, steps = training_plan(config), []
    for length in config.model.token_lengths:
        alone = replace(config.model, token_lengths=[length], distill_token=False)
        with torch.device("meta"):
            (cost,) = level_gmacs(build_model(replace(config, model=alone), 1))
        steps.append(max(1, round(plan["gmacs"] / (FORWARDS * plan["clips"] * cost))))
    return steps


def comparison_title(config: Config) -> dict[str, Any]:
    """What the tables are of."""
    test = config.test
    return {
        "model": config.model.name,
        "dataset": config.data.dataset,
        "images": config.data.num_frames == 1,
        "views": f"{test.num_ensemble_views}x{test.num_spatial_crops}",
        "batch_size": test.batch_size,
        "dtype": config.dtype,
    }


def tested_with(config: Config) -> dict[str, Any]:
    """Settings that change what a test finds for the same weights."""
    test = {key: value for key, value in asdict(config.test).items() if key != "throughput"}
    return {"test": test, "router": asdict(config.router), "test_split": config.data.test_split}


def training_plan(config: Config) -> dict[str, float]:
    """What stage 1 of a run costs, without what it starts from: steps, clips of a step, parameters, and GMACs
    of all forward and backward passes.
    """
    job = revit_job(config, build_device(config))
    parameters = sum(p.numel() for p in job.model.parameters())
    clips = job.batch_size * job.views
    gmacs = FORWARDS * clips * forward_gmacs(job)
    return {"steps": job.total_steps, "clips": clips, "params": parameters, "gmacs": gmacs}


def forward_gmacs(job: RevitJob) -> float:
    """Of one clip in every step."""
    whole = sum(job.gmacs) * (job.total_steps - job.grow_at) + job.gmacs[-1] * job.grow_at
    if job.reducer_at is None:
        return whole
    falling = min(job.reducer_at.start + job.reducer_at.shrink, job.total_steps)
    looked_at = range(0, falling, max(1, falling // SAMPLED))
    dearer = [sum(level_gmacs(job.model, job.reducer_at(step))) - sum(job.gmacs) for step in looked_at]
    return whole + falling * sum(dearer) / max(1, len(dearer))
