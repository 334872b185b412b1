"""--dry-run: the plan is the run's, memory is what a step takes, and problems keep it from starting."""

import re
import subprocess
import sys

import pytest
import torch
from small_run import CFG, ROOT, SMALL, contents, report_of, run_tool

from revit_video.backbones.memory import saved_bytes, step_memory
from revit_video.backbones.zoo import create_model

pytest_plugins = ["run_fixtures"]

SIZES = {"dim": 256, "depth": 6, "heads": 4, "num_frames": 8, "num_classes": 10, "drop_path": 0.1}


def dry(out, data, *arguments):
    return run_tool(
        *("train_net.py", "--cfg", CFG, *SMALL, f"data.root={data}", f"output_dir={out}", "--dry-run"),
        *arguments,
    )


def test_the_plan_has_processes_batch_steps_costs_memory_and_lists(demo_data, tmp_path, capfd):
    more = ["solver.micro_batch_size=2", "distributed.lengths=parallel", "--processes", 3]
    assert dry(tmp_path / "run", demo_data, *more) == 0
    said = capfd.readouterr().out
    assert "run: revit, labels, assigner, test\n" in said
    assert "train list: 16 videos, 10 classes" in said and "test list: 10 videos" in said
    assert re.search(r"ranks 0 to 1: lengths 8 on up to 4 of the 8 clips", said)
    assert "effective batch: 8 clips, 4 to 8 to a process, in 4 passes of up to 2; learning rate" in said
    assert "steps: 12, the first 6 at the shortest length alone: 6 epochs of 2.0 steps over 16 videos" in said
    assert re.search(r"memory per device, estimated, float32, 2 clips a pass: 0\.\d+ GiB \(weights", said)
    assert "decoded 4 of 4 training videos" in said
    assert not (tmp_path / "run").exists()


def test_the_cost_is_that_of_the_lengths_forward_and_backward(small_run, demo_data, tmp_path, capfd):
    costs = [row["gmacs"] for row in report_of(small_run)["per_length"]]
    assert dry(tmp_path / "run", demo_data) == 0
    total = re.search(r"all lengths: ([\d.]+) GMACs per step", capfd.readouterr().out)[1]
    assert float(total) == pytest.approx(3 * 8 * sum(costs), rel=0.01)


def test_a_folder_with_a_run_is_a_problem_and_stays_as_it_is(small_run, demo_data, capfd):
    before = contents(small_run)
    assert dry(small_run, demo_data) == 2
    said = capfd.readouterr().out
    assert "PROBLEM" in said and "already holds" in said and "1 problem: the run would not start" in said
    assert "decoded 4 of 4" in said  # the rest is looked at all the same
    assert contents(small_run) == before


def test_problems_of_the_data_are_counted_and_named(data, tmp_path, capfd):
    names = sorted((data / "videos/train").iterdir())
    for video in names[:3]:
        video.unlink()
    assert dry(tmp_path / "run", data, "data.dataset=kinetics") == 2
    said = capfd.readouterr().out
    assert re.search(r"PROBLEM: .*\b3\b.*do(es)? not exist", said)


def test_broken_videos_show(data, tmp_path, capfd):
    for video in (data / "videos/train").iterdir():
        video.write_bytes(b"no video")
    assert dry(tmp_path / "run", data) == 2
    assert "PROBLEM: none of 4 training videos can be read" in capfd.readouterr().out


def test_more_processes_than_clips_is_a_problem(demo_data, tmp_path, capfd):
    assert dry(tmp_path / "run", demo_data, "--processes", 9) == 2
    assert "a batch of 8 does not give each of 9 processes a clip" in capfd.readouterr().out


def test_of_several_processes_one_speaks(demo_data, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert dry(tmp_path / "run", demo_data) == 0
        assert ("2 processes: all run" in capfd.readouterr().out) == (rank == "0")


def meta(name, **changes):
    with torch.device("meta"):
        return create_model(name, **{**SIZES, **changes}).train()


@pytest.mark.parametrize("name", ["timesformer_base", "motionformer_base"])
def test_what_is_kept_grows_with_clips_and_depth_and_shrinks_with_half_and_with_running_blocks_twice(name):
    one = saved_bytes(meta(name), 0, clips=1)[0]
    assert saved_bytes(meta(name), 0, clips=3)[0] == pytest.approx(3 * one, rel=0.01)
    depths = [saved_bytes(meta(name, depth=depth), 0, clips=1)[0] for depth in (2, 3, 4)]
    assert depths[2] - depths[1] == depths[1] - depths[0]
    assert 0.5 < saved_bytes(meta(name), 0, clips=8, dtype=torch.bfloat16)[0] / (8 * one) < 0.8
    assert saved_bytes(meta(name), 0, clips=1, recompute=True)[0] < 0.4 * one


def test_the_kept_tensors_are_those_of_a_real_pass():
    """Joint attention in float32 on the CPU keeps the same tensors; counted there by the same rule."""
    sizes = {**SIZES, "dim": 32, "depth": 2, "crop": 32, "drop_path": 0.0, "token_lengths": (4, 2)}
    model = create_model("timesformer_joint_base", **sizes)
    weights, seen, alive = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}, []

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        alive.append(model(torch.zeros(2, 3, 8, 32, 32), 0, full_output=True))
    with torch.device("meta"):
        same = create_model("timesformer_joint_base", **sizes)
    assert saved_bytes(same, 0, clips=2)[0] == pytest.approx(sum(seen.values()), rel=0.06)


MEASURED = """
import resource, sys, torch
from revit_video.backbones.zoo import create_model
from revit_video.train.losses import Distillation
from revit_video.train.optim import build_optimizers
from revit_video.train.revit import revit_step
torch.set_num_threads(1)
sizes = {sizes}
def step(model, clips, optimizers):
    labels = torch.zeros(len(clips), dtype=torch.long)
    revit_step(model, clips, labels, levels=range(model.num_levels), distillation=Distillation())
    for optimizer in optimizers:
        optimizer.step()
tiny = create_model({name!r}, **dict(sizes, depth=1, num_frames=2)).train()
step(tiny, torch.randn(1, 3, 2, 224, 224), build_optimizers(tiny, 'adamw', lr=1e-3, weight_decay=0.0))
clips = torch.randn(2, 3, 8, 224, 224)
before = int(open('/proc/self/statm').read().split()[1]) * resource.getpagesize()
model = create_model({name!r}, **sizes).train()
optimizers = build_optimizers(model, 'adamw', lr=1e-3, weight_decay=0.0)
for _ in range(2):
    step(model, clips, optimizers)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", ["timesformer_base", "motionformer_base"])
def test_the_estimate_is_what_a_step_takes_within_a_factor_of_one_and_a_half(name):
    text = MEASURED.format(name=name, sizes=SIZES)
    ended = subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, check=True)
    needed = step_memory(meta(name), clips=2, dtype=torch.float32, optimizer="adamw")
    assert 1 / 1.5 < needed.total / int(ended.stdout) < 1.5
