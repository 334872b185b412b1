"""What the study of shifted videos tests: a checkpoint on the videos of a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from revit_video.build.device import build_device
from revit_video.build.jobs import checkpoint_config, test_job
from revit_video.build.networks import heads_of, recognizer_state
from revit_video.data.class_folders import VIDEO_ENDINGS
from revit_video.data.demo import COMPLETE, demo_split
from revit_video.stages.shift import spread
from revit_video.stages.test import TestJob
from revit_video.types import InputError, Split, VideoSample


def shifted_job(
    checkpoint: Path, root: Path, overrides: Sequence[str], *, most: int = 0
) -> tuple[TestJob, bool]:
    """The test of a checkpoint on at most `most` videos (0: all) of a folder, and whether they have labels:
    the test list of a demo data set has, any other folder of videos has none that the model knows.
    """
    config = checkpoint_config(checkpoint, [*overrides, f"data.root={root}"])
    state = recognizer_state(checkpoint)
    if state["kind"] != "recognizer":
        raise InputError(f"{checkpoint} is a backbone alone; the study needs the recognizer.pt of a run")
    names, heads = tuple(state["class_names"]), heads_of(state)
    labelled = (root / COMPLETE).exists() and demo_split(root, "test").class_names == names
    if labelled:
        split = demo_split(root, "test")
    else:
        split = Split(tuple(VideoSample(str(file), 0) for file in videos_below(root)), names, heads)
    split = replace(split, samples=tuple(spread(split.samples, most)))
    return test_job(config, checkpoint, build_device(config), split=split), labelled


def videos_below(root: Path) -> list[Path]:
    if not root.is_dir():
        raise InputError(f"no folder {root}; give a demo data set or any folder of videos")
    files = (path for path in sorted(root.rglob("*")) if path.suffix.lower() in VIDEO_ENDINGS)
    found = [path for path in files if path.is_file() and not path.name.startswith(".")]
    if not found:
        raise InputError(f"{root} holds no videos; known endings are {' '.join(VIDEO_ENDINGS)}")
    return found
