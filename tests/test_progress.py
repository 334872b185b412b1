"""The checkpoints of an unfinished run: which of them stay, which one is taken, and what is refused."""

import copy
import io
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import TINY, randomize
from rich.console import Console

from revit_video.backbones.core import ReViT
from revit_video.train.checkpoint import load_checkpoint
from revit_video.train.log import RunLog
from revit_video.train.loop import Skipped
from revit_video.train.progress import ProgressFolder, Training
from revit_video.train.world import World
from revit_video.types import InputError

IDENTITY = {"config": {}, "class_names": ["left", "right"], "versions": {}}
SETTINGS = {"seed": 0, "solver.base_lr": 0.1, "model.token_lengths": [4, 3, 2]}
DROP_PATH = {"drop_path": 0.5}  # so that a step draws


class Rank(World):
    """One of several processes whose others have nothing to say."""

    def gather(self, thing):
        return [thing] * self.size


def training_of(seed: int = 0) -> Training:
    model = randomize(ReViT(**TINY, **DROP_PATH), seed=seed).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=2)
    average = copy.deepcopy(model)
    return Training(model, average, [optimizer], [schedule], Skipped(5, World(), RunLog(None)), scaler)


def take_step(training: Training) -> None:
    """A step that changes everything that can be saved."""
    loss = training.model(torch.randn(2, 3, 3, 32, 32), 0).square().mean()
    training.optimizers[0].zero_grad()
    training.scaler.scale(loss).backward()
    training.scaler.step(training.optimizers[0])
    training.scaler.update()
    training.schedules[0].step()
    training.skipped.count += 1
    for average, now in zip(training.averaged.parameters(), training.model.parameters(), strict=True):
        average.data.lerp_(now.data, 0.1)


def folder_of(path: Path, **changes) -> ProgressFolder:
    return ProgressFolder(path, **{"identity": IDENTITY, "settings": SETTINGS, **changes})


def resume(folder: ProgressFolder, training: Training | None = None) -> tuple[int, str]:
    """The step and what was said."""
    console = Console(file=io.StringIO(), width=400)
    step = folder.resume(training or training_of(seed=1), RunLog(None, console=console))
    return step, console.file.getvalue()


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    path, training = tmp_path_factory.mktemp("written"), training_of()
    for step in range(1, 7):
        take_step(training)
        if step % 2 == 0:
            folder_of(path).save(training, step)
    return path


@pytest.fixture
def saved(written, tmp_path) -> Path:
    """The last two of the checkpoints of steps 2, 4 and 6."""
    return shutil.copytree(written, tmp_path / "saved")


