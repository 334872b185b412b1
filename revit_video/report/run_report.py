"""The report of a run for readers: report.json as it is, report.md and a table on the console from it."""

from __future__ import annotations

import json
from pathlib import Path

from revit_video.report.tables import console_table, markdown_table

COLUMNS = {
    "name": ("tokens per frame", ""),
    "top1": ("video@1 %", ".1f"),
    "interval": ("95% interval", ""),
    "gmacs": ("GMACs / view", ".4g"),
    "relative": ("of longest %", ".1f"),
    "clips_per_s": ("clips / s", ".1f"),
}
CURVE_COLUMNS = {
    "router": ("router", ""),
    "budget": ("budget", ".2f"),
    "top1": ("video@1 %", ".1f"),
    "interval": ("95% interval", ""),
    "over_random": ("over random", ""),
    "over_pure": ("over the better of the others", ""),
    "over_pure_in_time": ("in the same time", ""),
    "gmacs": ("GMACs / view", ".4g"),
    "ms": ("ms / view", ".3g"),
}
PAIRED = ("over_random", "over_pure", "over_pure_in_time")
PARTS = {"verb": ("verb@1 %", ".1f"), "noun": ("noun@1 %", ".1f")}  # where a class is a pair of these


def has_parts(report: dict) -> bool:
    """Whether the classes are actions of a verb and a noun, with an accuracy of their own each."""
    return PARTS.keys() <= report["per_length"][0].keys()


def with_parts(columns: dict, report: dict) -> dict:
    """The columns of a table, those of verbs and nouns behind that of actions where the report has them."""
    if not has_parts(report):
        return columns
    shown = {}
    for key, (header, form) in columns.items():
        shown |= {key: (header.replace("video@1", "action@1"), form)} | (PARTS if key == "top1" else {})
    return shown


def write_report(report: dict, folder: Path) -> None:
    """report.json and report.md; each is whole or absent."""
    for name, text in (
        ("report.json", json.dumps(report, indent=2) + "\n"),
        ("report.md", as_markdown(report)),
    ):
        partial = folder / f"{name}.partial"
        partial.write_text(text)
        partial.replace(folder / name)


def show_report(path: Path) -> None:
    """The main table of a report.json on the console."""
    report = json.loads(path.read_text())
    console_table(result_rows(report), with_parts(COLUMNS, report), title=heading(report))
    for line in remarks(report):
        print(line)
    print(f"report, plots and checkpoints: {path.parent}")


def heading(report: dict) -> str:
    protocol = report["protocol"]
    what = "action@1" if has_parts(report) else "video@1"
    return f"{protocol['num_scored']} of {protocol['num_videos']} videos, {what} ({protocol['views']} views)"


def result_rows(report: dict) -> list[dict]:
    """One row per way to choose a length: fixed ones, the assigner, the baselines."""
    longest = report["per_length"][0]["gmacs"]
    named = [
        ((f"exit {row['exit']}: " if "exit" in row else "") + f"{row['length']}x{row['length']}", row)
        for row in report["per_length"]
    ]
    if "early_exit" in report:
        named.append(("early exit", report["early_exit"]))
    if "adaptive" in report:  # not in the test of a backbone alone
        named += [(f"adaptive ({report['adaptive'].get('router', 'assigner')})", report["adaptive"])]
    named += [
        (f"{name}{' (same shares)' * (name == 'random')}", row)
        for name, row in report.get("baselines", {}).items()
    ]
    rows = []
    for name, row in named:
        interval = f"{row['top1_low']:.1f} to {row['top1_high']:.1f}" if "top1_low" in row else None
        shown = {"name": name, "interval": interval, "relative": 100 * row["gmacs"] / longest}
        timed = report.get("throughput", {}).get("clips_per_s", {}).get(f"{name} router")
        rows.append({"clips_per_s": timed, **row, **shown})
    return rows


