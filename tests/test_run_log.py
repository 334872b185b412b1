"""What a run writes down: each step once, however often it was killed; speed, waiting, memory, use."""

import io
import json
import sys
import time
import types

import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from revit_video.report.device_peak import TENSOR_CORES, measured_flops, peak_flops
from revit_video.train.log import RunLog
from revit_video.train.meter import Meter, in_short
from revit_video.train.world import World
from revit_video.types import InputError


class Pair(World):
    """Rank 0 of two processes, the other one of which gives what it is told to."""

    def __init__(self, other):
        super().__init__(0, 2)
        object.__setattr__(self, "other", other)

    def gather(self, thing):
        return [thing, self.other]


@pytest.fixture
def clock(monkeypatch):
    """clock(seconds): time goes on, and not otherwise."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def go_on(seconds):
        now[0] += seconds

    return go_on


def rows(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def write(folder, stage, steps, *, start=None):
    with RunLog(folder, console=Console(file=io.StringIO())) as log:
        if start is not None:
            log.resume(stage, start)
        for step in steps:
            log.scalars(stage, step, {"loss": float(step)})


def test_a_resumed_run_has_each_step_once_and_leaves_other_stages_alone(tmp_path):
    write(tmp_path, "revit", [0, 10, 20, 30], start=0)
    write(tmp_path, "assigner", [0, 25], start=0)
    write(tmp_path, "revit", [20, 40], start=15)
    steps = [(row["stage"], row["step"]) for row in rows(tmp_path)]
    assert steps == [
        ("revit", 0),
        ("revit", 10),
        ("assigner", 0),
        ("assigner", 25),
        ("revit", 20),
        ("revit", 40),
    ]


def test_tensorboard_drops_the_steps_that_come_again(tmp_path):
    write(tmp_path, "revit", [0, 10, 20, 30], start=0)
    time.sleep(1.1)  # the names of its files count seconds
    write(tmp_path, "revit", [20, 40], start=15)
    seen = EventAccumulator(str(tmp_path / "tensorboard/revit"))
    seen.Reload()
    assert [event.step for event in seen.Scalars("loss")] == [0, 10, 20, 40]


def test_a_row_torn_by_a_kill_is_taken_away(tmp_path):
    write(tmp_path, "revit", [0, 10], start=0)
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"stage": "revit", "st')
    write(tmp_path, "revit", [20], start=20)
    assert [row["step"] for row in rows(tmp_path)] == [0, 10, 20]


def test_speed_waiting_and_utilisation_are_of_all_processes(clock):
    meter = Meter(peak_flops=lambda: 6e12)
    for _ in meter.waiting_for([1]):
        clock(3)
        meter.add({"clips": torch.tensor(8.0), "loss": 4.0, "gmacs": 1000.0})
    with meter.aside():
        clock(100)
    clock(1)
    report = meter.read(
        Pair(({"clips": 4.0, "loss": 8.0, "gmacs": 500.0, "loss/level1": 12.0}, 2.0, 3 * 2**40))
    )
    assert (report["loss"], report["loss/level1"], report["clips_per_s"]) == (1.0, 1.0, 3.0)
    assert report["waiting_percent"] == 25.0  # 2 s of 2 x 4 s
    assert report["memory_gib"] == 3072  # of the process that has most
    assert report["mfu_percent"] == pytest.approx(100 * 1500e9 * 2 * 3 / (4 * 2 * 6e12))
    assert "gmacs" not in report


def test_waiting_is_the_time_that_a_batch_takes(clock):
    def batches():
        clock(3)
        yield 1

    meter = Meter()
    for _ in meter.waiting_for(batches()):
        clock(1)
    assert meter.read(World())["waiting_percent"] == 75.0


def test_without_known_costs_there_is_no_utilisation():
    meter = Meter(peak_flops=lambda: pytest.fail("nobody asks for the peak"))
    meter.add({"clips": 1.0, "loss": 2.0})
    report = meter.read(World())
    assert "mfu_percent" not in report and report["memory_gib"] > 0.01
    assert in_short(report).startswith("loss 2.000  ")


def test_the_peak_is_given_or_of_the_data_sheet_or_measured(monkeypatch):
    cpu = torch.device("cpu")
    assert peak_flops(cpu, torch.float32, given=3e12) == 3e12
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 PCIe")
    known = peak_flops(torch.device("cuda"), torch.bfloat16)
    assert known == TENSOR_CORES["H100 PCIe"] * 1e12
    before = torch.get_rng_state()
    assert 1e8 < measured_flops(cpu, torch.float32, repeats=1) < 1e15
    assert torch.equal(torch.get_rng_state(), before)


def test_the_longer_name_of_a_gpu_is_found_before_the_shorter():
    names = list(TENSOR_CORES)
    for place, name in enumerate(names):
        assert not [earlier for earlier in names[:place] if earlier in name], name


def test_wandb_is_imported_only_when_asked_for_and_its_absence_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    write(tmp_path, "revit", [0])
    with pytest.raises(InputError, match=r"pip install 'revit_video\[wandb\]'"):
        RunLog(tmp_path, wandb="project")


def test_wandb_gets_every_stage_with_steps_of_its_own_and_the_same_run_again(tmp_path, monkeypatch):
    begun, logged = [], []
    run = types.SimpleNamespace(define_metric=lambda *a, **k: None, log=logged.append, finish=lambda: None)
    fake = types.SimpleNamespace(
        init=lambda **options: begun.append(options) or run,
        __spec__=object(),
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for step in (0, 10):
        with RunLog(tmp_path, wandb="project", settings={"seed": 3}) as log:
            log.scalars("revit", step, {"loss": 1.0})
    first, second = begun
    assert first == second and first["resume"] == "allow" and len(first["id"]) == 8
    assert (first["project"], first["config"]) == ("project", {"seed": 3})
    assert logged == [{"revit/step": step, "revit/loss": 1.0} for step in (0, 10)]


@pytest.mark.slow
def test_wandb_writes_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    with RunLog(tmp_path, wandb="project") as log:
        log.scalars("revit", 0, {"loss": 1.0})
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
