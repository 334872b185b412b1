"""A run from its config: claim the folder, then each stage in order. A stage whose product is there is kept, never overwritten."""

from __future__ import annotations

from pathlib import Path

from revit_video import build
from revit_video.config import Config, config_to_dict, load_config, save_config
from revit_video.report.run_report import show_report, write_report
from revit_video.stages.assigner import train_assigner
from revit_video.stages.job import RunFolder
from revit_video.stages.labels import label_lengths
from revit_video.stages.revit import train_revit
from revit_video.stages.test import run_test
from revit_video.train.log import RunLog
from revit_video.types import InputError


def run_stages(config: Config) -> None:
    """Run the config's stages. An existing product is an error without `resume`, and is kept with it."""
    plan = build.run_plan(config)
    folder = RunFolder(plan.output_dir)
    todo = claim(folder, config, stages=plan.stages, resume=plan.resume)
    run = build.build_device(config)
    with RunLog(folder.path) as log:
        log.say(f"{folder.path}: {', '.join(todo) or 'nothing left to do'} on {run.device}, {run.dtype}")
        if "revit" in todo:
            train_revit(build.revit_job(config, run), folder, log)
        if "labels" in todo:
            label_lengths(build.labels_job(config, folder, run), folder, log)
        if "assigner" in todo:
            train_assigner(build.assigner_job(config, folder, run), folder, log)
        if "test" in todo:
            test_into(folder.path, config, folder.recognizer, run, log)
    if folder.report.exists():
        show_report(folder.report)


def test_checkpoint(checkpoint: Path, overrides: list[str]) -> None:
    """Test a joint checkpoint with its own config, changed by overrides; writes beside it unless `output_dir` says else."""
    config = build.checkpoint_config(checkpoint, overrides)
    plan = build.run_plan(config)
    folder = plan.output_dir
    if (folder / "report.json").exists() and not plan.resume:
        raise InputError(f"{folder} already holds a report.json; give another output_dir=, or resume=true to replace the report")
    folder.mkdir(parents=True, exist_ok=True)
    with RunLog(None) as log:
        test_into(folder, config, checkpoint, build.build_device(config), log)
    show_report(folder / "report.json")


def test_into(folder: Path, config: Config, checkpoint: Path, run, log: RunLog) -> None:
    """Run the test and write its report, tables and pictures into `folder`."""
    job, split = build.test_job(config, checkpoint, run)
    result = run_test(job, log)
    save_config(config, folder / "config.yaml")
    write_report(result.report, folder)
    build.draw_report(config, job, split, result, folder)


def claim(folder: RunFolder, config: Config, *, stages: tuple[str, ...], resume: bool) -> list[str]:
    """The stages to run. Refuses a folder that holds their products, or another run's settings."""
    products = {
        "revit": folder.revit,
        "labels": folder.labels,
        "assigner": folder.recognizer,
        "test": folder.report,
    }
    there = [stage for stage in stages if products[stage].exists()]
    if "revit" in stages and folder.progress.exists():
        there.append("revit (unfinished)")
    if there and not resume:
        raise InputError(
            f"{folder.path} already holds {', '.join(there)} of a run; give another output_dir=, or resume=true to go on"
        )
    if folder.config.exists():
        refuse_other_settings(load_config(folder.config), config, folder)
    elif stages[0] != "revit":
        raise InputError(f"{folder.path} holds no run yet; start with stage=revit or stage=all")
    folder.path.mkdir(parents=True, exist_ok=True)
    save_config(config, folder.config)
    return [stage for stage in stages if not products[stage].exists()]


def refuse_other_settings(before: Config, now: Config, folder: RunFolder) -> None:
    """Stages of one run must agree on data, model and training; what to run, where and how to test may change."""
    ours, theirs = config_to_dict(now), config_to_dict(before)
    for group in ("data", "model", "solver", "revit"):
        for key, value in theirs[group].items():
            if ours[group][key] != value:
                raise InputError(
                    f"{folder.path} was run with {group}.{key}={value}, now it is {ours[group][key]}; "
                    "give another output_dir= or the same settings"
                )
