"""Files and folders through the sliding window: the same offline and online, bounded memory, outputs."""

import csv
import json
import os
import tracemalloc
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from make_video import frame_numbers, make_video, numbered_frames
from small_run import VIDEOS, run_tool
from stream_parts import CLASSES, FPS, long_video, random_checkpoint, server
from test_readme import commands

from revit_video.data.demo import demo_split
from revit_video.decode import DecodeError, open_video
from revit_video.recognizer import Recognizer
from revit_video.sample.windows import window_grid
from revit_video.stream.annotate import Annotated
from revit_video.stream.cutter import Cutter, Missed, Window
from revit_video.stream.engine import Engine, WindowResult, cut_online, cut_seeking, grouped
from revit_video.stream.outputs import LineFile
from revit_video.stream.smoothing import Event, Smoothing
from revit_video.stream.source import FileSource, PictureSource, frame_times

pytest_plugins = ["run_fixtures"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return random_checkpoint(tmp_path_factory.mktemp("stream") / "a.pt")


@pytest.fixture(scope="module")
def engine(checkpoint):
    return Engine(Recognizer.load(checkpoint), length=4)


def cutter_of(engine, source, **options):
    grid = window_grid(engine.rule, fps=source.fps, **options)
    return Cutter(grid, max_gap_s=1.0, pad=True)


def online(engine, path, **options):
    source = FileSource(path)
    windows = list(cut_online(source, cutter_of(engine, source, **options), short_side=32))
    source.close()
    return windows


def offline(engine, path, **options):
    cutter = cutter_of(engine, FileSource(path), **options)
    return list(cut_seeking(path, frame_times(path), cutter, short_side=32))


KINDS = {
    "plain": {},
    "b-frames": {"bframes": 3, "gop": 30},
    "turned": {"rotation": 90},
    "varied": {"pts": [i + i // 7 * 2 for i in range(90)]},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stride_s", [0.3, 1.7])
def test_a_window_is_the_same_offline_and_online(kind, stride_s, engine, tmp_path):
    path = make_video(tmp_path / "a.mp4", 90, FPS, **KINDS[kind])
    walked, sought = online(engine, path, stride_s=stride_s), offline(engine, path, stride_s=stride_s)
    assert len(walked) == len(sought) > 4
    for a, b in zip(walked, sought, strict=True):
        assert (a.number, a.start_s, a.end_s) == (b.number, b.start_s, b.end_s)
        assert all(np.array_equal(x, y) for x, y in zip(a.frames, b.frames, strict=True))
        one, other = engine.probabilities([a])[0], engine.probabilities([b])[0]
        assert torch.equal(one, other)  # bit for bit: the same window, the same batch
    together, _, _ = engine.probabilities(walked)
    alone = torch.cat([engine.probabilities([window])[0] for window in walked])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-6)


def test_a_window_of_a_whole_file_is_what_predict_says(engine, tmp_path):
    path = make_video(tmp_path / "a.mp4", 7, FPS)  # so short that all its views are one
    (window,) = online(engine, path)
    recognizer = engine.recognizer
    told = recognizer.predict(path, length=4)
    probabilities, (length,), (cost,) = engine.probabilities([window])
    best = probabilities[0].topk(5)
    assert told.class_names == tuple(CLASSES[i] for i in best.indices)
    assert told.probabilities == pytest.approx(tuple(best.values.tolist()), rel=1e-5)
    assert (told.token_lengths[0], told.gmacs_per_view) == (length, cost)


def test_times_of_packets_are_those_of_frames_and_none_where_they_prove_nothing(tmp_path):
    pts = [0, 1, 5, 6, 9, 20]
    path = make_video(tmp_path / "a.mp4", 6, FPS, pts=pts, bframes=2)
    assert frame_times(path) == pytest.approx([t / FPS for t in pts])
    assert [frame.time_s for frame in FileSource(path)] == frame_times(path)
    assert frame_times(make_video(tmp_path / "a.avi", 6, FPS, codec="mpeg4")) is None


def test_times_that_do_not_rise_are_counted_in_frames(tmp_path):
    path = make_video(tmp_path / "a.avi", 20, FPS, codec="mpeg4")
    times = [frame.time_s for frame in FileSource(path)]
    assert times == pytest.approx([i / FPS for i in range(20)], abs=0.11)
    assert all(b > a for a, b in pairwise(times))


def test_pictures_of_a_folder_are_windows_of_the_readers_frames(engine, tmp_path):
    from PIL import Image

    (tmp_path / "p").mkdir()
    for i, picture in enumerate(numbered_frames(20, (64, 48))):
        Image.fromarray(picture).save(tmp_path / f"p/{i:03}.png")
    source = PictureSource(str(tmp_path / "p"), fps=FPS)
    window = next(cut_online(source, cutter_of(engine, source), short_side=32))
    with open_video(tmp_path / "p") as reader:
        assert np.array_equal(np.stack(window.frames), reader.frames([0, 2, 4, 6], 32))


def test_pictures_that_change_their_size_are_a_gap(engine, tmp_path):
    small, large = (long_video(tmp_path / f"{w}.ts", 30, size=(w, 48)) for w in (64, 96))
    (tmp_path / "both.ts").write_bytes(Path(small).read_bytes() + Path(large).read_bytes())
    items = online(engine, str(tmp_path / "both.ts"), stride_s=0.4)
    assert any("64x48 became 96x48" in item.why for item in items if not isinstance(item, Window))
    shapes = [{frame.shape for frame in item.frames} for item in items if isinstance(item, Window)]
    assert all(len(shape) == 1 for shape in shapes) and len(set.union(*shapes)) == 2


def test_what_came_before_the_damage_counts():
    def items():
        yield Window(0, 0.0, 1.0, ())
        raise DecodeError("a.mp4", "pyav", "cannot be decoded")

    found = []
    with pytest.raises(DecodeError):
        for group in grouped(items(), 8):
            found.append(group)
    assert [window.number for (window,) in found] == [0]


def seen_of(engine, items, **options):
    seen = []
    grid = window_grid(engine.rule, fps=FPS)
    options = {"smoothing": Smoothing(windows=9), "confidence": 0.0, "grid": grid} | options
    engine.run("v", items, seen.append, **options)
    return seen


def test_a_gap_starts_smoothing_and_events_anew_and_lateness_does_not(engine, tmp_path):
    windows = online(engine, make_video(tmp_path / "a.mp4", 60, FPS))
    for gap in (True, False):
        missed = Missed(7, 8, 0.4, 1.2, "why", gap=gap)
        seen = seen_of(engine, [*windows[:2], missed, windows[2]])  # of one class, each and in the mean
        after = next(item for item in seen if isinstance(item, WindowResult) and item.number == 2)
        each = engine.probabilities(windows[:3])[0]
        best = (each[2] if gap else each.mean(dim=0)).max().item()
        assert after.probabilities[0] == pytest.approx(best, rel=1e-4)
        counts = [item.windows for item in seen if isinstance(item, Event)]
        assert counts == ([2, 1] if gap else [3])


def test_frames_wait_for_their_label_no_longer_than_for_the_next_window(engine, tmp_path):
    path = make_video(tmp_path / "a.mp4", 120, FPS, pts=[i + 30 * (i > 60) for i in range(120)])
    for stride_s in (0.4, 3.0):
        source = FileSource(path)
        cutter = cutter_of(engine, source, stride_s=stride_s)
        out = tmp_path / f"{stride_s}.mp4"
        made = Annotated(out, fps=FPS, grid=cutter.grid, wait=True, overwrite=False)
        most = 0

        def watch(frame, made=made):
            nonlocal most
            made.watch(frame)
            most = max(most, len(made._frames))

        def emit(item, made=made):
            made.write("v", item)

        items = cut_online(source, cutter, short_side=32, watch=watch)
        options = {"smoothing": Smoothing(), "confidence": 0.0, "batch_size": 1}
        engine.run("v", items, emit, grid=cutter.grid, **options)
        made.close()
        assert 1 < most <= (0.8 + stride_s) * FPS + 3
        assert open_video(out).num_frames == 120


# --- memory -----------------------------------------------------------------------------------------------


def peak_of(engine, path):
    tracemalloc.start()
    source, count = FileSource(path), 0
    for _ in cut_online(source, cutter_of(engine, source, stride_s=0.4), short_side=32):
        count += 1
    source.close()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak, count


def test_memory_does_not_grow_with_the_length_of_a_video(engine, tmp_path):
    short, long = (long_video(tmp_path / f"{n}.mp4", n, crf=40) for n in (200, 4000))
    peak_of(engine, short)  # what is made once
    (small, few), (large, many) = peak_of(engine, short), peak_of(engine, long)
    assert many > 15 * few
    assert large < 1.2 * small + 100_000


@pytest.mark.slow
def test_an_hour_takes_no_more_memory_than_a_minute(checkpoint, tmp_path, capfd):
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def run(path, out):
        arguments = ["--checkpoint", checkpoint, "--length", 2, "--out", tmp_path / out, "--json"]
        assert run_tool("predict.py", path, *arguments) == 0
        capfd.readouterr()
        return resident()

    hour = make_video(
        tmp_path / "hour.mp4", numbered_frames(256, (32, 32))[np.arange(18_000) % 256], 5, crf=40
    )
    minute = make_video(tmp_path / "minute.mp4", 250, 5, size=(32, 32), crf=40)
    run(minute, "a.jsonl")
    before = run(minute, "b.jsonl")
    after = run(hour, "hour.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "hour.jsonl").read_text().splitlines()]
    assert rows[-2]["end_s"] == pytest.approx(3600, abs=2)
    assert after - before < 30 * 2**20


# --- the command ------------------------------------------------------------------------------------------


def predict(*arguments):
    return run_tool("predict.py", *arguments)


def rows_of(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_every_output_tells_the_same_story(checkpoint, tmp_path, capfd):
    path = long_video(tmp_path / "a.mp4", 100)
    outs = [tmp_path / f"o/r.{ending}" for ending in ("jsonl", "csv", "srt", "mp4")]
    options = ["--checkpoint", checkpoint, "--length", 4, "--stride", 0.4, "--confidence", 0.4, "--smooth", 2]
    for out in outs:
        options += ["--out", out]
    assert predict(path, *options) == 0
    shown, err = capfd.readouterr()
    assert err == ""
    rows = rows_of(outs[0])
    windows = [row for row in rows if row["kind"] == "window"]
    events = [row for row in rows if row["kind"] == "event"]
    assert [row["number"] for row in windows] == list(range(len(windows))) and len(windows) == 24
    assert all(row["source"] == path and row["token_length"] == 4 for row in windows) and events
    table = list(csv.DictReader(outs[1].open()))
    assert [row["class"] for row in table] == [row["class_names"][0] for row in windows]
    assert [float(row["probability"]) for row in table] == pytest.approx(
        [row["probabilities"][0] for row in windows], abs=1e-6
    )
    blocks = outs[2].read_text().strip().split("\n\n")
    assert [block.splitlines()[2].split(" (")[0] for block in blocks] == [row["class_name"] for row in events]
    assert [block.splitlines()[0] for block in blocks] == [str(i + 1) for i in range(len(events))]
    lines = shown.splitlines()
    assert lines[0] == path and len(lines) == 2 + len(rows)
    with open_video(outs[3]) as video:
        assert (video.num_frames, video.height, video.width) == (100, 48, 64)
        pictures = video.frames(range(100))
    with open_video(path) as video:
        before = video.frames(range(100))
    changed = np.abs(pictures.astype(int) - before)[:, -8:].mean(axis=(1, 2, 3)) > 20
    assert not changed[:2].any() and changed[10:90].mean() > 0.6  # the first window speaks from 0.2 s on
    assert np.abs(pictures.astype(int) - before)[:, :20].mean() < 12  # above the label all is as it was


def test_smoothed_results_are_the_means_of_the_plain_ones(checkpoint, tmp_path, capfd):
    path = long_video(tmp_path / "a.mp4", 60)
    options = [path, "--checkpoint", checkpoint, "--length", 4, "--stride", 0.4, "--json"]

    def seen(*more):
        assert predict(*options, *more) == 0
        rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
        found = [
            dict(zip(r["class_names"], r["probabilities"], strict=True))
            for r in rows
            if r["kind"] == "window"
        ]
        return torch.tensor([[row[name] for name in CLASSES] for row in found])

    plain, smooth = seen(), seen("--smooth", 3)
    torch.testing.assert_close(smooth[2:], (plain[2:] + plain[1:-1] + plain[:-2]) / 3, rtol=1e-4, atol=1e-6)
    decayed = seen("--decay", 0.25)
    torch.testing.assert_close(decayed[1], 0.25 * plain[1] + 0.75 * plain[0], rtol=1e-4, atol=1e-6)


def test_a_folder_is_read_to_the_end_whatever_is_broken_in_it(checkpoint, tmp_path, capfd):
    (tmp_path / "in/sub").mkdir(parents=True)
    good = [long_video(tmp_path / "in" / name, 30) for name in ("a.mp4", "sub/c.mp4")]
    (tmp_path / "in/b.mp4").write_text("this is no video")
    whole = Path(good[0]).read_bytes()
    (tmp_path / "in/sub/z.mp4").write_bytes(whole[: len(whole) // 2])
    outs = [tmp_path / "all.jsonl", tmp_path / "out/{name}.srt"]
    options = [
        "--checkpoint",
        checkpoint,
        "--length",
        2,
        "--confidence",
        0,
        "--out",
        outs[0],
        "--out",
        outs[1],
    ]
    assert predict(tmp_path / "in", *options) == 2
    err = capfd.readouterr().err.splitlines()
    assert len(err) == 2 and all(line.startswith("error: ") for line in err)
    assert "b.mp4" in err[0] and "z.mp4" in err[1]
    assert {row["source"] for row in rows_of(outs[0])} == set(good)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.srt", "sub_c.srt"}
    assert (
        predict(tmp_path / "in", "--checkpoint", checkpoint, "--length", 2, "--json") == 2
    )  # without windows
    out, err = capfd.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert [Path(row["path"]).name for row in rows] == ["a.mp4", "b.mp4", "c.mp4", "z.mp4"]
    assert ["error" in row for row in rows] == [False, True, False, True] and err.count("\n") == 2


def test_a_file_that_is_cut_off_gives_its_windows_and_then_an_error(checkpoint, tmp_path, capfd):
    path = long_video(tmp_path / "a.mkv", 200)
    whole = Path(path).read_bytes()
    Path(path).write_bytes(whole[: len(whole) // 2])
    assert predict(path, "--checkpoint", checkpoint, "--length", 2, "--json", "--stride", 0.4) == 2
    out, err = capfd.readouterr()
    assert err.count("\n") == 1 and "is cut off" in err and "bytes are missing" in err
    assert 5 < len(out.splitlines()) < 60


def test_lines_are_on_the_disk_when_they_are_written_and_whole_when_it_is_full(tmp_path):
    resource = pytest.importorskip("resource")
    file = LineFile(tmp_path / "a.jsonl", overwrite=False)
    file("1234567\n")
    assert (tmp_path / "a.jsonl").read_text() == "1234567\n"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12, before[1]))
    try:
        with pytest.raises(OSError, match="No space left"):
            file("1234567\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    file.close()
    assert (tmp_path / "a.jsonl").read_text() == "1234567\n"


def test_files_that_exist_are_kept(checkpoint, tmp_path, capfd):
    path = long_video(tmp_path / "a.mp4", 30)
    for ending in ("jsonl", "csv", "srt", "mp4"):
        out = tmp_path / f"r.{ending}"
        out.write_text("mine")
        options = [path, "--checkpoint", checkpoint, "--length", 2, "--out", out]
        assert predict(*options) == 2
        err = capfd.readouterr().err
        assert err.count("\n") == 1 and "exists already; choose another name or say --overwrite" in err
        assert out.read_text() == "mine"
        assert predict(*options, "--overwrite") == 0
        assert out.read_bytes()[:4] != b"mine"
    assert predict(path, "--checkpoint", checkpoint, "--length", 2, "--out", path, "--overwrite") == 2
    assert "is to be read and written" in capfd.readouterr().err
    assert open_video(path).num_frames == 30


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--out", "a.txt"], "must end in one of .jsonl, .csv, .srt, .mp4"),
        (["--out", "a.csv", "--out", "a.csv"], "names a.csv twice"),
        (["--out", "a.srt"], "write {name} into it"),
        (["--window", "0"], "--window is 0, but must be above 0"),
        (["--stride", "nan"], "--stride is nan"),
        (["--smooth", "0"], "over at least 1"),
        (["--smooth", "2", "--decay", "0.5"], "choose one"),
        (["--confidence", "2"], "from 0 to 1"),
        (["--ffmpeg", "x"], "KEY=VALUE"),
        (["--retries", "-1"], "--retries is -1"),
        (["--stride", "1", "--length", "9"], "token length 9"),
        (["--stride", "1", "--length", "adaptive"], "has no assigner"),
    ],
)
def test_bad_input_is_one_line(options, said, checkpoint, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = [long_video(f"{name}.mp4", 20) for name in "ab"]
    length = [] if "--length" in options else ["--length", "2"]
    assert predict(*paths, "--checkpoint", checkpoint, *options, *length) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1) and said in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


def test_segments_need_to_be_told_how_long_a_window_is(tmp_path, capfd):
    checkpoint = random_checkpoint(tmp_path / "a.pt", "data.sampling=segments")
    path = long_video(tmp_path / "a.mp4", 60)
    options = [path, "--checkpoint", checkpoint, "--length", 4, "--json"]
    assert predict(*options, "--stride", 1) == 2
    assert "--window SECONDS" in capfd.readouterr().err
    assert predict(*options, "--stride", 1, "--window", 2) == 0
    rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [row["end_s"] for row in rows if row["kind"] == "window"] == [2.0, 3.0, 4.0, 5.0, 6.0]


def test_two_lists_of_classes_give_actions_and_their_parts(tmp_path, capfd):
    names = ("take", "put", "tap", "plate", "cup")
    checkpoint = random_checkpoint(tmp_path / "a.pt", names=names, heads=(2, 3))
    path = long_video(tmp_path / "a.mp4", 40)
    options = [path, "--checkpoint", checkpoint, "--length", 4, "--confidence", 0, "--json", "--top", 6]
    assert predict(*options) == 0
    rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    for row in rows:
        if row["kind"] == "event":
            assert row["class_name"].split()[0] in names[:2] and row["class_name"].split()[1] in names[2:]
            continue
        assert sum(row["probabilities"]) == pytest.approx(1, abs=1e-5) and len(row["class_names"]) == 6
        parts = {
            p["kind"]: dict(zip(p["class_names"], p["probabilities"], strict=True)) for p in row["parts"]
        }
        verb, noun = row["class_names"][0].split()
        assert row["probabilities"][0] == pytest.approx(parts["verb"][verb] * parts["noun"][noun], rel=1e-5)


def test_every_window_gets_its_own_length_from_the_router(small_run, demo_data, tmp_path, capfd):
    path = demo_split(demo_data, "test").samples[0].path
    recognizer = Recognizer.load(small_run / "recognizer.pt")
    engine = Engine(recognizer)
    windows = online(engine, path, stride_s=0.1)
    probabilities, lengths, costs = engine.probabilities(windows)
    assert set(lengths) <= {8, 5, 3} and min(costs) > 0
    for window, row, length in zip(windows, probabilities, lengths, strict=True):
        level = recognizer.backbone.level_of(length)
        fixed = Engine(recognizer, length=length)
        assert fixed.level == level
        torch.testing.assert_close(fixed.probabilities([window])[0][0], row, rtol=1e-4, atol=1e-5)
    assert predict(path, "--checkpoint", small_run / "recognizer.pt", "--stride", 0.1, "--json") == 0
    rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [row["token_length"] for row in rows if row["kind"] == "window"] == lengths


def test_sparse_windows_are_read_by_seeking_and_are_the_same(
    checkpoint, engine, tmp_path, capfd, monkeypatch
):
    path = long_video(tmp_path / "a.mp4", 200, gop=10)
    options = [path, "--checkpoint", checkpoint, "--length", 4, "--json", "--stride", 2.5]
    assert predict(*options) == 0
    sought = capfd.readouterr().out
    monkeypatch.setattr("revit_video.stream.command.frame_times", lambda path: None)
    assert predict(*options) == 0
    assert capfd.readouterr().out == sought and sought.count('"window"') == 8


def test_only_the_first_seconds_are_read(checkpoint, tmp_path, capfd):
    path = long_video(tmp_path / "a.mp4", 200)
    assert predict(path, "--checkpoint", checkpoint, "--length", 2, "--seconds", 3, "--json") == 0
    rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert rows[-1]["end_s"] <= 3.0 + 1e-6 and len(rows) > 4


def test_a_labelled_video_keeps_its_times(checkpoint, tmp_path, capfd):
    pts = [i + 5 * (i > 20) for i in range(60)]
    path = make_video(tmp_path / "a.mp4", 60, FPS, pts=pts)
    out = tmp_path / "o.mp4"
    assert predict(path, "--checkpoint", checkpoint, "--length", 2, "--out", out) == 0
    with av.open(str(out)) as video:
        times = [frame.time for frame in video.decode(video=0)]
    assert times == pytest.approx([t / FPS for t in pts], abs=1e-3)
    with open_video(out) as video:
        assert frame_numbers(video.frames([0, 10, 59])[:, :30]) == [0, 10, 59]


def test_the_commands_of_the_page_run_as_they_stand(small_run, demo_data, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "output").mkdir()
    (tmp_path / "output/demo").symlink_to(small_run)
    (tmp_path / "output/demo_data").symlink_to(demo_data)
    content = Path(long_video(tmp_path / "a.ts", 60, gop=10)).read_bytes()
    for words in commands("docs/streams.md"):
        tool, *arguments = words[words.index("tools/predict.py") :]
        live = arguments[0].startswith("rtsp://")
        with server(content) as address:
            arguments = [{"7": "3"}.get(word, word) for word in arguments]
            if live:
                arguments = [address, *arguments[1:], *([] if "--retries" in arguments else ["--retries", 0])]
            assert run_tool(Path(tool).name, *arguments) == (2 if live else 0), words
        err = capfd.readouterr().err
        assert err.count("\n") == live and ("the stream is gone" in err or not live)
    written = {path.name for path in (tmp_path / "output").iterdir() if path.is_file()}
    assert written == {"windows.jsonl", "windows.csv", "00000.srt", "00000.mp4", "all.csv"} | {
        "camera.jsonl",
        "camera.mp4",
    }
    assert len(list((tmp_path / "output/subtitles").iterdir())) == VIDEOS["test"]
