"""Read and write the settings of a run: YAML files and `key=value` overrides, through OmegaConf.

    config = load_config("configs/demo/small.yaml", ["solver.base_lr=0.01", "model.token_lengths=[14,7]"])

A YAML says what differs from the defaults in settings/, or from another file named by `base: other.yaml`.
Only build/ reads a Config; parts take plain arguments. Every mistake is one InputError that names the key.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields, is_dataclass
from functools import reduce
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException, ValidationError

from revit_video.settings import MISSING, Config
from revit_video.types import InputError

TYPE_WORDS = {
    bool: "true or false",
    bool | str: "true, false or auto",  # the one key of this type
    int: "a whole number",
    float: "a number",
    str: "text",
    list[int]: "a list of whole numbers like [14, 10, 7]",
    list[float]: "a list of numbers like [0.5, 0.1]",
    list[list[str]]: "a list of pairs of names like [[left, right]]",
    dict[str, Any]: "keys with values like {depth: 6}",
}


def load_config(path: str | os.PathLike | None = None, overrides: Sequence[str] = ()) -> Config:
    """Defaults, then the file's chain of bases, then the file, then the overrides in their order.

    Args:
        path: a YAML file; None: the defaults alone.
        overrides: "group.key=value" with the value in YAML; lists replace lists, `model.options` is merged.

    Raises:
        InputError: a file is missing or no YAML, a key is unknown, or a value is of the wrong type, out of
            range or not given.
    """
    layers = _file_layers(Path(path)) if path is not None else []
    return _resolve(layers + [_override_layer(text) for text in overrides])


def config_from_dict(values: dict[str, Any], *, source: str = "the given settings") -> Config:
    """A Config from nested dicts as `config_to_dict` makes them; errors name `source`."""
    return _resolve([(source, values)])


def config_to_dict(config: Config) -> dict[str, Any]:
    return asdict(config)


def save_config(config: Config, path: str | os.PathLike) -> None:
    """Write every setting, whole or not at all; `load_config(path)` gives an equal Config."""
    partial = Path(f"{path}.partial")
    partial.write_text(OmegaConf.to_yaml(OmegaConf.create(asdict(config))), encoding="utf-8")
    os.replace(partial, path)


def config_keys(kind: type = Config, prefix: str = "") -> Iterator[str]:
    """All dotted keys that hold a value: "stage", ..., "data.dataset", ... in the order of the classes."""
    for name, hint in get_type_hints(kind).items():
        if is_dataclass(hint):
            yield from config_keys(hint, f"{prefix}{name}.")
        else:
            yield prefix + name


def _resolve(layers: list[tuple[str, Any]]) -> Config:
    """Merge (source, nested dict) layers over the defaults, later ones win, and check the result."""
    merged, to_give = OmegaConf.structured(Config), set()
    for source, layer in layers:
        layer = _known_keys_only(layer, Config, source)
        try:
            merged = OmegaConf.merge(merged, layer)
        except OmegaConfBaseException as error:
            raise _wrong_value(error, layer, source) from None
        for key, value in _leaves(layer):  # a merge passes over ???
            (to_give.add if value == MISSING else to_give.discard)(key)
    try:
        config = OmegaConf.to_object(merged)
    except MissingMandatoryValue as error:
        to_give.add(error.full_key)
    except OmegaConfBaseException as error:  # such as ${no.such.key}
        raise InputError(f"{error.full_key}: {_problem(error)}") from None
    for key in sorted(to_give):
        raise InputError(f"{key} is not given; write it into the config file or add {key}=VALUE")
    return config


def _leaves(layer: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted keys of a layer with their values."""
    for name, value in layer.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _file_layers(path: Path, readers: tuple[Path, ...] = ()) -> list[tuple[str, dict]]:
    """The layers of a file, its base's first. `readers`: the files that led here, to find a circle."""
    if path.resolve() in [reader.resolve() for reader in readers]:
        circle = " -> ".join(str(reader) for reader in (*readers, path))
        raise InputError(f"the config files name each other as base: {circle}")
    values = _read_yaml(path, readers)
    base = values.pop("base", None)
    if base is None:
        return [(str(path), values)]
    if not isinstance(base, str):
        raise InputError(f"base is {base!r} in {path}, but must be the name of one YAML file")
    below = _file_layers(path.parent / Path(base).expanduser(), (*readers, path))
    return [*below, (str(path), values)]


