"""Generated videos and a small run on them, made once per session (by each worker under pytest-xdist).

A test module asks for them by `pytest_plugins = ["run_fixtures"]`.
"""

from pathlib import Path

import pytest
from small_run import VIDEOS, train

from revit_video.data.demo import generate_demo


@pytest.fixture(scope="session")
def demo_data(tmp_path_factory) -> Path:
    """40 generated videos with their lists."""
    root = tmp_path_factory.mktemp("demo") / "data"
    generate_demo(root, **{f"num_{split}": number for split, number in VIDEOS.items()})
    return root


@pytest.fixture(scope="session")
def small_run(tmp_path_factory, demo_data) -> Path:
    """The folder of a finished run; tests that change it take a copy."""
    out = tmp_path_factory.mktemp("run") / "small"
    assert train(out, demo_data) == 0
    return out
