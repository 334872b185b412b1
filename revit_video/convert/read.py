"""Weights from a file, whoever wrote it, without ever running code from it."""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from revit_video.convert.rules import first_keys
from revit_video.types import InputError

CONTAINERS = ("model_state", "state_dict_ema", "model_ema", "state_dict", "model")  # the first there is wins
KINDS = ("revit", "recognizer")  # of this project's checkpoints
# timm writes the command line of the training beside the weights; a bag of values, no code
torch.serialization.add_safe_globals([argparse.Namespace])


@dataclass(frozen=True)
class WeightsFile:
    """Tensors by name. `ours` is everything else of one of this project's checkpoints, else empty."""

    path: Path
    state: dict[str, Tensor]
    ours: dict = field(default_factory=dict)


def read_weights(path: str | Path) -> WeightsFile:
    """Read .safetensors, or what torch.save wrote: a state dict, or one under a usual name.

    Raises:
        InputError: the file is not there, not whole, no weights, or holds code.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no weights at {path}; give the path of a .safetensors, .pt, .pth or .pyth file")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    if isinstance(content, dict) and content.get("kind") in KINDS and _is_state(content.get("model")):
        rest = {key: value for key, value in content.items() if key != "model"}
        return WeightsFile(path, content["model"], rest)
    return WeightsFile(path, _state_in(content, path))


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, ValueError, OSError) as error:
        raise InputError(
            f"{path} is no whole safetensors file ({_line(error)}); download or copy it again"
        ) from None


def _read_torch(path: Path) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of how the pickle was made; what matters raises
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(_refusal(path, str(error))) from None
    except Exception as error:  # a broken pickle raises nearly anything: IndexError, UnicodeDecodeError, ...
        raise InputError(
            f"{path} cannot be read as weights ({_line(error)}); it is cut off or no file of torch.save: "
            "download or copy it again"
        ) from None


def _refusal(path: Path, message: str) -> str:
    """Why the safe unpickler would not go on: code in the file, or no pickle at all."""
    code = re.search(r"Unsupported (?:global|class)[: ]+(?:GLOBAL )?([\w.]+)", message)
    if code or "GLOBAL" in message or "REDUCE" in message or "BUILD" in message:
        name = f" ({code[1]})" if code else ""
        return (
            f"{path} holds more than tensors{name}: reading it would run code from the file, which is never "
            "done; where you trust it, load it yourself and save its tensors alone as .safetensors"
        )
    return (
        f"{path} cannot be read as weights: it is no file of torch.save, or cut off; expected .safetensors, "
        ".pt, .pth or .pyth"
    )


def _state_in(content: object, path: Path) -> dict[str, Tensor]:
    if _is_state(content):
        return dict(content)
    if isinstance(content, dict):
        for name in CONTAINERS:
            if _is_state(content.get(name)):
                return dict(content[name])
    keys = (
        f"its first keys are {first_keys(content)}" if isinstance(content, dict) else type(content).__name__
    )
    raise InputError(
        f"{path} holds no weights: {keys}; expected tensors by name, or them under {', '.join(CONTAINERS)}"
    )


def _is_state(content: object) -> bool:
    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items())
    )


def _line(error: Exception) -> str:
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__
