"""What a run leaves on disk: files that are whole or absent, and are read without running code from them."""

import hashlib
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from revit_video.types import InputError

PARTIAL = ".partial"  # ending of a file that is being written


class BrokenFile(InputError):
    """A file that is cut off, changed or no checkpoint at all."""

    def __init__(self, path: Path, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"{path} cannot be read as a checkpoint ({reason}); is it whole, and written by this project?"
        )


def save_checkpoint(state: dict[str, Any], path: str | Path) -> None:
    """Write beside, flush to disk, rename: a kill at any moment leaves the old file or the new one.

    Raises:
        OSError: it cannot be written, as on a full disk. The old file stays, and nothing beside it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + PARTIAL)
    try:
        with open(partial, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync_folder(path.parent)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        # torch, closing its archive after a failed write, covers the system's error with one of its own
        refused = error if isinstance(error, OSError) else error.__context__
        if not isinstance(refused, OSError):
            raise
        raise OSError(f"cannot write {path}: {refused.strerror or refused}") from error


def sync_folder(path: Path) -> None:
    """A new name is on the disk when its folder is."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


UNREADABLE = (RuntimeError, EOFError, OSError, pickle.UnpicklingError, ValueError, KeyError)
UNREADABLE += (zipfile.BadZipFile,)


def load_checkpoint(path: str | Path, *, kind: str | None = None) -> dict[str, Any]:
    """Read a checkpoint of this project on the CPU; `kind` is what it must hold (`revit`, `assigner`,
    `recognizer`). torch writes check sums of all that a file holds, but does not look at them; this does.

    Raises:
        BrokenFile: the file is cut off, changed or no checkpoint.
        InputError: there is none, or it is of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no checkpoint at {path}; train one first or give another path")
    try:
        with zipfile.ZipFile(path) as archive:
            changed = archive.testzip()
        if changed is not None:
            raise zipfile.BadZipFile(f"the check sum of {changed} does not fit")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise BrokenFile(path, reason) from None
    if not isinstance(state, dict) or "kind" not in state:
        raise InputError(
            f"{path} is no checkpoint of this project: it has no `kind`; other weights need a conversion"
        )
    if kind is not None and state["kind"] != kind:
        raise InputError(f"{path} holds {state['kind']!r}, but {kind!r} was expected")
    return state


def load_weights(model: torch.nn.Module, state: dict[str, torch.Tensor], *, source: str | Path) -> None:
    """Strict: every parameter from the file, every tensor of the file used, every shape equal; else one error
    that says which.
    """
    ours = model.state_dict()
    missing = sorted(ours.keys() - state.keys())
    extra = sorted(state.keys() - ours.keys())
    other = [
        f"{k} {tuple(state[k].shape)} for {tuple(v.shape)}"
        for k, v in ours.items()
        if k in state and state[k].shape != v.shape
    ]
    if missing or extra or other:
        parts = [
            f"{len(found)} {what} ({', '.join(found[:3])}{', ...' if len(found) > 3 else ''})"
            for what, found in (("missing", missing), ("unknown", extra), ("of another shape", other))
            if found
        ]
        raise InputError(
            f"{source} does not fit this model: {'; '.join(parts)}. Was it trained with other model settings?"
        )
    model.load_state_dict(state)


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return (
            hashlib.file_digest(file, "sha256").hexdigest()
            if hasattr(hashlib, "file_digest")
            else _sha256(file)
        )


def _sha256(file) -> str:
    digest = hashlib.sha256()  # Python 3.10 has no hashlib.file_digest
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
