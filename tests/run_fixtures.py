"""Generated videos and a small run on them, made once per session (by each worker under pytest-xdist).

A test module asks for them by `pytest_plugins = ["run_fixtures"]`.
"""

import shutil
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


@pytest.fixture
def data(demo_data, tmp_path):
    """A copy of the generated videos, to be broken."""
    return shutil.copytree(demo_data, tmp_path / "data")


@pytest.fixture
def run(small_run, tmp_path):
    """A copy of the finished run, to be broken."""
    return shutil.copytree(small_run, tmp_path / "run")


@pytest.fixture
def refusal(capfd):
    """refusal(code): the one line on stderr of a command that ended with this exit code."""

    def line(code: int) -> str:
        out, err = capfd.readouterr()
        assert code == 2
        assert err.startswith("error: ") and err.count("\n") == 1, err
        assert "Traceback" not in out
        return err

    return line
