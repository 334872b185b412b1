"""Videos that cannot be read are counted and named; above a limit a run stops."""

import pytest
from make_video import make_video
from refusals import assert_says
from small_run import PLAIN, VIDEOS, report_of, run_tool, train

from revit_video.data import dataset as dataset_module
from revit_video.types import InputError

pytest_plugins = ["run_fixtures"]


KINDS = ("missing stream", "text", "no frames", "cut")


def break_video(path, kind: str) -> None:
    if kind == "missing stream":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("this is no video")
    elif kind == "no frames":
        make_video(path, 0)
    elif kind == "cut":
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])


def videos_of(data, split: str) -> list:
    return sorted((data / "videos" / split).iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_training_stops_at_too_many_unreadable_videos_and_names_them(kind, data, tmp_path, capfd):
    broken = videos_of(data, "train")[5]
    break_video(broken, kind)
    assert train(tmp_path / "run", data, "stage=revit") == 2
    out, err = capfd.readouterr()
    assert f"skipped: {broken}: " in out
    assert err.count("\n") == 1
    assert_says(
        err, r"1 of 16 videos cannot be read, more than data\.max_unreadable=0\.01 allows; repair them"
    )
    assert str(broken) in err
    assert not (tmp_path / "run/checkpoints/revit.pt").exists()
    # a higher limit lets the same run go on
    assert train(tmp_path / "run", data, "stage=revit", "resume=true", "data.max_unreadable=0.1") == 0
    assert capfd.readouterr().out.count(f"skipped: {broken}: ") == 1


def test_training_goes_on_where_a_whole_batch_cannot_be_read(data, tmp_path, capfd):
    broken = videos_of(data, "train")[::2]
    for path, kind in zip(broken, 4 * KINDS, strict=False):
        break_video(path, kind)
    options = ["stage=revit", "solver.batch_size=1", "solver.max_steps=16", "data.max_unreadable=0.5"]
    assert train(tmp_path / "run", data, *options) == 0
    out = capfd.readouterr().out
    assert [out.count(f"skipped: {path}: ") for path in broken] == [1] * 8


def test_worker_processes_name_unreadable_videos_too(data, tmp_path, capfd):
    broken = videos_of(data, "train")[5]
    break_video(broken, "text")
    options = ["stage=revit", "data.num_workers=1", "data.cache=none", "data.max_unreadable=0.1"]
    assert train(tmp_path / "run", data, *options) == 0
    assert capfd.readouterr().out.count(f"skipped: {broken}: ") == 1


def test_an_error_in_a_worker_process_ends_in_one_line(demo_data, tmp_path, monkeypatch, refusal):
    def refuse(path, **options):
        raise InputError("this reader is not installed; try pip")

    monkeypatch.setattr(dataset_module, "open_video", refuse)
    code = train(tmp_path / "run", demo_data, "stage=revit", "data.num_workers=1", "data.cache=none")
    assert refusal(code) == "error: this reader is not installed; try pip\n"


def test_the_label_list_has_the_same_limit(run, data, refusal, capfd):
    broken = videos_of(data, "val")[3]
    break_video(broken, "cut")
    (run / "labels.json").unlink()
    # the run was made with another root, which is part of its settings: say that the copy is the same data
    config = (run / "config.yaml").read_text()
    root = next(line.split()[-1] for line in config.splitlines() if line.strip().startswith("root:"))
    (run / "config.yaml").write_text(config.replace(root, str(data)))
    line = refusal(train(run, data, "stage=labels"))
    assert_says(line, r"1 of 14 videos cannot be read, more than data\.max_unreadable=0\.01 allows")
    assert train(run, data, "stage=labels", "data.max_unreadable=0.1") == 0
    assert f"skipped: {broken}" in capfd.readouterr().out
    (run / "recognizer.pt").unlink()
    assert train(run, data, "stage=assigner") == 0  # the broken video has no label


def test_the_test_reports_what_it_could_not_read(run, data, tmp_path, capfd):
    broken = videos_of(data, "test")[1:5]
    for path, kind in zip(broken, KINDS, strict=True):
        break_video(path, kind)
    options = [f"data.root={data}", f"output_dir={tmp_path / 'new'}", *PLAIN]
    assert run_tool("test_net.py", "--checkpoint", run / "recognizer.pt", *options) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert "6 of 10 videos scored, 4 unreadable" in out
    report = report_of(tmp_path / "new")
    protocol = report["protocol"]
    assert (protocol["num_videos"], protocol["num_scored"], protocol["num_unreadable"]) == (10, 6, 4)
    assert [line.split(": ")[0] for line in protocol["unreadable"]] == list(map(str, broken))
    assert protocol["top1_adaptive_of_all_videos"] == pytest.approx(0.6 * report["adaptive"]["top1"])
    assert protocol["top1_longest_of_all_videos"] == pytest.approx(0.6 * report["per_length"][0]["top1"])


def test_a_test_list_without_a_readable_video_is_refused(run, data, tmp_path, refusal):
    for path in videos_of(data, "test"):
        break_video(path, "text")
    options = [f"data.root={data}", f"output_dir={tmp_path / 'new'}", *PLAIN]
    line = refusal(run_tool("test_net.py", "--checkpoint", run / "recognizer.pt", *options))
    assert f"none of the {VIDEOS['test']} videos of the list can be read" in line
    assert not (tmp_path / "new/report.json").exists()


def test_lists_that_disagree_about_their_classes_are_refused_before_the_training(data, tmp_path, refusal):
    (data / "classes.txt").unlink()
    lines = [line for line in (data / "test.csv").read_text().splitlines() if not line.endswith(" 9")]
    (data / "test.csv").write_text("\n".join(lines) + "\n")
    kinetics = ["data.dataset=kinetics", "data.flip_labels=[]", "data.flip=false"]
    assert_says(
        refusal(train(tmp_path / "run", data, *kinetics)),
        r"has 10 classes, the test list 9.*data\.num_classes",
    )
    assert not (tmp_path / "run").exists()
    assert train(tmp_path / "run", data, *kinetics, "data.num_classes=10", *PLAIN) == 0
