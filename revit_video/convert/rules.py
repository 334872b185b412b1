"""Tables from their parameter names to ours, and back.

A table says for every name of theirs what it is here: a name, or `Dead` with the reason why nothing reads it.
`N` stands for a block's number and a last `*` for `weight` or `bias`, the same on both sides, so that one
table serves both directions:

    {"blocks.N.attn.qkv.*": "blocks.N.attn.qkv.*", "norm.weight": "norm.scale"}
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from torch import Tensor

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Dead:
    """A parameter that the official forward pass never reads, or whose value cannot change a logit."""

    why: str


Table = Mapping[str, "str | Dead"]


def norm(theirs: str, ours: str | None = None) -> dict[str, str]:
    """The two rows of a LayerNorm: weight and bias there, scale and shift here."""
    ours = ours or theirs
    return {f"{theirs}.weight": f"{ours}.scale", f"{theirs}.bias": f"{ours}.shift"}


def linears(*names: str) -> dict[str, str]:
    """Rows of layers that have the same name here."""
    return {f"{name}.*": f"{name}.*" for name in names}


BLOCK: dict[str, str | Dead] = {  # of nearly every vision transformer that is written like timm's
    **norm("blocks.N.norm1"),
    **linears("blocks.N.attn.qkv", "blocks.N.attn.proj"),
    **norm("blocks.N.norm2"),
    **linears("blocks.N.mlp.fc1", "blocks.N.mlp.fc2"),
}
OUTER: dict[str, str | Dead] = {
    "cls_token": "class_token",
    "pos_embed": "pos_tables.0",
    **norm("norm"),
    **linears("head"),
}


@cache
def _regex(pattern: str) -> re.Pattern[str]:
    text = re.escape(pattern).replace(r"\.N\.", r"\.(?P<N>\d+)\.")
    if pattern.endswith(".*"):
        text = text.removesuffix(r"\*") + "(?P<tail>weight|bias)"
    return re.compile(text)


def translate(key: str, table: Table) -> str | Dead | None:
    """What the table says of a name; None where it has no row for it."""
    for pattern, target in table.items():
        found = _regex(pattern).fullmatch(key)
        if found and isinstance(target, Dead):
            return target
        if found:
            parts = found.groupdict()
            named = target.replace(".N.", f".{parts['N']}.") if "N" in parts else target
            return named.removesuffix("*") + parts["tail"] if "tail" in parts else named
    return None


def inverse(table: Table) -> dict[str, str]:
    """The table from our names to theirs; dead rows have none."""
    return {ours: theirs for theirs, ours in table.items() if isinstance(ours, str)}


def listed(keys: Iterable[str]) -> str:
    """All the names in one line, the numbers of blocks gathered: `blocks.*.mlp.fc1.bias (12x)`."""
    groups: dict[str, list[str]] = {}
    for key in keys:
        groups.setdefault(re.sub(r"(?<=\.)\d+(?=\.)", "*", key), []).append(key)
    return ", ".join(one[0] if len(one) == 1 else f"{name} ({len(one)}x)" for name, one in groups.items())


def first_keys(state: Mapping, number: int = 4) -> str:
    """The first few names of a file, for an error that has to show what it was given."""
    keys = [str(key) for key in state]
    return ", ".join(keys[:number]) + (", ..." if len(keys) > number else "") if keys else "none"
