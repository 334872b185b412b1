"""Trainings as jobs of a SLURM cluster, through submitit; preempted or timed-out jobs go on by themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from revit_video.command_line import TRY_AGAIN
from revit_video.types import InputError

REQUEUES = 100  # times that a job may run out of time and go on
WARNING_S = 300  # before the end of its time a job is told to save
POLL_S = 0.2


@dataclass(frozen=True)
class Resources:
    """What a job asks for. gpus, cpus: of a node and of a process; a node has a process for each GPU, or
    `processes` where it has none. slurm: more options of sbatch, such as {"account": "vision"}.
    """

    name: str
    nodes: int = 1
    gpus: int = 8
    processes: int = 0
    cpus: int = 8
    hours: float = 24.0
    partition: str = ""
    slurm: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        for field in ("nodes", "cpus", "hours"):
            if getattr(self, field) <= 0:
                raise InputError(f"--{field} is {getattr(self, field)}, but must be above 0")
        if self.gpus < 0 or self.processes < 0:
            raise InputError("--gpus and --processes must be at least 0")
        if self.gpus and self.processes not in (0, self.gpus):
            raise InputError(
                f"--processes is {self.processes} for {self.gpus} GPUs of a node; every GPU has a process of "
                "its own"
            )

    @property
    def per_node(self) -> int:
        return self.gpus or self.processes or 1

    @property
    def size(self) -> int:
        """Processes of the whole job."""
        return self.nodes * self.per_node


class TrainTask:
    """One process of a job: tools/train_net.py as torchrun would start it, in a process of its own, so that
    its signals and those of submitit do not meet.

    submitit calls `checkpoint` when the job is about to be preempted or to run out of time, and starts the
    task that it returns anew.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self.arguments = [*(a for a in arguments if not a.startswith("resume=")), "resume=auto"]
        self.child: subprocess.Popen | None = None

    def __call__(self) -> int:
        from submitit.helpers import TorchDistributedEnvironment

        # Each process sees all GPUs of its node, and takes the one of its number.
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        command = [sys.executable, "-m", "revit_video.cli", "train", *self.arguments]
        self.child = subprocess.Popen(command)
        while self.child.poll() is None:
            time.sleep(POLL_S)
        code = self.child.returncode
        if code not in (0, TRY_AGAIN):
            raise RuntimeError(f"the training ended with exit code {code}; its last lines say why")
        return code

    def checkpoint(self, *_: Any) -> Any:
        """Ask the training to save and to stop, and wait for that."""
        from submitit.helpers import DelayedSubmission

        if self.child is not None and self.child.returncode is None:
            os.kill(self.child.pid, signal.SIGUSR1)
            # Not Popen.wait: this runs in a signal handler, maybe in the middle of a Popen.poll.
            os.waitid(os.P_PID, self.child.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(TrainTask(self.arguments))

    def __getstate__(self) -> dict[str, Any]:
        return {"arguments": self.arguments, "child": None}


def executor(cluster: str, resources: Resources, *, logs: Path) -> Any:
    """A submitit executor with these resources.

    Raises:
        InputError: submitit is not installed, or there is no SLURM here.
    """
    try:
        import submitit
    except ImportError:
        raise InputError("submitit is not installed; pip install 'revit_video[slurm]'") from None
    try:
        made = submitit.AutoExecutor(logs, cluster=cluster, **with_slurm(cluster, max_num_timeout=REQUEUES))
    except RuntimeError as error:
        raise InputError(f"{error}; submit from a login node, or say --cluster local") from None
    made.update_parameters(
        name=resources.name,
        nodes=resources.nodes,
        tasks_per_node=resources.per_node,
        gpus_per_node=resources.gpus,
        cpus_per_task=resources.cpus,
        timeout_min=round(60 * resources.hours),
        **with_slurm(cluster, **sbatch_options(resources)),
    )
    return made


def sbatch_options(resources: Resources) -> dict[str, Any]:
    options: dict[str, Any] = {"signal_delay_s": WARNING_S}
    if resources.partition:
        options["partition"] = resources.partition
    if resources.slurm:
        options["additional_parameters"] = dict(resources.slurm)
    return options


def sbatch_option(text: str) -> tuple[str, str]:
    """Key and value of "account=vision"."""
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise InputError(f"--slurm is {text!r}, but must be KEY=VALUE, such as account=vision")
    return key, value


def with_slurm(cluster: str, **options: Any) -> dict[str, Any]:
    """The options under the names by which submitit's AutoExecutor passes them on to SLURM alone."""
    return {f"slurm_{name}": value for name, value in options.items()} if cluster == "slurm" else {}


def submit(arguments: Sequence[str], resources: Resources, *, cluster: str, logs: Path) -> Any:
    """Submit a training and return submitit's job.

    Args:
        arguments: of tools/train_net.py; `resume=auto` is added.
        logs: folder of the job's files.
    """
    if cluster == "local" and resources.nodes > 1:
        resources = replace(resources, nodes=1)
    return executor(cluster, resources, logs=logs).submit(TrainTask(arguments))


def ended(job: Any) -> int:
    """Wait for all processes of a job: 0 where all have done their work, 75 where they were stopped and have
    saved, else 1.
    """
    if job.exception() is not None:
        print(f"the job failed; {job.paths.stderr} says why", file=sys.stderr)
        return 1
    return max(job.results())


def how_to_follow(job: Any, *, logs: Path, cluster: str) -> list[str]:
    """What the user may want to do with the job."""
    lines = [f"job {job.job_id}: log {logs / f'{job.job_id}_0_log.out'}"]
    lines.append(f"  follow: tail -F {logs / f'{job.job_id}_0_log.out'}")
    if cluster == "slurm":
        lines.append(f"  state: squeue -j {job.job_id}; stop: scancel {job.job_id}")
    return lines
