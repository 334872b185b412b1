"""Live streams without a network: servers, pipes and drops of the test's own."""

import json
import os
import socket
import threading
import time
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import av
import pytest
from small_run import run_tool
from stream_parts import FPS, long_video, random_checkpoint, server

from revit_video.decode import DecodeError
from revit_video.stream.command import ROOM
from revit_video.stream.engine import Engine
from revit_video.stream.live import LiveSource
from revit_video.stream.source import Frame, Gap

PATIENT = ["--max-lag", "1000"]  # these servers send faster than a camera would


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return random_checkpoint(tmp_path_factory.mktemp("live") / "a.pt")


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    """20 s of MPEG-TS, a key frame each second."""
    return long_video(tmp_path_factory.mktemp("live") / "a.ts", 200, gop=10)


@pytest.fixture
def rows(checkpoint, capfd):
    """rows(address, ...): exit code, the windows by number, everything else, and stderr."""

    def run(address, *options):
        arguments = ["--checkpoint", checkpoint, "--length", 4, "--stride", 0.4, "--json"]
        code = run_tool("predict.py", address, *arguments, *PATIENT, *options)
        out, err = capfd.readouterr()
        found = [json.loads(line) for line in out.splitlines()]
        windows = {row["number"]: row for row in found if row["kind"] == "window"}
        return code, windows, [row for row in found if row["kind"] == "missed"], err

    return run


def part(stream, begin_s, end_s, out):
    """The packets of a stretch of a stream, with the times they have there."""
    with av.open(stream) as whole, av.open(str(out), "w", format="mpegts") as cut:
        (video,) = whole.streams.video
        copy, first = cut.add_stream_from_template(video), None
        for packet in whole.demux(video):
            first = packet.pts if first is None else first
            if packet.dts is not None and begin_s <= (packet.pts - first) * packet.time_base < end_s:
                packet.stream = copy
                cut.mux(packet)
    return Path(out).read_bytes()


def same(a, b):
    assert a["class_names"] == b["class_names"]
    assert a["probabilities"] == pytest.approx(b["probabilities"], abs=1e-5)
    assert (a["start_s"], a["end_s"]) == (b["start_s"], b["end_s"])


def test_a_drop_loses_the_windows_that_reach_into_it_and_no_other(stream, rows, tmp_path):
    _, whole, missed, _ = rows(stream)
    assert sorted(whole) == list(range(49)) and not missed
    parts = part(stream, 0, 6, tmp_path / "1.ts"), part(stream, 9, 14, tmp_path / "2.ts")
    with server(*parts) as address:
        code, windows, missed, err = rows(address, "--retries", 2, "--timeout", 5)
    assert code == 2 and err.count("\n") == 1
    assert "the stream is gone; 2 attempts to reconnect failed; the last: " in err
    before, after = range(14), range(23, 34)  # 0.4 * 13 + 0.8 = 6; 0.4 * 23 = 9.2; 0.4 * 33 + 0.8 = 14
    assert sorted(windows) == [*before, *after]
    for number, row in windows.items():
        same(row, whole[number])
    assert [(row["first"], row["last"]) for row in missed] == [(14, 22)]
    assert "connection lost" in missed[0]["why"]


def test_a_hole_in_a_stream_that_goes_on_is_a_gap_as_well(stream, rows, tmp_path):
    _, whole, _, _ = rows(stream)
    joined = part(stream, 0, 4, tmp_path / "1.ts") + part(stream, 6, 10, tmp_path / "2.ts")
    with server(joined) as address:
        _, windows, missed, _ = rows(address, "--retries", 0)
    assert sorted(windows) == [*range(9), *range(15, 24)]
    for number, row in windows.items():
        same(row, whole[number])
    assert [(row["first"], row["last"]) for row in missed] == [(9, 14)]
    assert "no frame for 2.10 s" in missed[0]["why"]


def test_a_server_that_counts_anew_goes_on_by_the_clock(stream, rows, tmp_path):
    content = part(stream, 0, 4, tmp_path / "1.ts")
    with server(content, content) as address:
        _, windows, missed, _ = rows(address, "--retries", 1)
    starts = [row["start_s"] for row in windows.values()]
    assert starts == sorted(starts) and len(starts) >= 16 and len(missed) == 1
    assert max(starts) < 9


def test_an_address_where_nobody_is_is_refused_at_once(rows):
    with server() as address:
        port = address.rpartition(":")[2]
    began = time.monotonic()
    code, windows, _, err = rows(f"tcp://me:secret@127.0.0.1:{port}")
    assert (code, windows) == (2, {}) and err.count("\n") == 1
    assert "cannot be opened" in err and "secret" not in err
    assert time.monotonic() - began < 20


def test_a_stream_that_is_silent_is_given_up(stream, tmp_path):
    silent = threading.Event()

    def mute(listener):
        with listener, suppress(OSError):
            while not silent.is_set():
                peer, _ = listener.accept()
                peer.sendall(content)
                silent.wait(20)
                peer.close()

    content = part(stream, 0, 8, tmp_path / "1.ts")
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=mute, args=(listener,), daemon=True)
    thread.start()
    pauses = []
    source = LiveSource(
        f"tcp://127.0.0.1:{listener.getsockname()[1]}", timeout_s=0.7, retries=1, wait=pauses.append
    )
    items = iter(source)
    gap = next(item for item in items if isinstance(item, Gap))
    assert "connection lost" in gap.why
    silent.set()
    listener.close()
    with pytest.raises(DecodeError, match="the stream is gone; 1 attempts"):
        for _ in items:
            pass
    assert pauses[0] == 0.5
    source.close()


