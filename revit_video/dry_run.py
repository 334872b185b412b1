"""A run that does not run: what a training would be, and all that would keep it from starting."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from revit_video import build
from revit_video.config import Config
from revit_video.pipeline import stages_to_run
from revit_video.stages.job import RunFolder
from revit_video.types import InputError


def folder_of(config: Config) -> Path:
    """Where the run would write."""
    return build.run_plan(config).output_dir


class Findings:
    """Lines for the user, and what was wrong, each problem once."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say, self.known = say, []

    @property
    def problems(self) -> int:
        return len(self.known)

    def show(self, lines: Callable[[], Iterable[str]]) -> bool:
        """Say the lines; whether nothing kept them from being found out."""
        try:
            for line in lines():
                self.say(line)
        except (InputError, OSError) as error:
            if str(error) not in self.known:  # the same list is read for several things
                self.known.append(str(error))
                self.say(f"PROBLEM: {error}")
            return False
        return True


def dry_run(config: Config, *, processes: int | None = None, say: Callable[[str], None] = print) -> int:
    """Say what a run with these settings would do, without touching its folder; returns how many things keep
    it from starting.

    processes: that the plan is for; None: those that torchrun started, of which the first one speaks.
    """
    if os.environ.get("RANK", "0") != "0":
        return 0
    size = processes or int(os.environ.get("WORLD_SIZE", 1))
    if size < 1:
        raise InputError(f"--processes is {size}, but must be at least 1")
    found = Findings(say)
    plan, todo = build.run_plan(config), []

    def stages() -> Iterable[str]:
        nonlocal todo
        todo = list(plan.stages)
        todo = stages_to_run(RunFolder(plan.output_dir), config, stages=plan.stages, resume=plan.resume)
        yield f"{plan.output_dir}: {', '.join(todo) or 'nothing left to do'}"

    found.show(stages)
    found.show(lambda: build.check_stages(config, todo))
    folds = build.fold_configs(config) if "labels" in todo else []
    if "revit" in todo or folds:
        job = None

        def lines() -> Iterable[str]:
            nonlocal job
            job = build.revit_job(config, build.build_device(config))
            yield from job.notes

        known = found.show(lines)
        if known and "revit" in todo:
            found.show(lambda: build.plan_lines(config, job, processes=size))
            found.show(lambda: build.try_videos(config, job))
        if known and folds:
            found.show(lambda: build.fold_lines(config, job))
    if found.problems:
        say(f"{found.problems} problem{'s' * (found.problems > 1)}: the run would not start")
    else:
        say("nothing was trained or written; without --dry-run this run would start")
    return found.problems
