"""The whole method at a very small size: the demo's config with everything shrunk, in this process."""

from __future__ import annotations

import hashlib
import json
import runpy
import sys
from pathlib import Path

from revit_video import cli

ROOT = Path(__file__).parents[1]
CFG = ROOT / "configs/demo/timesformer_tiny_5x3.yaml"
VIDEOS = {"train": 16, "val": 14, "test": 10}
SMALL = [
    "dtype=float32",
    "num_threads=1",
    "data.crop=32",
    "data.train_jitter=[32,36]",
    "data.test_short_side=32",
    "model.token_lengths=[8,5,3]",
    "model.options.dim=24",
    "model.options.depth=2",
    "solver.max_steps=12",
    "solver.batch_size=8",
    "solver.base_lr=0.005",
    "solver.schedule=constant",
    "revit.grow_share=0.5",
    "assigner.epochs=1",
    "assigner.batch_size=4",
    "assigner.image_size=32",
    "assigner.width=0.1",
    "assigner.depth=0.3",
]
PLAIN = ["report.plots=false", "test.throughput=false"]  # for runs of which only the numbers matter


def train(out: Path, data: Path, *overrides: str) -> int:
    """Exit code of a small run of the demo's config."""
    return cli.train(["--cfg", str(CFG), f"output_dir={out}", f"data.root={data}", *SMALL, *overrides])


def run_tool(name: str, *arguments: str | Path) -> int:
    """Exit code of `python tools/NAME arguments`, run in this process, which has the imports behind it."""
    before, sys.argv = sys.argv, [f"tools/{name}", *map(str, arguments)]
    try:
        runpy.run_path(str(ROOT / "tools" / name), run_name="__main__")
    except SystemExit as end:
        return end.code or 0
    finally:
        sys.argv = before
    return 0


def report_of(run: Path) -> dict:
    return json.loads((run / "report.json").read_text())


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder with a digest of its bytes."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