def test_a_pipe_ends_where_its_writer_ends(stream, rows, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    content = Path(stream).read_bytes()
    writer = threading.Thread(target=pipe.write_bytes, args=(content,), daemon=True)
    writer.start()
    code, windows, missed, err = rows(pipe)
    writer.join(timeout=5)
    assert (code, err, missed) == (0, "", []) and sorted(windows) == list(range(49))
    for number, row in rows(stream)[1].items():
        same(windows[number], row)


def test_a_file_behind_an_address_ends_like_a_file(checkpoint, rows, tmp_path):
    path = long_video(tmp_path / "a.mp4", 60)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *words):
            pass

    web = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=web.serve_forever, daemon=True).start()
    try:
        code, windows, _, err = rows(f"http://127.0.0.1:{web.server_port}/a.mp4")
    finally:
        web.shutdown()
        web.server_close()
    assert (code, err) == (0, "") and sorted(windows) == sorted(rows(path)[1])


def test_a_model_that_is_too_slow_gets_fresh_windows_and_the_others_are_named(
    stream, rows, tmp_path, monkeypatch
):
    classify, took = Engine.probabilities, []

    def slow(self, windows):
        began = time.monotonic()
        time.sleep(0.25)
        result = classify(self, windows)
        took.append(time.monotonic() - began)
        return result

    monkeypatch.setattr(Engine, "probabilities", slow)
    content = part(stream, 0, 7, tmp_path / "1.ts")
    options = ["--stride", 0.1, "--max-lag", 0.5, "--retries", 0]
    with server(content, chunk=188, pause_s=7 / (len(content) / 188)) as address:  # about as fast as it plays
        _, windows, missed, _ = rows(address, *options)
    assert len(windows) > 3 and missed and all("behind the stream" in row["why"] for row in missed[:1])
    covered = [*windows, *(n for row in missed for n in range(row["first"], row["last"] + 1))]
    assert sorted(covered) == list(range(max(covered) + 1))
    assert len(windows) < len(covered) / 2
    waiting = 0.5 + (ROOM + 2) * max(took)  # too old, and then behind all that may wait
    assert max(row["lag_s"] for row in windows.values()) < waiting + 1.0


def test_decoding_that_is_too_slow_goes_on_with_key_frames(stream, tmp_path, monkeypatch):
    content = part(stream, 0, 10, tmp_path / "1.ts")
    with server(content) as address:
        source = LiveSource(address, retries=0, max_lag_s=0.3)
        source._ends = True
        items, keys, gaps = [], 0, 0
        for item in source:
            items.append(item)
            if isinstance(item, Frame):
                time.sleep(0.2)  # frames of 0.1 s
                keys += item.picture.key_frame
            else:
                gaps += 1
        source.close()
    frames = [item for item in items if isinstance(item, Frame)]
    assert gaps >= 2 and len(frames) < 60 and keys >= 5
    for before, item in pairwise(items):
        if isinstance(before, Gap):
            assert item.picture.key_frame
    times = [frame.time_s for frame in frames]
    assert times == sorted(times) and times[-1] > 7


def test_outputs_are_whole_when_the_stream_is_gone(stream, rows, tmp_path):
    outs = [tmp_path / name for name in ("a.jsonl", "a.csv", "a.srt", "a.mp4")]
    options = [word for out in outs for word in ("--out", out)]
    with server(part(stream, 0, 5, tmp_path / "1.ts")) as address:
        code, windows, _, _ = rows(address, *options, "--retries", 0, "--confidence", 0)
    assert code == 2 and len(windows) == 11
    kinds = [json.loads(line)["kind"] for line in outs[0].read_text().splitlines()]
    assert kinds.count("window") == 11
    assert len(outs[1].read_text().splitlines()) == 12
    assert outs[2].read_text().endswith("\n\n") and "-->" in outs[2].read_text()
    with av.open(str(outs[3])) as video:
        assert sum(1 for _ in video.decode(video=0)) == 50


def test_an_interruption_leaves_whole_files(stream, rows, tmp_path, monkeypatch):
    classify, count = Engine.probabilities, iter(range(100))

    def interrupted(self, windows):
        if next(count) == 6:
            raise KeyboardInterrupt
        return classify(self, windows)

    monkeypatch.setattr(Engine, "probabilities", interrupted)
    outs = [tmp_path / name for name in ("a.jsonl", "a.srt", "a.mp4")]
    options = [word for out in outs for word in ("--out", out)]
    before = threading.active_count()
    with server(Path(stream).read_bytes(), pause_s=0.05) as address:
        code, windows, _, err = rows(address, *options, "--confidence", 0)
        assert threading.active_count() <= before + 1  # the server's
    assert (code, err) == (130, "interrupted\n") and sorted(windows) == list(range(6))
    assert [json.loads(line)["kind"] for line in outs[0].read_text().splitlines()][-1] == "event"
    assert outs[1].read_text().endswith("\n\n")
    with av.open(str(outs[2])) as video:
        assert sum(1 for _ in video.decode(video=0)) >= 20


def test_this_pyav_reads_cameras():
    if os.name == "posix" and os.uname().sysname == "Linux":
        assert av.format.ContainerFormat("v4l2").is_input


def test_a_camera_that_is_not_there_is_named(checkpoint, capfd):
    if Path("/dev/video77").exists():
        pytest.skip("there is a camera of this number")
    assert run_tool("predict.py", "/dev/video77", "--checkpoint", checkpoint, "--length", 2) == 2
    assert capfd.readouterr().err.startswith("error: /dev/video77: cannot be opened: ")


def test_the_length_of_a_frame_is_taken_from_the_stream(stream):
    with server(Path(stream).read_bytes()) as address:
        source = LiveSource(address, retries=0)
        assert source.fps == pytest.approx(FPS) and source.fps_known
        source.close()
