"""What a comparison consists of: rows, each an ordinary run that differs from the config in its overrides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from string import Template

from revit_video.types import InputError

LEVELS, ADAPTIVE, EXITS = "levels", "adaptive", "exits"
READS = (LEVELS, ADAPTIVE, EXITS)


@dataclass(frozen=True)
class Row:
    """One method of a comparison.

    name: of its folder and in the table.
    overrides: settings as `key=value` over those of the config. Names of `placeholders` stand for what the
        config says, so that a row fits any config: `model.token_lengths=[$longest]`.
    reads: which points it gives: `levels`, one for each token length; `adaptive`, these and those of the
        routers; `exits`, those of a cascade left early.
    starts_from: name of another row; the backbone it trained with the same seed is `model.init_from` here.
    train: false: off the shelf, `starts_from`'s weights are evaluated under these overrides.
    """

    name: str
    overrides: tuple[str, ...] = ()
    reads: str = LEVELS
    starts_from: str | None = None
    train: bool = True

    def __post_init__(self) -> None:
        if self.reads not in READS:
            raise InputError(f"row {self.name} reads {self.reads!r}, but must be one of {', '.join(READS)}")
        if not self.train and self.starts_from is None:
            raise InputError(
                f"row {self.name} is not trained; name in starts_from the row whose weights it is"
            )

    def filled(self, values: Mapping[str, object]) -> Row:
        """With the placeholders of its overrides replaced."""
        try:
            return replace(
                self, overrides=tuple(Template(text).substitute(values) for text in self.overrides)
            )
        except (KeyError, ValueError) as error:
            names = ", ".join(f"${name}" for name in values)
            raise InputError(f"row {self.name}: no placeholder {error}; there are {names}") from None


@dataclass(frozen=True)
class Published:
    """A point of a paper, shown beside ours for orientation: measured elsewhere, on other data.

    top1 in percent, gmacs of a view (None: not given), source: paper and table.
    """

    name: str
    top1: float
    gmacs: float | None
    source: str


@dataclass(frozen=True)
class Comparison:
    """Rows to train, and published points to show beside them. A row that another starts from is trained
    too, wherever it stands."""

    rows: tuple[Row, ...]
    published: tuple[Published, ...] = ()

    def only(self, names: Sequence[str]) -> Comparison:
        """These of its rows, and those they start from."""
        wanted, known = set(names), {row.name: row for row in self.rows}
        if unknown := wanted - known.keys():
            raise InputError(f"no row named {', '.join(sorted(unknown))}; there are: {', '.join(known)}")
        for name in list(names):
            while (name := known[name].starts_from) is not None:
                wanted.add(name)
        return replace(self, rows=tuple(row for row in self.rows if row.name in wanted))

    def __post_init__(self) -> None:
        names = [row.name for row in self.rows]
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"two rows are called {name}; names must differ")
        for row in self.rows:
            if row.starts_from is not None and row.starts_from not in names:
                raise InputError(
                    f"row {row.name} starts from {row.starts_from}, which is none of the rows: "
                    f"{', '.join(names)}"
                )


def placeholders(
    *,
    name: str,
    token_lengths: Sequence[int],
    num_frames: int,
    sampling_rate: int,
    epochs: float,
    budget_gmacs: float,
    same_cost: Sequence[int],
) -> dict[str, object]:
    """What overrides of rows may refer to, from the settings of the config. `a_30th` and `a_third` are epochs
    of the training; `same_cost` are steps for each length, alone as dear as the config's training.
    """
    middle = len(token_lengths) // 2
    return {
        "model": name,
        "longest": token_lengths[0],
        "middle": token_lengths[middle],
        "shortest": token_lengths[-1],
        "half_frames": max(1, num_frames // 2),
        "double_rate": 2 * sampling_rate,
        "a_30th": epochs / 30,
        "a_third": epochs / 3,
        "budget_gmacs": budget_gmacs,
        "longest_steps": same_cost[0],
        "middle_steps": same_cost[middle],
        "shortest_steps": same_cost[-1],
    }


def in_order(rows: Sequence[Row]) -> list[Row]:
    """Every row after the one it starts from, else as given."""
    by_name, done = {row.name: row for row in rows}, {}

    def add(row: Row, waiting: tuple[str, ...]) -> None:
        if row.name in waiting:
            raise InputError(f"rows start from each other: {' -> '.join((*waiting, row.name))}")
        if row.starts_from is not None:
            add(by_name[row.starts_from], (*waiting, row.name))
        done.setdefault(row.name, row)

    for row in rows:
        add(row, ())
    return list(done.values())
