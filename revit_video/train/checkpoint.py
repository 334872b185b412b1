"""What a run leaves on disk: files that are whole or absent, and are read without running code from them."""

import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import torch

from revit_video.types import InputError


def save_checkpoint(state: dict[str, Any], path: str | Path) -> None:
    """Write beside, flush to disk, rename: a kill at any moment leaves the old file or the new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def load_checkpoint(path: str | Path, *, kind: str | None = None) -> dict[str, Any]:
    """Read a checkpoint of this project on the CPU; `kind` is what it must hold (`revit`, `assigner`,
    `recognizer`).
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no checkpoint at {path}; train one first or give another path")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise InputError(
            f"{path} cannot be read as a checkpoint ({reason}); is it whole, and written by this project?"
        ) from None
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
