"""A run from its config: check the folder, then each stage in order.

A stage whose product is there is kept, never overwritten.
"""

from __future__ import annotations

from pathlib import Path

from revit_video import build
from revit_video.config import Config, config_to_dict, load_config, save_config
from revit_video.report.run_report import show_report, write_report
from revit_video.stages.assigner import train_assigner
from revit_video.stages.job import RunFolder
from revit_video.stages.labels import label_lengths
from revit_video.stages.pictures import draw_result
from revit_video.stages.revit import train_revit
from revit_video.stages.test import TestJob, run_test
from revit_video.train.log import RunLog
from revit_video.types import InputError

SAME = ("data", "model", "solver", "revit")  # groups of settings that all stages of a run must agree on
# but for these, which say how fast a run goes and what is written down of it, not what is learnt
FREE = {
    "data.decoder",
    "data.num_workers",
    "data.cache",
    "data.max_unreadable",
    "solver.log_period",
    "solver.checkpoint_period",
}


def run_stages(config: Config) -> None:
    """Run the config's stages. An existing product is an error without `resume`, and is kept with it.

    What is wrong in the settings or the lists shows before the folder is touched.
    """
    plan = build.run_plan(config)
    folder = RunFolder(plan.output_dir)
    todo = stages_to_run(folder, config, stages=plan.stages, resume=plan.resume)
    run = build.build_device(config)
    said = build.check_stages(config, todo)
    first = build.revit_job(config, run) if "revit" in todo else None
    folder.path.mkdir(parents=True, exist_ok=True)
    save_config(config, folder.config)
    with RunLog(folder.path) as log:
        log.say(f"{folder.path}: {', '.join(todo) or 'nothing left to do'} on {run.device}, {run.dtype}")
        for line in said:
            log.say(line)
        if first is not None:
            train_revit(first, folder, log)
        if "labels" in todo:
            label_lengths(build.labels_job(config, folder, run), folder, log)
        if "assigner" in todo:
            train_assigner(build.assigner_job(config, folder, run), folder, log)
        if "test" in todo:
            test_into(folder.path, build.test_job(config, folder.recognizer, run), log)
    if folder.report.exists():
        show_report(folder.report)


def test_checkpoint(checkpoint: Path, overrides: list[str]) -> None:
    """Test a joint checkpoint with its own config, changed by overrides.

    Writes beside the checkpoint, whose run keeps its config.yaml, unless `output_dir` says else.
    """
    config = build.checkpoint_config(checkpoint, overrides)
    plan = build.run_plan(config)
    folder = RunFolder(plan.output_dir)
    own = folder.path.resolve() == checkpoint.parent.resolve()
    if folder.log.exists() and not own:
        raise InputError(f"{folder.path} holds another run; give another output_dir=")
    if folder.report.exists() and not plan.resume:
        raise InputError(
            f"{folder.path} already holds a report.json; give another output_dir=, "
            "or resume=true to replace it"
        )
    said = build.check_stages(config, ["test"])
    job = build.test_job(config, checkpoint, build.build_device(config))
    folder.path.mkdir(parents=True, exist_ok=True)
    save_config(config, folder.path / "test_config.yaml" if own else folder.config)
    with RunLog(None) as log:
        for line in said:
            log.say(line)
        test_into(folder.path, job, log)
    show_report(folder.report)


def test_into(folder: Path, job: TestJob, log: RunLog) -> None:
    """Run the test and write its report, tables and pictures into `folder`."""
    result = run_test(job, log)
    write_report(result.report, folder)
    if job.plots and job.assigner is not None:
        draw_result(job, result, folder)


def stages_to_run(folder: RunFolder, config: Config, *, stages: tuple[str, ...], resume: bool) -> list[str]:
    """The stages whose products are not there yet. Refuses a folder with a run in it, unless it is to be
    resumed.
    """
    products = {
        "revit": folder.revit,
        "labels": folder.labels,
        "assigner": folder.recognizer,
        "test": folder.report,
    }
    there = [stage for stage in stages if products[stage].exists()]
    begun = "revit" in stages and folder.config.exists()
    if (there or begun) and not resume:
        raise InputError(
            f"{folder.path} already holds {', '.join(there) or 'the beginning'} of a run; "
            "give another output_dir=, or resume=true to go on"
        )
    if folder.config.exists():
        refuse_other_settings(load_config(folder.config), config, folder)
    elif stages[0] != "revit":
        raise InputError(f"{folder.path} holds no run yet; start with stage=revit or stage=all")
    return [stage for stage in stages if not products[stage].exists()]


def refuse_other_settings(before: Config, now: Config, folder: RunFolder) -> None:
    """Stages of one run must agree on data, model and training; what to run, where and how to test may
    change.
    """
    ours, theirs = settings_that_stay(now), settings_that_stay(before)
    for key, value in theirs.items():
        if ours[key] != value:
            raise InputError(
                f"{folder.path} was run with {key}={value}, now it is {ours[key]}; "
                "give another output_dir= or the same settings"
            )


def settings_that_stay(config: Config) -> dict[str, object]:
    """Dotted keys and values of what one run is: its seed, data, model and training."""
    groups = config_to_dict(config)
    keys = {f"{group}.{key}": value for group in SAME for key, value in groups[group].items()}
    return {"seed": groups["seed"]} | {key: value for key, value in keys.items() if key not in FREE}
