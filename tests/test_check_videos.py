"""Checking a data set: what a report says, that nothing hangs, that a stopped check goes on where it was."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from make_video import make_video
from odd_checks import odd_check
from small_run import ROOT, run_tool

from revit_video.data.check import COLUMNS, Checked, Report, check_file, check_files
from revit_video.data.check_list import FileList, compare_with_released, file_list
from revit_video.types import InputError


@pytest.fixture
def videos(tmp_path) -> Path:
    """Three good files, a text, an empty one and a cut one."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("a", "b", "c d"):
        make_video(folder / f"{name}.mp4", 12, fps=25)
    (folder / "text.mp4").write_text("no video")
    (folder / "empty.mp4").touch()
    whole = Path(make_video(folder / "cut.mp4", 40, crf=23)).read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    return folder


def rows_of(report: Path) -> dict[str, dict[str, str]]:
    with open(report, newline="") as file:
        return {Path(row["path"]).name: row for row in csv.DictReader(file)}


@pytest.mark.parametrize("full", [False, True])
def test_a_good_file_is_described_and_a_broken_one_explained(videos, full):
    good = check_file(str(videos / "a.mp4"), full=full)
    assert (good.status, good.frames, good.fps, good.width, good.height) == ("ok", 12, 25.0, 64, 48)
    assert good.how == ("full" if full else "quick") and good.error == ""
    for name in ("text", "empty", "cut"):
        bad = check_file(str(videos / f"{name}.mp4"), full=full)
        assert bad.status == "broken" and bad.error and str(videos) not in bad.error
    assert check_file(str(videos / "none.mp4")).status == "missing"


def test_a_reader_that_does_not_exist_is_a_mistake_and_no_broken_file(videos):
    with pytest.raises(InputError, match="no decoder is named 'pyaw'"):
        list(check_files([str(videos / "a.mp4")], processes=1, seconds=60, decoder="pyaw"))


def test_a_hung_file_is_killed_and_a_crash_is_survived():
    rows = list(check_files(["a", "hang", "b", "crash", "c"], processes=1, seconds=2, check=odd_check))
    assert [(row.path, row.status) for row in rows] == [
        ("a", "ok"),
        ("hang", "timeout"),
        ("b", "ok"),
        ("crash", "crashed"),
        ("c", "ok"),
    ]
    assert rows[1].error.startswith("killed after 2") and "exit code 7" in rows[3].error
    assert len({row.frames for row in rows if row.status == "ok"}) == 3  # a new process after each of the two


def test_an_error_of_ours_in_a_process_comes_back_as_it_is():
    with pytest.raises(InputError, match="this reader is not installed"):
        list(check_files(["refuse"], processes=1, seconds=60, check=odd_check))


def test_a_report_is_added_to_and_a_half_written_row_is_dropped(tmp_path):
    file = tmp_path / "report.csv"
    with Report(file, how="quick") as report:
        report.add(Checked("a, b.mp4", "ok", frames=3, fps=29.97))
        report.add(Checked("c.mp4", "broken", error='says "no", twice'))
    before = file.read_bytes()
    file.write_bytes(before + b'd.mp4,broken,0,0.0,0,0,1.0,"half of an err')
    with Report(file, how="quick") as report:
        assert list(report.rows) == ["a, b.mp4", "c.mp4"]
        assert report.rows["a, b.mp4"] == Checked("a, b.mp4", "ok", frames=3, fps=29.97)
        assert report.rows["c.mp4"].error == 'says "no", twice'
        report.add(Checked("d.mp4", "ok"))
    assert file.read_bytes() == before + b"d.mp4,ok,0,0.0,0,0,0.0,,quick\n"
    with pytest.raises(InputError, match=r"holds quick checks, this one is full; give another name"):
        Report(file, how="full")
    file.write_text("path,label\n")
    with pytest.raises(InputError, match="is no report of checked files"):
        Report(file, how="quick")
    assert file.read_text() == "path,label\n"


def test_the_tool_reports_cleans_and_goes_on(videos, tmp_path, capsys):
    names = ["a", "b", "c d", "text", "empty", "cut", "gone"]
    source = tmp_path / "train.csv"
    source.write_text("".join(f"{name}.mp4 {label}\n" for label, name in enumerate(names)))
    command = ["check_videos.py", source, "--root", videos, "--processes", 2, "--seconds", 60]
    assert run_tool(*command) == 1
    report, clean = tmp_path / "train.csv.report.csv", tmp_path / "train.csv.clean.csv"
    rows = rows_of(report)
    status = [rows[f"{name}.mp4"]["status"] for name in names]
    assert status == [*3 * ["ok"], *3 * ["broken"], "missing"]
    assert tuple(rows["a.mp4"]) == COLUMNS
    assert clean.read_text() == "a.mp4 0\nb.mp4 1\nc d.mp4 2\n"
    out = capsys.readouterr().out
    assert "7 files (kinetics), 7 to check" in out and "3 ok, 3 broken, 1 missing" in out

    make_video(videos / "late.mp4", 5)
    source.write_text(source.read_text() + "late.mp4 7\n")
    before = report.read_text()
    assert run_tool(*command, "--clean", tmp_path / "clean2.csv") == 1
    assert "8 files (kinetics), 1 to check" in capsys.readouterr().out
    assert report.read_text().startswith(before) and len(rows_of(report)) == 8
    assert (tmp_path / "clean2.csv").read_text() == clean.read_text() + "late.mp4 7\n"
    assert run_tool(*command) == 2  # train.csv.clean.csv is another list now
    assert "is there already and holds something else" in capsys.readouterr().err