def flip(path: Path) -> None:
    """Another bit in the middle, where the weights are."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def equal(ours, theirs) -> bool:
    if isinstance(ours, torch.Tensor):
        return torch.equal(ours, theirs)
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(equal(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, (list, tuple)):
        return len(ours) == len(theirs) and all(map(equal, ours, theirs))
    return ours == theirs


def test_all_that_a_step_changes_comes_back_to_the_bit(tmp_path):
    training, folder = training_of(), folder_of(tmp_path)
    before = copy.deepcopy(training.state(World()))
    for _ in range(3):
        take_step(training)
    now = copy.deepcopy(training.state(World()))
    assert [key for key in now if equal(now[key], before[key])] == []
    folder.save(training, 3)
    take_step(training)
    torch.manual_seed(99)
    other = training_of(seed=1)
    assert resume(folder, other) == (3, "going on from step 3 of step_00000003.pt\n")
    assert equal(other.state(World()), now)
    take_step(other)
    assert equal(other.state(World()), training.state(World()))
    assert equal(dict(other.averaged.state_dict()), dict(training.averaged.state_dict()))


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_are_kept(tmp_path, keep):
    training, folder = training_of(), folder_of(tmp_path, keep=keep)
    for step in (5, 10, 100_000_000, 100_000_005):
        assert folder.save(training, step) == folder.file(step)
    assert list(folder.files()) == [100_000_005, 100_000_000, 10][:keep]
    assert len(os.listdir(tmp_path)) == keep


def test_without_a_checkpoint_it_starts_at_the_beginning_and_leaves_the_weights_alone(tmp_path):
    training = training_of()
    before = copy.deepcopy(training.state(World()))
    assert resume(folder_of(tmp_path / "none"), training) == (0, "")
    assert equal(training.state(World()), before)


def test_the_newest_is_taken_and_leftovers_of_a_kill_go(saved):
    (saved / "step_00000008.pt.partial").write_bytes(b"half of it")
    (saved / "step_9.pt").write_bytes(b"of somebody else")
    assert resume(folder_of(saved)) == (6, "going on from step 6 of step_00000006.pt\n")
    assert sorted(os.listdir(saved)) == ["step_00000004.pt", "step_00000006.pt", "step_9.pt"]


@pytest.mark.parametrize(
    "breaking, reason",
    [
        (flip, r"the check sum of \S+ does not fit"),
        (lambda path: path.write_bytes(path.read_bytes()[:3000]), "File is not a zip file"),
        (lambda path: path.write_bytes(b""), "File is not a zip file"),
    ],
    ids=["flipped bit", "cut", "empty"],
)
def test_a_broken_checkpoint_is_named_and_the_one_before_taken(saved, breaking, reason):
    breaking(saved / "step_00000006.pt")
    folder = folder_of(saved)
    step, said = resume(folder)
    line = rf"not readable: step_00000006\.pt \({reason}\); taking step_00000004\.pt in its place"
    assert step == 4 and re.fullmatch(rf"{line}\ngoing on from step 4 of step_00000004\.pt\n", said)
    folder.save(training_of(), 5)  # the broken one is of a future that comes anew
    assert list(folder.files()) == [5, 4]


def test_with_all_of_them_broken_it_does_not_start_anew(saved):
    for path in saved.iterdir():
        flip(path)
    with pytest.raises(InputError) as caught:
        resume(folder_of(saved))
    assert re.fullmatch(
        rf"no checkpoint in {saved} can be read: step_00000006\.pt \(the check sum of .+\), "
        r"step_00000004\.pt \(the check sum of .+\); remove them to start from the beginning",
        str(caught.value),
    )


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"settings": {**SETTINGS, "solver.base_lr": 0.2}},
            "is of a run with solver.base_lr=0.1, now it is 0.2; "
            "give another output_dir= or the same settings",
        ),
        (
            {"settings": {**SETTINGS, "model.token_lengths": [4, 2]}},
            "is of a run with model.token_lengths=[4, 3, 2], now it is [4, 2]; "
            "give another output_dir= or the same settings",
        ),
        (
            {"identity": {**IDENTITY, "class_names": ["left", "up", "down"]}},
            "is of a run with other classes: 2, now 3; number 1 was 'right', now it is 'up'; "
            "give another output_dir= or the same lists",
        ),
        (
            {"identity": {**IDENTITY, "class_names": ["left"]}},
            "is of a run with other classes: 2, now 1; give another output_dir= or the same lists",
        ),
    ],
    ids=["a rate", "a list", "class names", "fewer classes"],
)
def test_a_checkpoint_of_another_run_is_refused_and_nothing_loaded(saved, changes, message):
    training = training_of()
    before = copy.deepcopy(training.state(World()))
    with pytest.raises(InputError) as caught:
        resume(folder_of(saved, **changes), training)
    assert str(caught.value) == f"{saved}/step_00000006.pt {message}"
    assert equal(training.state(World()), before)


def test_a_setting_that_is_younger_than_the_checkpoint_is_no_other_setting(saved):
    assert resume(folder_of(saved, settings={**SETTINGS, "solver.new": 1}))[0] == 6


def test_a_file_of_another_kind_under_its_name_is_refused(saved):
    training, folder = training_of(), folder_of(saved)
    folder.note_score(training, 6, 50.0)
    (saved / "best.pt").replace(saved / "step_00000006.pt")
    with pytest.raises(InputError, match=r"step_00000006\.pt holds 'revit', but 'progress' was expected"):
        resume(folder)


def test_another_number_of_processes_goes_on_and_says_so(saved):
    training, folder = training_of(), folder_of(saved, world=Rank(rank=0, size=2), keep=1)
    step, said = resume(folder, training)
    assert (step, said) == (
        6,
        "going on from step 6 of step_00000006.pt; the result is not exactly that of a run without the stop: "
        "processes was 1, now 2\n",
    )
    state = load_checkpoint(folder.file(6))
    assert all(equal(value, state[key]) for key, value in training.state(World()).items())
    torch.manual_seed(7)
    own = torch.get_rng_state()
    training.load(state, Rank(rank=1, size=2), source=folder.file(6))
    assert torch.equal(torch.get_rng_state(), own)  # it was not there, so its own draws stay


def test_other_circumstances_are_said(saved):
    said = resume(folder_of(saved, circumstances={"dtype": "bfloat16", "solver.micro_batch_size": 2}))[1]
    assert "without the stop: dtype was None, now bfloat16, solver.micro_batch_size was None, now 2\n" in said


def test_a_full_disk_keeps_the_checkpoints_of_before(saved):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    (saved / "step_00000007.pt.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"^cannot write .*step_00000007\.pt: No space left on device$"):
        folder_of(saved).save(training_of(), 7)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert resume(folder_of(saved))[0] == 6


def test_the_best_weights_are_the_averaged_ones_of_the_best_score_and_outlast_the_run(tmp_path):
    training, folder = training_of(), folder_of(tmp_path)
    weights = {}
    for step, score in enumerate((40.0, 60.0, 60.0, 50.0), start=1):
        take_step(training)
        weights[step] = copy.deepcopy(training.averaged.state_dict())
        folder.note_score(training, step, score)
    folder.save(training, 4)
    best = load_checkpoint(tmp_path / "best.pt", kind="revit")
    assert (best["step"], best["score"], best["class_names"]) == (2, 60.0, ["left", "right"])
    assert equal(dict(best["model"]), dict(weights[2]))

    again = folder_of(tmp_path)
    resume(again, training)
    again.note_score(training, 5, 59.0)
    assert load_checkpoint(tmp_path / "best.pt")["step"] == 2
    again.note_score(training, 6, 61.0)
    assert load_checkpoint(tmp_path / "best.pt")["step"] == 6
    again.clear()
    assert os.listdir(tmp_path) == ["best.pt"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_draws_of_a_gpu_go_on_too(tmp_path):
    training, folder = training_of(), folder_of(tmp_path)
    training.model.cuda(), training.averaged.cuda()

    def drawn() -> float:
        return float(training.model(torch.ones(2, 3, 3, 32, 32, device="cuda"), 0).sum())

    drawn()
    folder.save(training, 1)
    once = [drawn() for _ in range(4)]
    assert len(set(once)) > 1  # stochastic depth
    torch.cuda.manual_seed(99)
    resume(folder, training)
    assert [drawn() for _ in range(4)] == once
