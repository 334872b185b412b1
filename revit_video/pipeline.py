"""A run from its config: check the folder, then each stage in order.

A stage whose product is there is kept, never overwritten.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from revit_video import build
from revit_video.config import Config, config_to_dict, load_config, save_config
from revit_video.report.run_report import show_report, write_report
from revit_video.stages.assigner import train_assigner
from revit_video.stages.exits import solve_exits
from revit_video.stages.job import RunFolder
from revit_video.stages.labels import label_lengths
from revit_video.stages.pictures import draw_result
from revit_video.stages.revit import train_revit
from revit_video.stages.test import TestJob, run_test
from revit_video.train.log import RunLog
from revit_video.train.progress import ProgressFolder
from revit_video.train.world import World
from revit_video.types import InputError


def run_stages(config: Config) -> None:
    """Run the config's stages. An existing product is an error without `resume`, and is kept with it.

    What is wrong in the settings or the lists shows before the folder is touched. Of several processes
    (torchrun) rank 0 alone writes and talks; the others wait for its files, and then read them.
    """
    with build.open_world(config) as world:
        run_together(config, world)


def run_together(config: Config, world: World) -> None:
    """The stages of a run, in every one of its processes."""
    plan = build.run_plan(config)
    folder = RunFolder(plan.output_dir)
    todo = world.from_main(lambda: stages_to_run(folder, config, stages=plan.stages, resume=plan.resume))
    run = build.build_device(config, world)
    said = build.check_stages(config, todo)
    first = build.revit_job(config, run) if "revit" in todo else None
    world.from_main(lambda: claim(folder.path, config, folder.config))
    world.from_main(lambda: remove_leftovers(folder))
    with open_log(folder.path, world, wandb=plan.wandb, settings=config_to_dict(config)) as log:
        log.say(f"{folder.path}: {', '.join(todo) or 'nothing left to do'} on {run.device}, {run.dtype}")
        for line in said:
            log.say(line)
        if first is not None:
            train_revit(first, folder, log, world)
        if "labels" in todo:
            for part in build.fold_configs(config):
                run_together(part, world)  # keeps what is finished
            label_lengths(build.labels_job(config, folder, run), folder, log)
        if "assigner" in todo and build.is_cascade(config):
            world.from_main(lambda: solve_exits(build.exits_job(config, folder, run), folder, log))
        elif "assigner" in todo:
            # By rank 0 alone: the network is tiny, and with its batch normalisation and class-weighted mean
            # the number of processes would change what it learns.
            alone = replace(run, world=World())
            world.from_main(lambda: train_assigner(build.assigner_job(config, folder, alone), folder, log))
        if "test" in todo:
            tested = folder.revit if build.is_cascade(config) else folder.recognizer
            test_into(folder.path, build.test_job(config, tested, run), log)
    if world.is_main and folder.report.exists():
        show_report(folder.report)


def claim(folder: Path, config: Config, file: Path) -> None:
    """Make the folder, and put the settings there."""
    folder.mkdir(parents=True, exist_ok=True)
    save_config(config, file)


def remove_leftovers(folder: RunFolder) -> None:
    """Checkpoints of a stage 1 that is through: a kill came before they were removed."""
    if folder.revit.exists():
        ProgressFolder(folder.progress).clear()


def open_log(folder: Path | None, world: World, **options) -> RunLog:
    """The run's log; in all processes but one it says and writes nothing. `options` are more arguments of
    RunLog.
    """
    return RunLog(folder, **options) if world.is_main else RunLog(None, console=Console(quiet=True))


def test_checkpoint(checkpoint: Path, overrides: list[str]) -> None:
    """Test a joint checkpoint with its own config, changed by overrides.

    Writes beside the checkpoint, whose run keeps its config.yaml, unless `output_dir` says else.
    """
    config = build.checkpoint_config(checkpoint, overrides)
    with build.open_world(config) as world:
        test_together(checkpoint, config, world)


def test_together(checkpoint: Path, config: Config, world: World) -> None:
    """The test of a checkpoint, in every one of its processes."""
    plan = build.run_plan(config)
    folder = RunFolder(plan.output_dir)
    own = folder.path.resolve() == checkpoint.parent.resolve()
    world.from_main(lambda: refuse_other_report(folder, own=own, resume=plan.resume))
    said = build.check_stages(config, ["test"])
    job = build.test_job(config, checkpoint, build.build_device(config, world))
    beside = folder.path / "test_config.yaml" if own else folder.config
    world.from_main(lambda: claim(folder.path, config, beside))
    with open_log(None, world) as log:
        for line in said:
            log.say(line)
        test_into(folder.path, job, log)
    if world.is_main:
        show_report(folder.report)


def refuse_other_report(folder: RunFolder, *, own: bool, resume: bool | str) -> None:
    """A test goes into its checkpoint's folder or an empty one, and replaces a report only where asked to."""
    if folder.log.exists() and not own:
        raise InputError(f"{folder.path} holds another run; give another output_dir=")
    if folder.report.exists() and not resume:
        raise InputError(
            f"{folder.path} already holds a report.json; give another output_dir=, "
            "or resume=true to replace it"
        )


def test_into(folder: Path, job: TestJob, log: RunLog) -> None:
    """Run the test and write its report, tables and pictures into `folder`."""
    result = run_test(job, log)

    def write() -> None:
        write_report(result.report, folder)
        if job.plots and job.assigner is not None:
            draw_result(job, result, folder)

    job.evaluation.run.world.from_main(write)


def stages_to_run(
    folder: RunFolder, config: Config, *, stages: tuple[str, ...], resume: bool | str
) -> list[str]:
    """The stages whose products are not there yet. resume: false refuses a folder with a run in it, true one
    without, and `auto` takes both.
    """
    products = {
        "revit": folder.revit,
        "labels": folder.labels,
        "assigner": folder.exits if build.is_cascade(config) else folder.recognizer,
        "test": folder.report,
    }
    there = [stage for stage in stages if products[stage].exists()]
    begun = "revit" in stages and folder.config.exists()
    if (there or begun) and not resume:
        raise InputError(
            f"{folder.path} already holds {', '.join(there) or 'the beginning'} of a run; "
            "give another output_dir=, or resume=true to go on"
        )
    if resume is True and not folder.config.exists():
        raise InputError(f"{folder.path} holds no run to go on with; resume=auto starts one there")
    if folder.config.exists():
        refuse_other_settings(load_config(folder.config), config, folder)
    elif stages[0] != "revit":
        raise InputError(f"{folder.path} holds no run yet; start with stage=revit or stage=all")
    return [stage for stage in stages if not products[stage].exists()]


def refuse_other_settings(before: Config, now: Config, folder: RunFolder) -> None:
    """Stages of one run must agree on data, model and training; what to run, where and how to test may
    change.
    """
    ours, theirs = build.settings_that_stay(now), build.settings_that_stay(before)
    for key, value in theirs.items():
        if ours[key] != value:
            raise InputError(
                f"{folder.path} was run with {key}={value}, now it is {ours[key]}; "
                "give another output_dir= or the same settings"
            )