def test_a_good_list_ends_with_0_and_without_a_cleaned_list(videos, tmp_path):
    (tmp_path / "files.txt").write_text(f"{videos}/a.mp4\n{videos}/c d.mp4\n")
    assert run_tool("check_videos.py", tmp_path / "files.txt", "--processes", 1, "--full") == 0
    assert sorted(path.name for path in tmp_path.glob("files*")) == ["files.txt", "files.txt.report.csv"]


def test_ctrl_c_keeps_what_is_done_and_the_same_command_goes_on(videos, tmp_path):
    names = [f"v{i}.mp4" for i in range(60)]
    for name in names:
        (videos / name).write_bytes((videos / "a.mp4").read_bytes())
    (tmp_path / "files.txt").write_text("".join(f"{videos}/{name}\n" for name in names))
    report = tmp_path / "files.txt.report.csv"
    tool = [sys.executable, ROOT / "tools/check_videos.py", tmp_path / "files.txt", "--processes", "1"]
    running = subprocess.Popen(tool, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    while not (report.exists() and report.read_text().count("\n") > 3):
        assert running.poll() is None
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert (running.returncode, err) in ((130, "interrupted\n"), (0, ""))  # 0: it was done before
    assert len(rows_of(report)) >= 3
    assert run_tool("check_videos.py", *tool[2:]) == 0
    assert len(rows_of(report)) == 60
    assert report.read_text().count("\n") == 61  # nothing was checked twice


def test_something_something_is_cleaned_as_json(videos, tmp_path):
    prefix = "something-something-v2-"
    (tmp_path / f"{prefix}labels.json").write_text(json.dumps({"Holding something": "0"}))
    entries = [{"id": name, "template": "Holding [something]", "x": 1} for name in ("a", "text", "b")]
    (tmp_path / f"{prefix}validation.json").write_text(json.dumps(entries))
    listed = file_list(tmp_path / f"{prefix}validation.json", root=videos)
    assert listed.form == "ssv2" and listed.paths == tuple(f"{videos}/{n}.mp4" for n in ("a", "text", "b"))
    assert json.loads(listed.without({f"{videos}/text.mp4"})) == [entries[0], entries[2]]
    assert file_list(tmp_path, root=videos, split="val").paths == listed.paths
    with pytest.raises(InputError, match="say which by --split"):
        file_list(tmp_path)


def test_class_folders_are_cleaned_as_a_kinetics_list(videos, tmp_path):
    for label, name in (("hug", "a"), ("kick", "b"), ("kick", "text")):
        (videos / label).mkdir(exist_ok=True)
        os.replace(videos / f"{name}.mp4", videos / label / f"{name}.mp4")
    listed = file_list(videos)
    assert listed.form == "class_folders" and len(listed.paths) == 3
    assert listed.without({f"{videos}/kick/text.mp4"}) == f"{videos}/hug/a.mp4 0\n{videos}/kick/b.mp4 1\n"


def test_the_form_of_a_list_is_seen_from_its_lines(tmp_path):
    forms = {"a.mp4 0\nb.mp4 1\n": "kinetics", "a.mp4\nb 1.mp4\n": "files", "x,3\n": "kinetics"}
    for text, form in forms.items():
        (tmp_path / "list.txt").write_text(text)
        assert file_list(tmp_path / "list.txt").form == form
    with pytest.raises(InputError, match=r"no file .*none\.txt; in its folder there are list\.txt"):
        file_list(tmp_path / "none.txt")


@pytest.mark.parametrize(
    ("form", "split", "classes", "rows", "said"),
    [
        ("kinetics", "val", 400, 19_877, "19,906 videos; this list has 19,877 (29 fewer), 19,761 of them"),
        ("kinetics", "train", 600, 392_622, "392,622 (all of them), 392,506 of them readable"),
        ("ssv2", "validation", 174, 24_777, "Something-Something V2 val was published with 24,777"),
        ("kinetics", "val", 174, 5, ""),
        ("kinetics", "val", 10, 5, ""),
    ],
)
def test_counts_are_compared_with_the_published_lists(form, split, classes, rows, said):
    listed = FileList((), form, split, rows, classes, ".csv", lambda broken: "")
    line = compare_with_released(listed, 116)
    assert said in line and bool(said) == bool(line)
