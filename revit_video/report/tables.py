"""Rows of numbers as text: Markdown for files, rich for terminals, the Markdown text where there is none.

Both take rows as dicts and the columns to show as `key -> (header, format)`, in Python's format language:

    columns = {"length": ("tokens", ""), "gmacs": ("GMACs per view", ".1f"), "top1": ("top-1", ".1%")}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Number
from typing import TextIO

from rich.console import Console
from rich.table import Table

Rows = Sequence[Mapping[str, object]]
Columns = Mapping[str, tuple[str, str]]
MISSING = "-"  # a row without this key, or None: not measured


def markdown_table(rows: Rows, columns: Columns) -> str:
    """A padded Markdown table, so that the source reads well too. Numbers stand on the right."""
    headers = [header for header, _ in columns.values()]
    lines = [[cell.replace("|", r"\|") for cell in line] for line in [headers, *_cells(rows, columns)]]
    aligned = []  # one list of padded cells per column
    for key, cells in zip(columns, zip(*lines, strict=True), strict=True):
        width = max(3, *map(len, cells))
        right = _is_numeric(rows, key)
        padded = [cell.rjust(width) if right else cell.ljust(width) for cell in cells]
        aligned.append([padded[0], "-" * (width - 1) + (":" if right else "-"), *padded[1:]])
    return "\n".join("| " + " | ".join(line) + " |" for line in zip(*aligned, strict=True))


def console_table(rows: Rows, columns: Columns, *, title: str = "", file: TextIO | None = None) -> None:
    """Print the table to `file` (standard output). A log file or a pipe gets the Markdown text, never cut."""
    console = Console(file=file, markup=False)  # a cell may hold brackets
    if not console.is_terminal:
        text = markdown_table(rows, columns)
        print(f"{title}\n\n{text}" if title else text, file=console.file)
        return
    table = Table(title=title or None, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for key, (header, _) in columns.items():
        table.add_column(header, justify="right" if _is_numeric(rows, key) else "left")
    for line in _cells(rows, columns):
        table.add_row(*line)
    console.print(table)


def _cells(rows: Rows, columns: Columns) -> list[list[str]]:
    return [[_cell(row.get(key), spec) for key, (_, spec) in columns.items()] for row in rows]


def _cell(value: object, spec: str) -> str:
    return MISSING if value is None else format(value, spec if isinstance(value, Number) else "")


def _is_numeric(rows: Rows, key: str) -> bool:
    values = [row[key] for row in rows if row.get(key) is not None]
    return bool(values) and all(isinstance(value, Number) for value in values)
