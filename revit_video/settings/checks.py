"""What the groups of settings check their values with. Every refusal is one line with the dotted key."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import field
from typing import Any

from revit_video.types import InputError


def items(*values: Any) -> Any:
    """A list as the default of a field."""
    return field(default_factory=lambda: list(values))


def check(config: Any, name: str, holds: Any, expected: str) -> None:
    """Refuse a value by its dotted key: the group of SolverConfig is `solver`, that of Config is none."""
    if not holds:
        group = type(config).__name__.removesuffix("Config").lower()
        key = f"{group}.{name}" if group else name
        raise InputError(f"{key} is {getattr(config, name)!r}, but must be {expected}")


def default(kind: type, name: str) -> Any:
    chosen = kind.__dataclass_fields__[name]
    return chosen.default_factory() if callable(chosen.default_factory) else chosen.default


def one_of(config: Any, name: str, choices: Sequence[str]) -> None:
    value = getattr(config, name)
    near = difflib.get_close_matches(value.lower(), choices, n=1)
    hint = f". Did you mean {near[0]}?" if near else ""
    check(config, name, value in choices, f"one of {', '.join(choices)}{hint}")


def within(config: Any, low: float, high: float, *names: str) -> None:
    expected = f"at least {low}" if high == math.inf else f"from {low} to {high}"
    for name in names:
        value = getattr(config, name)
        check(config, name, low <= value <= high and value < math.inf, expected)


def above_zero(config: Any, *names: str) -> None:
    for name in names:
        check(config, name, 0 < getattr(config, name) < math.inf, "a number above 0")