def remarks(report: dict) -> list[str]:
    """What the table does not say by itself, a sentence each."""
    if "early_exit" in report:
        seen = report["early_exit"]
        share = ", ".join(f"{100 * part:.0f}% at {name}" for name, part in seen["share"].items())
        return [
            f"A cascade: its exits by themselves, and left early for a budget of {seen['budget']:.4g} GMACs; "
            f"views: {share}.",
            *report.get("warnings", []),
        ]
    if "adaptive" not in report:
        return ["A backbone without an assigner: every length by itself.", *report.get("warnings", [])]
    adaptive, longest = report["adaptive"], report["per_length"][0]
    share = ", ".join(f"{100 * part:.0f}% at {length}x{length}" for length, part in adaptive["share"].items())
    lines = [
        f"Adaptive costs {100 * adaptive['gmacs'] / longest['gmacs']:.1f}% of the longest length, "
        f"assigner included; clips: {share}.",
    ]
    lines += choice_remarks(report)
    for name, row in report["paired"].items():
        lines.append(
            f"Paired over videos, adaptive minus {name}: {row['difference']:+.2f} points, "
            f"95% interval {row['low']:+.2f} to {row['high']:+.2f}."
        )
    if "throughput" in report:
        seen = report["throughput"]
        lines.append(
            f"Wall time: {seen['speed_up']:.2f}x the longest length's clips/s where GMACs promise "
            f"{seen['gmacs_ratio']:.2f}x ({seen['follows']:.2f} of the promise; {seen['num_clips']} clips, "
            f"batches of {seen['batch_size']}, assigner included)."
        )
    return lines


def choice_remarks(report: dict) -> list[str]:
    """Whether the assigner learnt anything, and why this router; a report of before says neither."""
    lines = []
    if "assigner" in report:
        seen = report["assigner"]
        constant = ", ".join(f"{length} {value:.1f}%" for length, value in seen["constant"].items())
        most = f", the most frequent held-out label {seen['majority']:.1f}%" if "majority" in seen else ""
        lines.append(
            f"The assigner's first wish is a clip's length label in {seen['accuracy']:.1f}% of the clips "
            f"(mean over labels {seen['balanced']:.1f}%); always the same length: {constant}{most}."
        )
    if "router_choice" in report:
        seen = report["router_choice"]
        scores = ", ".join(f"{kind} {top1:.1f}%" for kind, top1 in seen["top1"].items())
        lead = ""
        if "over" in seen:
            sure = (
                "" if seen["low"] > 0 else "; WARNING: inside the interval, too few clips to tell them apart"
            )
            lead = (
                f"; {seen['difference']:+.2f} points over {seen['over']}, 95% interval {seen['low']:+.2f} to "
                f"{seen['high']:+.2f}{sure}"
            )
        lines.append(f"router.kind=auto took {seen['kind']} on held-out clips ({scores}{lead}).")
    return lines + report.get("warnings", [])  # a report of before has none


def as_markdown(report: dict) -> str:
    """The whole report as one page."""
    parts = [
        f"# Results: {heading(report)}",
        markdown_table(result_rows(report), with_parts(COLUMNS, report)),
        "\n".join(f"- {line}" for line in remarks(report)),
    ]
    if "tags" in report:
        parts += ["## By tag", markdown_table(*tag_rows(report))]
    if "curve" in report:
        curve = [curve_row(name, row) for name, rows in report["curve"].items() for row in rows]
        title = "## Accuracy by budget (biases and thresholds solved on held-out videos)"
        parts += [title, markdown_table(curve, with_parts(CURVE_COLUMNS, report))]
    protocol = [{"what": key, "value": str(value)} for key, value in report["protocol"].items()]
    parts += ["## Protocol", markdown_table(protocol, {"what": ("what", ""), "value": ("value", "")})]
    return "\n\n".join(parts) + "\n"


def curve_row(router: str, row: dict) -> dict:
    """A point of a router's curve as a row of the table."""
    shown = {"router": router, "budget": None, "ms": None, **row, **dict.fromkeys(PAIRED)}
    if "top1_low" in row:
        shown["interval"] = f"{row['top1_low']:.1f} to {row['top1_high']:.1f}"
    for name in PAIRED:
        if name in row:
            over = row[name]
            shown[name] = f"{over['difference']:+.1f} ({over['low']:+.1f} to {over['high']:+.1f})"
    return shown


def tag_rows(report: dict) -> tuple[list[dict], dict]:
    """Rows and columns: accuracy and shares of the lengths for each tag of the test list."""
    lengths = [row["length"] for row in report["per_length"]]
    columns = {"tag": ("tag", ""), "num_videos": ("videos", "d"), "top1": ("adaptive %", ".1f")}
    columns = with_parts(columns, report)
    columns |= {f"fixed{n}": (f"{n}x{n} %", ".1f") for n in lengths} | {
        f"share{n}": (f"share at {n}", ".2f") for n in lengths
    }
    rows = []
    for tag, row in report["tags"].items():
        fixed = {f"fixed{n}": value for n, value in zip(lengths, row["top1_fixed"], strict=True)}
        share = {f"share{n}": value for n, value in zip(lengths, row["share"], strict=True)}
        rows.append({"tag": tag, **row, **fixed, **share})
    return rows, columns
