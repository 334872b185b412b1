"""Config to objects: the only place that knows both the settings and the parts. All else takes plain
arguments.
"""

from revit_video.build.comparison import (
    comparison_facts,
    comparison_title,
    tested_with,
    training_plan,
)
from revit_video.build.device import build_device
from revit_video.build.distributed import open_world
from revit_video.build.folds import fold_configs, fold_lines
from revit_video.build.jobs import (
    assigner_job,
    check_stages,
    checkpoint_config,
    exits_job,
    labels_job,
    run_plan,
    test_job,
)
from revit_video.build.networks import build_model, is_cascade, recognizer_parts
from revit_video.build.one_run import settings_that_stay
from revit_video.build.passes import file_dataset
from revit_video.build.plan import plan_lines, try_videos
from revit_video.build.training import revit_job

__all__ = [
    "assigner_job",
    "build_device",
    "build_model",
    "check_stages",
    "checkpoint_config",
    "comparison_facts",
    "comparison_title",
    "exits_job",
    "file_dataset",
    "fold_configs",
    "fold_lines",
    "is_cascade",
    "labels_job",
    "open_world",
    "plan_lines",
    "recognizer_parts",
    "revit_job",
    "run_plan",
    "settings_that_stay",
    "test_job",
    "tested_with",
    "training_plan",
    "try_videos",
]
