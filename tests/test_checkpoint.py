"""Files of a run: whole or absent, read without running code, refused in one line that says why."""

import contextlib
import hashlib
import os
import pickle
import re
import resource
import signal
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from revit_video.train.checkpoint import (
    BrokenFile,
    file_digest,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from revit_video.types import InputError


def refusal(call, *args, **options) -> str:
    with pytest.raises(InputError) as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_saved_comes_back(tmp_path):
    path = tmp_path / "new" / "folder" / "a.pt"
    state = {"kind": "revit", "step": 3, "weights": {"w": torch.arange(4.0)}, "names": ["left", "right"]}
    save_checkpoint(state, path)
    loaded = load_checkpoint(path, kind="revit")
    assert torch.equal(loaded["weights"]["w"], torch.arange(4.0))
    assert (loaded["step"], loaded["names"]) == (3, ["left", "right"])
    assert os.listdir(path.parent) == ["a.pt"]


@pytest.mark.parametrize("fails", ["save", "fsync"])
def test_a_crash_while_saving_leaves_the_old_file(tmp_path, monkeypatch, fails):
    path = tmp_path / "a.pt"
    save_checkpoint({"kind": "revit", "step": 1}, path)
    content = path.read_bytes()

    def crash(*args):
        if fails == "save":
            args[1].write(b"half of it")
        raise OSError("disk full")

    monkeypatch.setattr(*{"save": (torch, "save"), "fsync": (os, "fsync")}[fails], crash)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint({"kind": "revit", "step": 2}, path)
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["a.pt"]
    monkeypatch.undo()
    save_checkpoint({"kind": "revit", "step": 3}, path)
    assert load_checkpoint(path)["step"] == 3
    assert os.listdir(tmp_path) == ["a.pt"]


def test_the_file_is_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    order = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, n=name, real=real: (order.append(n), real(*args)))
    save_checkpoint({"kind": "revit"}, tmp_path / "a.pt")
    assert order == ["fsync", "replace", "fsync"]  # the last one is of the folder, which holds the name


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full, as on Linux")
def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.pt"
    save_checkpoint({"kind": "revit", "step": 1}, path)
    (tmp_path / "a.pt.partial").symlink_to("/dev/full")
    with pytest.raises(OSError) as caught:
        save_checkpoint({"kind": "revit", "w": torch.zeros(10**6)}, path)
    assert str(caught.value) == f"cannot write {path}: No space left on device"
    assert os.listdir(tmp_path) == ["a.pt"] and load_checkpoint(path)["step"] == 1


def test_a_disk_that_fills_up_while_a_file_is_written_leaves_the_old_one(tmp_path):
    """The system's limit for the size of a file stands for the disk: torch, closing its archive, hides it."""
    path, limit = tmp_path / "a.pt", resource.getrlimit(resource.RLIMIT_FSIZE)
    save_checkpoint({"kind": "revit", "step": 1}, path)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limit[1]))
        with pytest.raises(OSError) as caught:
            save_checkpoint({"kind": "revit", "w": torch.zeros(10**6)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert str(caught.value) == f"cannot write {path}: File too large"
    assert os.listdir(tmp_path) == ["a.pt"] and load_checkpoint(path)["step"] == 1


def test_a_flipped_bit_anywhere_is_noticed_or_harms_nothing(tmp_path):
    path = tmp_path / "a.pt"
    state = {"kind": "revit", "w": torch.arange(40.0), "names": ["left", "right"]}
    save_checkpoint(state, path)
    content, noticed, silent_in_torch = path.read_bytes(), 0, 0
    for place in range(0, len(content), 3):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        try:
            loaded = load_checkpoint(path)
        except BrokenFile:
            noticed += 1
            with contextlib.suppress(Exception), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                silent_in_torch += not same(torch.load(path, weights_only=True), state)
        else:
            assert same(loaded, state), place
    assert noticed > 100 and silent_in_torch > 50  # torch alone would have taken these


def same(ours, theirs: dict) -> bool:
    rest = [key for key in theirs if key != "w"]
    return torch.equal(ours["w"], theirs["w"]) and all(ours.get(key) == theirs[key] for key in rest)


class Attack:
    """Would write a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def unreadable_files(folder: Path) -> dict[str, Path]:
    paths = {name: folder / name for name in ("cut.pt", "empty.pt", "text.pt", "attack.pt", "attack_zip.pt")}
    save_checkpoint({"kind": "revit", "w": torch.zeros(1000)}, paths["cut.pt"])
    paths["cut.pt"].write_bytes(paths["cut.pt"].read_bytes()[:2000])
    paths["empty.pt"].touch()
    paths["text.pt"].write_text("learning rate: 3\n")
    paths["attack.pt"].write_bytes(pickle.dumps({"kind": Attack(folder / "attacked")}, protocol=2))
    torch.save({"kind": Attack(folder / "attacked")}, paths["attack_zip.pt"])
    return paths


@pytest.mark.parametrize("name", ["cut.pt", "empty.pt", "text.pt", "attack.pt", "attack_zip.pt"])
def test_a_file_that_is_no_whole_checkpoint_is_refused_and_runs_nothing(tmp_path, name):
    text = refusal(load_checkpoint, unreadable_files(tmp_path)[name])
    assert re.fullmatch(
        rf".*{name} cannot be read as a checkpoint \(.+\); is it whole, and written by this project\?", text
    )
    assert not (tmp_path / "attacked").exists()


def test_a_missing_file_is_refused(tmp_path):
    for path in (tmp_path / "none.pt", tmp_path):
        assert f"no checkpoint at {path}; train one first or give another path" == refusal(
            load_checkpoint, path
        )


def test_weights_of_other_projects_and_files_of_another_kind_are_refused(tmp_path):
    torch.save({"model_state": {}}, tmp_path / "theirs.pt")
    assert "theirs.pt is no checkpoint of this project: it has no `kind`" in refusal(
        load_checkpoint, tmp_path / "theirs.pt"
    )
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    assert "is no checkpoint of this project" in refusal(load_checkpoint, tmp_path / "tensor.pt")
    save_checkpoint({"kind": "progress"}, tmp_path / "step.pt")
    text = refusal(load_checkpoint, tmp_path / "step.pt", kind="revit")
    assert text.endswith("step.pt holds 'progress', but 'revit' was expected")


def network(width: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(2, width), nn.Linear(width, 2))


def test_weights_that_do_not_fit_are_refused_with_every_reason_and_leave_the_model_alone():
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = network().state_dict()
    state["extra"] = state.pop("0.bias")
    state["1.weight"] = torch.zeros(2, 4)
    assert refusal(load_weights, model, state, source="a.pt") == (
        "a.pt does not fit this model: 1 missing (0.bias); 1 unknown (extra); "
        "1 of another shape (1.weight (2, 4) for (2, 3)). Was it trained with other model settings?"
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    text = refusal(load_weights, model, {f"x{i}": torch.zeros(1) for i in range(5)}, source="b.pt")
    assert "4 missing (0.bias, 0.weight, 1.bias, ...); 5 unknown (x0, x1, x2, ...)" in text


def test_weights_that_fit_are_loaded_whole():
    model, other = network(), network()
    load_weights(model, other.state_dict(), source="a.pt")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_a_digest_is_the_files_sha256(tmp_path):
    content = bytes(range(256)) * 9000  # longer than one block of reading
    (tmp_path / "a").write_bytes(content)
    assert file_digest(tmp_path / "a") == hashlib.sha256(content).hexdigest()
