"""What became of every tensor of a conversion, as rows for `report.tables`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from torch import Tensor

from revit_video.report.tables import markdown_table

COLUMNS = {
    "what": ("parameters", ""),
    "became": ("what became of them", ""),
    "tensors": ("tensors", ",d"),
    "numbers": ("numbers", ",d"),
}


@dataclass
class Tally:
    """Counts tensors by group: the numbers of blocks and levels, and weight or bias, are left out."""

    groups: dict[tuple[str, str], list[int]] = field(default_factory=dict)

    def add(self, name: str, became: str, tensor: Tensor) -> None:
        group = re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name)
        group = re.sub(r"\.(weight|bias|scale|shift)( \([kv]\))?$", "", group)
        count = self.groups.setdefault((group, became), [0, 0])
        count[0] += 1
        count[1] += tensor.numel()

    def rows(self) -> list[dict]:
        """One row per group and fate: what, became, tensors, numbers."""
        return [
            {"what": what, "became": became, "tensors": tensors, "numbers": numbers}
            for (what, became), (tensors, numbers) in self.groups.items()
        ]


def report_text(rows: list[dict]) -> str:
    """The rows as a Markdown table."""
    return markdown_table(rows, COLUMNS)
