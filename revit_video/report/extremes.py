"""The easiest and the hardest videos of a tested run: what is saved on them, and what is lost."""

from __future__ import annotations

from revit_video.types import InputError

COLUMNS = {
    "videos": ("videos", ""),
    "count": ("number", "d"),
    "longest": ("longest %", ".1f"),
    "shortest": ("shortest %", ".1f"),
    "top1": ("adaptive %", ".1f"),
    "lost": ("adaptive minus longest, 95% interval", ""),
    "saved": ("saved %", ".1f"),
    "shortest_saved": ("saved by the shortest %", ".1f"),
    "at_longest": ("share at the longest", ".2f"),
}


def extreme_rows(report: dict) -> list[dict]:
    """A row for each tag of a report.json, easiest first, by the accuracy of the shortest length there."""
    tags = report.get("tags")
    if not tags:
        raise InputError(
            "this report has no tags to tell easy videos from hard ones; the demo's test list has them "
            "(data.dataset=demo)"
        )
    if not all("gmacs" in row for row in tags.values()):
        raise InputError("this report was made before its tags had costs; test the checkpoint again")
    whole, least = report["per_length"][0]["gmacs"], report["per_length"][-1]["gmacs"]
    rows = []
    for tag, row in sorted(tags.items(), key=lambda item: -item[1]["top1_fixed"][-1]):
        over = row["over_longest"]
        rows.append(
            {
                "videos": f"only {tag}",
                "count": row["num_videos"],
                "longest": row["top1_fixed"][0],
                "shortest": row["top1_fixed"][-1],
                "top1": row["top1"],
                "lost": f"{over['difference']:+.1f} ({over['low']:+.1f} to {over['high']:+.1f})",
                "saved": 100 * (1 - row["gmacs"] / whole),
                "shortest_saved": 100 * (1 - least / whole),
                "at_longest": row["share"][0],
            }
        )
    return rows
