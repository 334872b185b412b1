"""What every published number carries: with what, on what, when and by which command it was made."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import torch

import revit_video


def provenance(
    *, device: str | torch.device, dtype: str | torch.dtype, seed: int | None, decoder: str | None = None
) -> dict[str, str | int | None]:
    """The surroundings of a run as plain values for JSON. Holds no path that the user did not type.

        {"commit": "1f2e3d4c5b6a+changes", "device": "cuda", "device_name": "NVIDIA H200", ...}

    Args:
        seed: of the run; None where nothing was drawn.
        decoder: name of the video reader; None where no video was read.
    """
    device = torch.device(device)
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": _command(sys.argv),
        "commit": _commit(Path(revit_video.__file__).parent),
        "revit_video": revit_video.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": device.type,
        "device_name": _device_name(device),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "dtype": str(dtype).removeprefix("torch."),
        "decoder": decoder,
        "seed": seed,
    }


def _command(argv: list[str]) -> str:
    """The command line as typed. An absolute argv[0] comes from the shell: its name stays."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is not None:  # python -m module
        program = ["python", "-m", spec.name.removesuffix(".__main__")]
    elif argv[0].endswith(".py"):  # python tools/script.py
        program = ["python", Path(argv[0]).name if Path(argv[0]).is_absolute() else argv[0]]
    else:  # an installed command
        program = [Path(argv[0]).name]
    return shlex.join(program + argv[1:])


def _commit(folder: Path) -> str:
    """The commit of the checkout that tracks `folder`, with "+changes" if edited; "unknown" if none does.

    A copy installed below another project's checkout is not tracked there, so it does not take that commit.
    """
    if not _git(folder, "ls-files", "."):
        return "unknown"
    commit = _git(folder, "rev-parse", "--short=12", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return (commit or "unknown") + ("+changes" if commit and changes else "")


def _git(folder: Path, *arguments: str) -> str:
    """What git prints, or "" where git or a checkout is missing."""
    try:
        run = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return run.stdout.strip() if run.returncode == 0 else ""


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if device.type == "cpu" and cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
