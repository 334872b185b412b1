"""tools/submit.py with submitit's local executor: a job runs, is preempted, goes on, and ends."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_run import CFG, PLAIN, ROOT, SMALL, run_tool

from revit_video import submit
from revit_video.submit import Resources, TrainTask, sbatch_options, with_slurm
from revit_video.types import InputError

pytest.importorskip("submitit")
pytest_plugins = ["run_fixtures"]


def children(pid):
    """The processes that a process has started (Linux)."""
    return map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def wait_for(holds, *, seconds=240):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come in time"
        time.sleep(0.1)


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the job's processes in /proc")
@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_preempted_job_goes_on_and_ends(processes, demo_data, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    out, logs = tmp_path / "run", tmp_path / "logs"
    settings = [*SMALL, *PLAIN, f"output_dir={out}", f"data.root={demo_data}", "stage=revit", "device=cpu"]
    settings += ["solver.max_steps=150", "solver.log_period=1", "resume=false"]
    resources = Resources("tiny", gpus=0, processes=processes, hours=0.2)
    job = submit.submit(["--cfg", str(CFG), *settings], resources, cluster="local", logs=logs)
    log = out / "log.jsonl"
    wait_for(lambda: log.exists() and len(log.read_text().splitlines()) > 5)
    for task in children(job._process.pid):  # as SLURM does it
        os.kill(task, signal.SIGUSR2)
    assert submit.ended(job) == 0
    said = job.paths.stdout.read_text()
    assert "stopped by SIGUSR1" in job.paths.stderr.read_text() and "going on from step" in said
    steps = [row["step"] for row in map(json.loads, log.read_text().splitlines()) if row["stage"] == "revit"]
    assert steps == list(range(150)) and (out / "checkpoints/revit.pt").exists()
    if processes > 1:
        assert f"{processes} processes" in said


def test_a_job_that_fails_says_so(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    code = run_tool(
        *("submit.py", "--cfg", CFG, "--cluster", "local", "--gpus", 0, "--wait"),
        *("--logs", tmp_path / "logs", "data.root=/nowhere", f"output_dir={tmp_path / 'run'}"),
    )
    assert code == 1
    out, err = capfd.readouterr()
    assert "follow: tail -F" in out and "the job failed" in err
    said = next((tmp_path / "logs").glob("*_0_log.err")).read_text()
    assert "/nowhere" in said and "exit code 2" in said


def test_a_job_always_goes_on_where_it_was():
    assert TrainTask(["--cfg", "a", "resume=true", "seed=1"]).arguments == [
        "--cfg",
        "a",
        "seed=1",
        "resume=auto",
    ]


def test_what_is_asked_of_slurm():
    asked = Resources("x", nodes=2, gpus=4, partition="p", slurm={"account": "vision"})
    assert asked.size == 8
    options = with_slurm("slurm", **sbatch_options(asked))
    assert options["slurm_partition"] == "p" and options["slurm_signal_delay_s"] == submit.WARNING_S
    assert options["slurm_additional_parameters"] == {"account": "vision"}
    assert with_slurm("local", **sbatch_options(asked)) == {}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--hours", "0"], "--hours is 0.0, but must be above 0"),
        (["--gpus", "2", "--processes", "3"], "every GPU has a process of its own"),
        (["--slurm", "account"], "--slurm is 'account', but must be KEY=VALUE"),
    ],
)
def test_bad_resources_are_one_line(arguments, said, tmp_path, refusal):
    code = run_tool("submit.py", "--cfg", CFG, *arguments, "data.root=x", f"output_dir={tmp_path / 'run'}")
    assert said in refusal(code)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (75, True), (2, False)])
def test_the_batch_script_starts_a_process_per_gpu_and_requeues_what_was_stopped(
    code, requeued, tmp_path, monkeypatch
):
    """With stand-ins for what SLURM brings: srun runs one of the processes, scontrol notes its arguments."""
    scripts = {
        "srun": 'SLURM_PROCID=3 SLURM_LOCALID=1 SLURM_NTASKS=4 exec "$@"',
        "scontrol": f'echo "$@" >> {tmp_path}/asked; echo first; echo second',
        "trainer": f'echo $RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR $MASTER_PORT "$@" > {tmp_path}/ran; '
        f"exit {code}",
    }
    for name, text in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    known = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": str(tmp_path / "trainer")}
    known |= {"SLURM_JOB_ID": "41", "SLURM_JOB_NODELIST": "n[1-2]"}
    ended = subprocess.run(["bash", "tools/train.sbatch", "--cfg", "a b", "seed=1"], cwd=ROOT, env=known)
    assert ended.returncode == code
    assert (
        tmp_path / "ran"
    ).read_text() == "3 1 4 first 20041 tools/train_net.py --cfg a b seed=1 resume=auto\n"
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked == ["show hostnames n[1-2]"] + ["requeue 41"] * requeued


@pytest.mark.skipif(shutil.which("srun") is not None, reason="there is a SLURM here")
def test_without_slurm_the_line_says_what_to_do(tmp_path):
    with pytest.raises(InputError, match="submit from a login node, or say --cluster local"):
        submit.executor("slurm", Resources("x"), logs=tmp_path)


def test_a_dry_run_submits_nothing(demo_data, tmp_path, capfd):
    code = run_tool(
        *("submit.py", "--cfg", CFG, "--gpus", 4, "--dry-run", f"output_dir={tmp_path / 'run'}"),
        *(f"data.root={demo_data}", *SMALL),
    )
    assert code == 0
    assert "4 processes: all run lengths 8, 5, 3 on up to 2 of the 8 clips" in capfd.readouterr().out
    assert not (tmp_path / "run").exists()
