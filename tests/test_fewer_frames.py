"""The baseline of fewer frames: the same weights and the same span of time, at a lower price."""

from dataclasses import replace

import pytest
import torch
from small_run import PLAIN, report_of, train

from revit_video import build
from revit_video.backbones.costs import level_gmacs
from revit_video.build.fewer_frames import fitted, with_frames
from revit_video.stages.test import run_test
from revit_video.train.log import RunLog

pytest_plugins = ["run_fixtures"]


def test_the_rows_are_those_of_a_model_that_sees_so_many_frames(small_run):
    overrides = ["test.fewer_frames=[3,2]", "dtype=float32", "router.budget=0.6"]
    config = build.checkpoint_config(small_run / "recognizer.pt", overrides)
    job = build.test_job(config, small_run / "recognizer.pt", build.build_device(config))
    report = run_test(replace(job, throughput=False), RunLog()).report
    costs = []
    for one in job.fewer_frames:
        row = report["baselines"][f"{one.frames} of 5 frames"]
        right = []
        for index in range(len(job.evaluation.dataset)):
            item = one.evaluation.dataset[(0, index)]
            assert item.clips.shape[:2] == (2, one.frames)
            with torch.inference_mode():
                logits = one.model(job.evaluation.run.to_clips(item.clips), 0)
            right.append(logits.softmax(-1).mean(0).argmax().item() == item.label)
        assert row["top1"] == pytest.approx(100 * sum(right) / len(right))
        assert row["gmacs"] == pytest.approx(level_gmacs(one.model)[0])
        over = report["paired"][f"{one.frames} of 5 frames"]
        assert over["difference"] == pytest.approx(report["adaptive"]["top1"] - row["top1"])
        costs.append(row["gmacs"])
    assert report["per_length"][0]["gmacs"] > costs[0] > costs[1]


def test_clips_of_fewer_frames_span_the_same_time_and_only_the_time_table_changes(small_run):
    config = build.checkpoint_config(small_run / "recognizer.pt", ["test.fewer_frames=[3]", "dtype=float32"])
    job = build.test_job(config, small_run / "recognizer.pt", build.build_device(config))
    (one,) = job.fewer_frames
    ours, theirs = (data.dataset.pick_views(20, None, 10.0) for data in (job.evaluation, one.evaluation))
    for whole, fewer in zip(ours, theirs, strict=True):
        assert len(fewer.frames) == 3
        assert abs(sum(whole.frames) / 5 - sum(fewer.frames) / 3) <= 3
        assert abs((whole.frames[-1] - whole.frames[0]) - (fewer.frames[-1] - fewer.frames[0])) <= 4
    weights = job.model.state_dict()
    small = fitted(weights, one.model, 3)
    assert [key for key in weights if small[key] is not weights[key]] == ["time_table"]
    middle = weights["time_table"][2]  # of five rows, and of three
    torch.testing.assert_close(small["time_table"][1], middle)
    assert with_frames(config, 2).data.sampling_rate == 8


@pytest.mark.parametrize(
    "given, said",
    [
        ("[5]", "test.fewer_frames holds 5, but a clip has 5 frames; give smaller numbers"),
        ("[2,2]", "test.fewer_frames is [2, 2], but must be numbers of frames, at least 2 and none twice"),
        ("[1]", "test.fewer_frames is [1], but must be"),
    ],
)
def test_numbers_of_frames_that_make_no_sense_are_refused(run, demo_data, refusal, given, said):
    (run / "report.json").unlink()
    options = ["stage=test", "resume=true", f"test.fewer_frames={given}", *PLAIN]
    assert said in refusal(train(run, demo_data, *options))
    assert not (run / "report.json").exists()


def test_the_report_has_a_row_and_a_remark_for_each(run, demo_data):
    (run / "report.json").unlink()
    assert train(run, demo_data, "stage=test", "resume=true", "test.fewer_frames=[2]", *PLAIN) == 0
    assert report_of(run)["baselines"]["2 of 5 frames"]["gmacs"] > 0
    text = (run / "report.md").read_text()
    assert "| 2 of 5 frames" in text and "adaptive minus 2 of 5 frames" in text
