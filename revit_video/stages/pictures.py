"""The pictures of a test: accuracy against cost, and which clips got which length."""

from __future__ import annotations

from pathlib import Path

from revit_video.data.classes import label_name
from revit_video.report.plots import plot_accuracy_vs_gmacs, plot_length_sheet
from revit_video.stages.test import TestJob, TestResult


def draw_result(job: TestJob, result: TestResult, folder: Path) -> None:
    """accuracy_vs_gmacs.png, and lengths.png unless the sheet is to hold no clips."""
    report = result.report
    plot_accuracy_vs_gmacs(
        folder / "accuracy_vs_gmacs.png",
        fixed=report["per_length"],
        curves=report["curve"],
        points={"adaptive": report["adaptive"], **report["baselines"]},
        title=f"{job.title}: {report['protocol']['num_scored']} videos",
    )
    if job.sheet_clips:
        plot_length_sheet(folder / "lengths.png", groups=length_groups(job, result))


def length_groups(job: TestJob, result: TestResult) -> dict[str, list[dict]]:
    """For each length, shortest first, clips that the assigner gave it: frames uint8 (T, H, W, C) and a
    caption.

    The names are the paper's (Figure 6): what needs few tokens is easy.
    """
    dataset, last = job.evaluation.dataset, job.model.num_levels - 1
    groups = {}
    for level in reversed(range(job.model.num_levels)):
        name, length = {last: "easy", 0: "hard"}.get(level, "medium"), job.model.token_lengths[level]
        chosen = result.indices[result.levels[:, 0] == level].tolist()[: job.sheet_clips]
        clips = []
        for index in chosen:
            sample = dataset.samples[index]
            name = label_name(sample.label, job.class_names, job.heads)
            words = [word for word in (name, sample.tag) if word]
            frames = dataset[(0, index)].clips[0].permute(0, 2, 3, 1).numpy()
            clips.append({"frames": frames, "caption": " · ".join(words)})
        groups[f"{name} ({length}x{length})"] = clips
    return groups
