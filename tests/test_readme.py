"""The commands of the pages run as they stand there, with everything made small."""

import re
import runpy
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_run import ROOT, SMALL, run_tool

# What is added to each tool's arguments; the last one given counts.
REDUCED = {
    "make_demo_data.py": ["--train", "16", "--val", "14", "--test", "10", "--processes", "1"],
    "train_net.py": [*SMALL, "report.sheet_clips=1", "router.budget=0.9"],
    "test_net.py": ["num_threads=1"],
    "predict.py": ["--dtype", "float32"],
    "flops.py": ["--model", "timesformer_tiny"],
    "check_videos.py": ["--processes", "1"],
    "submit.py": SMALL,
    "plot.py": [],
    "throughput.py": ["--clips", "4", "--batch-size", "2", "--repeats", "1"],
    "study.py": [],
    "compare.py": [*SMALL, "--dry-run"],
    "pack_videos.py": ["--shard-mb", "1"],
    "convert_weights.py": [
        *("--model", "timesformer_base", "--token-lengths", "4", "2"),
        *("--new-head", "400", "model.options={dim: 48, depth: 3, heads: 3}"),
    ],
}
SWAPPED = {"14": "8", "10": "5", "7": "3"}  # token lengths of the demo -> of the small model
PAGES = ["README.md", "docs/demo.md"]


def fenced(page: str, kind: str) -> list[str]:
    """The blocks of a page between ```kind and ```."""
    text = (ROOT / page).read_text()
    return re.findall(rf"^```{kind}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[list[str]]:
    """The commands of a page's bash blocks, split into words."""
    lines = "".join(fenced(page, "bash")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line.removeprefix("$ "), comments=True))]


def recipe(target: str) -> list[list[str]]:
    """What `make TARGET` would run, as words; fails where there is no such target."""
    dry = ["make", "--dry-run", "--old-file=.venv/installed", target]
    ended = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, f"make {target}: {ended.stderr}"
    return [shlex.split(line) for line in ended.stdout.splitlines()]


def steps(page: str) -> list[tuple[str, list[str]]]:
    """(tool, arguments) of a page's commands in their order; `make` stands for the tools in its recipe."""
    found = []
    for words in commands(page):
        for line in recipe(words[1]) if words[0] == "make" else [words]:
            tool = next((word for word in line if word.startswith("tools/")), None)
            assert tool or words[0] == "make", f"the test knows make and tools/ only, not {' '.join(words)}"
            if tool:
                found.append((Path(tool).name, line[line.index(tool) + 1 :]))
    return found


def reduced(tool: str, arguments: list[str]) -> list[str]:
    lengths = [SWAPPED.get(word, word) for word in arguments] if tool == "predict.py" else arguments
    return [*lengths, *REDUCED[tool]]


def write_official_weights(path: Path) -> None:
    """A small official TimeSformer of random weights, under the name of a released one."""
    stored = load_file(ROOT / "tests/data/parity/ts_divided.safetensors")
    state = {key.removeprefix("state."): value for key, value in stored.items() if key.startswith("state.")}
    torch.save({"model_state": {f"model.{key}": value for key, value in state.items()}}, path)


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run_one_after_the_other(page, tmp_path, monkeypatch, capfd):
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    write_official_weights(tmp_path / "TimeSformer_divST_8x32_224_K400.pyth")
    monkeypatch.chdir(tmp_path)
    for tool, arguments in steps(page):
        assert run_tool(tool, *reduced(tool, arguments)) == 0, f"{tool} {shlex.join(arguments)}"
        assert capfd.readouterr().err == ""
    for number, block in enumerate(fenced(page, "python")):
        script = tmp_path / f"block{number}.py"
        script.write_text(block)
        runpy.run_path(str(script))


def test_every_tool_is_shown_in_the_readme():
    shown = {tool for tool, _ in steps("README.md")}
    assert shown == {path.name for path in (ROOT / "tools").glob("*.py")}


def test_the_table_of_reductions_names_tools_that_exist():
    assert all((ROOT / "tools" / tool).exists() for tool in REDUCED)