def _read_yaml(path: Path, readers: tuple[Path, ...]) -> dict[str, Any]:
    named_by = f", the base of {readers[-1]}," if readers else ""
    if not path.is_file():
        others = sorted(file.name for file in path.parent.glob("*.yaml"))
        near = difflib.get_close_matches(path.name, others, n=3, cutoff=0.3) or others[:3]
        hint = f"; in its folder there are {', '.join(near)}" if near else ""
        raise InputError(f"no config file {path}{named_by}{hint}")
    try:
        loaded = OmegaConf.load(path)
    except (yaml.YAMLError, UnicodeDecodeError, OSError, OmegaConfBaseException) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise InputError(f"{path}{line} is no valid YAML: {_problem(error)}") from None
    if not isinstance(loaded, DictConfig):
        raise InputError(f"{path} holds no keys with values, such as 'solver: {{base_lr: 0.01}}'")
    return OmegaConf.to_container(loaded)


def _override_layer(text: str) -> tuple[str, dict]:
    """("the override 'a.b=1'", {"a": {"b": 1}})"""
    key, equals, value_text = text.partition("=")
    key = key.strip()
    if not equals or not all(key.split(".")):
        raise InputError(f"cannot read the override {text!r}; write it like solver.base_lr=0.01")
    value: Any = value_text.strip()
    quoted = value[:1] in ("'", '"')
    if _hint(key) is not str or quoted:  # other text stays as it is: 007 may be a folder
        try:
            value = OmegaConf.to_container(OmegaConf.create(f"value: {value}"))["value"]
        except (yaml.YAMLError, OmegaConfBaseException) as error:
            raise InputError(f"the value in the override {text!r} is no YAML: {_problem(error)}") from None
    for part in reversed(key.split(".")):
        value = {part: value}
    return f"the override {text!r}", value


def _known_keys_only(values: Any, kind: type, source: str, prefix: str = "") -> dict[str, Any]:
    """The values, with empty groups as {}; InputError at the first key that no dataclass has."""
    if values is None:
        return {}
    if not isinstance(values, dict):
        inner = ", ".join(field.name for field in fields(kind)[:3])
        raise InputError(
            f"{prefix[:-1] or 'the config'} is {values!r} in {source}, but is a group of keys ({inner}, ...)"
        )
    hints = get_type_hints(kind)
    known = {}
    for key, value in values.items():
        if key not in hints:
            raise InputError(_unknown_key(f"{prefix}{key}", value, source))
        if is_dataclass(hints[key]):
            value = _known_keys_only(value, hints[key], source, f"{prefix}{key}.")
        elif not _has_form(value, hints[key]):
            raise _wrong_type(f"{prefix}{key}", value, source)
        known[key] = value
    return known


def _has_form(value: Any, hint: Any) -> bool:
    """Whether containers are where they belong; for these two types OmegaConf's own errors name no key."""
    if hint == dict[str, Any]:
        return isinstance(value, dict)
    if hint == list[list[str]]:
        return isinstance(value, list) and all(isinstance(row, list) for row in value)
    return True


def _unknown_key(key: str, value: Any, source: str) -> str:
    while isinstance(value, dict) and value:  # an unknown group: name its first key too
        inner, value = next(iter(value.items()))
        key = f"{key}.{inner}"

    def likeness(known: str) -> float:  # of the whole key and of its last part
        pairs = (key.lower(), known), (key.lower().split(".")[-1], known.split(".")[-1])
        return sum(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)

    nearest = max(config_keys(), key=likeness)
    if likeness(nearest) > 1.2:
        return f"unknown config key {key} in {source}. Did you mean {nearest}?"
    group = _hint(key.split(".")[0])
    known = [field.name for field in fields(group if is_dataclass(group) else Config)]
    return f"unknown config key {key} in {source}; there are {', '.join(known)}"


def _wrong_value(error: OmegaConfBaseException, layer: dict, source: str) -> InputError:
    """The library's "could not be converted" in our words: key, value, source and what is expected."""
    key = (error.full_key or "").split("[")[0]  # "model.token_lengths[1]": name the whole list
    if not isinstance(error, ValidationError) or _hint(key) not in TYPE_WORDS:
        return InputError(f"{key or 'the settings'}: {_problem(error)}, in {source}")
    return _wrong_type(key, reduce(dict.__getitem__, key.split("."), layer), source)


def _wrong_type(key: str, value: Any, source: str) -> InputError:
    return InputError(f"{key} is {value!r} in {source}, but must be {TYPE_WORDS[_hint(key)]}")


def _hint(key: str) -> Any:
    """The declared type of a dotted key; None where there is no such key."""
    kind: Any = Config
    for part in key.split("."):
        kind = get_type_hints(kind).get(part) if is_dataclass(kind) else None
    return kind


def _problem(error: Exception) -> str:
    """What a YAML or OmegaConf error says, in one line."""
    return getattr(error, "problem", None) or (str(error).splitlines() or [type(error).__name__])[0]


def override_config(config: Config, overrides: Sequence[str]) -> Config:
    """The config with "group.key=value" overrides on top, checked anew."""
    return _resolve([("the given settings", asdict(config)), *map(_override_layer, overrides)])
