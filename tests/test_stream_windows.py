"""Windows over a stream of frames: which frames, which windows, smoothing, events. No video, no model."""

import math
import random
import threading
import time
import weakref
from bisect import bisect_right
from itertools import pairwise

import pytest
import torch

from revit_video.sample import FramePicker, strided_indices
from revit_video.sample.windows import WindowGrid, WindowRule, window_grid
from revit_video.stream.background import Waiting, in_background
from revit_video.stream.cutter import Cutter, Missed, Window
from revit_video.stream.engine import speaks_for
from revit_video.stream.inputs import find_inputs, safe_name
from revit_video.stream.live import LiveClock, is_live, shown_name
from revit_video.stream.outputs import clock_time, srt_time
from revit_video.stream.smoothing import Event, EventFinder, Smoothing, decayed, mean_of
from revit_video.types import InputError

RULE = WindowRule(clip_len=4, sampling_rate=3)


def cut(grid, times, *, max_gap_s=math.inf, pad=False):
    """Everything a cutter gives for frames at these times; pictures are the frames' numbers."""
    cutter, found = Cutter(grid, max_gap_s=max_gap_s, pad=pad), []
    for number, time_s in enumerate(times):
        found += cutter.push(time_s, lambda number=number: number)
    return found + list(cutter.finish())


def by_definition(grid, times):
    """{window: frames} of all whole windows: for each place the last frame up to half a frame after it."""
    windows, end = {}, times[-1] + grid.frame_s
    while all(deadline < end for deadline in grid.deadlines(len(windows))):
        deadlines = grid.deadlines(len(windows))
        windows[len(windows)] = tuple(bisect_right(times, deadline) - 1 for deadline in deadlines)
    return windows


# --- where windows lie ------------------------------------------------------------------------------------


def test_a_window_is_as_long_as_a_clip_of_the_checkpoint():
    assert RULE.length_s(25) == pytest.approx(12 / 25)
    official = WindowRule(clip_len=8, sampling_rate=32, rule="slowfast", target_fps=30)
    assert official.length_s(25) == official.length_s(60) == pytest.approx(256 / 30)
    assert window_grid(RULE, fps=10).stride_s == pytest.approx(0.6)
    with pytest.raises(InputError, match="--window SECONDS"):
        WindowRule(clip_len=4, sampling="segments").length_s(25)


@pytest.mark.parametrize("fps", [10, 25, 29.97, 60])
def test_windows_of_frames_take_the_frames_of_clips(fps):
    times = [i / fps for i in range(200)]
    windows = cut(window_grid(RULE, fps=fps, stride_s=7 / fps), times)
    assert len(windows) == (200 - 10) // 7 + 1
    for window in windows:
        assert list(window.frames) == strided_indices(200, 4, 3, 7 * window.number)


def test_official_windows_are_official_clips_to_a_frame():
    rule = WindowRule(clip_len=8, sampling_rate=4, rule="slowfast", target_fps=30)
    (clip,) = FramePicker(8, 4, rule="slowfast").test_clips(300, 24.0, 1)
    first = cut(window_grid(rule, fps=24), [i / 24 for i in range(300)])[0]
    assert max(abs(a - b) for a, b in zip(first.frames, clip, strict=True)) <= 1
    assert first.frames[0] == clip[0] == 0


def test_segments_take_the_middle_of_each_part():
    rule = WindowRule(clip_len=4, sampling="segments")
    grid = window_grid(rule, fps=10, window_s=4.0, stride_s=1.0)
    assert grid.places == (0.5, 1.5, 2.5, 3.5)
    assert cut(grid, [i / 10 for i in range(60)])[1].frames == (15, 25, 35, 45)


@pytest.mark.parametrize("seed", range(20))
def test_windows_of_any_times_are_those_of_the_definition(seed):
    rng = random.Random(seed)
    times, rate = [0.0], rng.choice([5, 25, 60])
    for _ in range(rng.randrange(1, 150)):
        times.append(times[-1] + rng.choice([0.2, 1, 1, 1, 3, 40]) * rng.uniform(0.9, 1.1) / rate)
    grid = window_grid(RULE, fps=rate, stride_s=rng.choice([0.3, 1, 2.5]) * 12 / rate)
    found = cut(grid, times)
    assert {window.number: window.frames for window in found} == by_definition(grid, times)
    assert [window.number for window in found] == list(range(len(found)))


def test_times_that_shake_by_less_than_half_a_frame_change_nothing():
    rng, times = random.Random(3), [i / 25 for i in range(300)]
    grid = window_grid(RULE, fps=25)
    shaken = [0.0, *(t + rng.uniform(-0.45, 0.45) / 25 for t in times[1:])]
    assert cut(grid, shaken)[:-1] == cut(grid, times)[: len(cut(grid, shaken)) - 1]


@pytest.mark.parametrize("seed", range(20))
def test_a_gap_loses_the_windows_that_reach_into_it_and_no_other(seed):
    rng = random.Random(seed)
    times = [i / 10 for i in range(300)]
    begin = rng.randrange(1, 250)
    end = begin + rng.randrange(12, 40)
    grid = window_grid(RULE, fps=10, stride_s=rng.choice([0.1, 0.35, 1.0, 5.0]))
    kept = times[:begin] + times[end:]
    found = cut(grid, kept, max_gap_s=1.0)
    number = {i: i if i < begin else i - (end - begin) for i in range(300) if not begin <= i < end}
    whole = {}
    for window, frames in by_definition(grid, times).items():
        if max(frames) < begin or min(frames) >= end:
            whole[window] = tuple(number[frame] for frame in frames)
    windows = {item.number: item.frames for item in found if isinstance(item, Window)}
    assert windows == whole
    missed = [n for item in found if isinstance(item, Missed) for n in range(item.first, item.last + 1)]
    assert sorted([*windows, *missed]) == list(range(max(windows, default=-1) + 1)) or not windows


def test_a_gap_is_named_and_is_one_whatever_the_times_say():
    grid = window_grid(RULE, fps=10, stride_s=0.6)
    cutter = Cutter(grid, max_gap_s=1.0, pad=False)
    found = [item for i in range(30) for item in cutter.push(i / 10, lambda: 0)]
    cutter.gap("connection lost")
    found += [item for i in range(30, 60) for item in cutter.push(i / 10, lambda: 0)]
    (missed,) = (item for item in found if isinstance(item, Missed))
    assert (missed.first, missed.last, missed.why, missed.gap) == (4, 4, "connection lost", True)
    assert missed.start_s == pytest.approx(2.4) and missed.end_s == pytest.approx(3.6)


def test_a_video_shorter_than_a_window_gives_one_with_its_last_frame_repeated():
    grid = window_grid(RULE, fps=10)
    times = [0.0, 0.1, 0.2, 0.3, 0.4]
    (window,) = cut(grid, times, pad=True)
    assert list(window.frames) == strided_indices(5, 4, 3, 0) and window.end_s == pytest.approx(0.5)
    assert cut(grid, times, pad=False) == [] == cut(grid, [], pad=True)
    assert cut(grid, [0.0], pad=True)[0].frames == (0, 0, 0, 0)
    assert (
        len(cut(grid, [i / 10 for i in range(10)], pad=True)) == 1
    )  # nothing is repeated where one is whole


def test_only_the_pictures_of_open_windows_are_kept():
    class Picture:
        pass

    alive, most, made = weakref.WeakSet(), 0, 0

    def take():
        nonlocal made
        made += 1
        picture = Picture()
        alive.add(picture)
        return picture

    grid = window_grid(RULE, fps=10, stride_s=0.4)  # windows of 1.2 s: at most 3 are open
    cutter = Cutter(grid, max_gap_s=1.0, pad=True)
    for i in range(20_000):
        for window in cutter.push(i / 10, take):
            del window
        most = max(most, len(alive))
    assert most <= 12 and 4 * 4_990 * 0.5 < made < 20_000


@pytest.mark.parametrize("changes", [{"window_s": 0.0}, {"stride_s": -1.0}, {"fps": 0.0}, {"fps": math.inf}])
def test_windows_that_cannot_be_are_refused(changes):
    with pytest.raises(InputError, match="but must be"):
        window_grid(RULE, **({"fps": 10.0} | changes))


# --- smoothing and events ---------------------------------------------------------------------------------


def test_smoothing_is_the_mean_of_the_last_windows_and_starts_anew_when_told():
    p = torch.rand(5, 3, dtype=torch.float64)
    smooth = Smoothing(windows=3)
    out = [smooth(row) for row in p]
    torch.testing.assert_close(out[4], p[2:].mean(dim=0))
    torch.testing.assert_close(out[1], p[:2].mean(dim=0))
    smooth.forget()
    assert torch.equal(smooth(p[0]), p[0])
    torch.testing.assert_close(mean_of(list(p)), p.mean(dim=0))


def test_exponential_smoothing_is_its_closed_form():
    p, share = torch.rand(6, 3, dtype=torch.float64), 0.3
    smooth = Smoothing(share=share)
    for row in p:
        last = smooth(row)
    weights = [share * (1 - share) ** (5 - i) for i in range(6)]
    weights[0] /= share
    torch.testing.assert_close(last, (torch.tensor(weights, dtype=p.dtype)[:, None] * p).sum(dim=0))
    assert torch.equal(decayed(None, p[0], share), p[0])


@pytest.mark.parametrize("options", [{"windows": 0}, {"share": 0.0}, {"share": 1.1}])
def test_smoothing_that_cannot_be_is_refused(options):
    with pytest.raises(InputError):
        Smoothing(**options)


def test_events_are_runs_of_one_class_above_the_confidence():
    found: list[Event] = []
    events = EventFinder(0.5, found.append)
    for i, (name, p) in enumerate([("a", 0.6), ("a", 0.8), ("b", 0.9), ("b", 0.4), ("b", 0.5), ("a", 0.1)]):
        events.window("v", (i, i + 1), name, p)
    assert found == [
        Event("v", 0, 2, "a", pytest.approx(0.7), 2),
        Event("v", 2, 3, "b", 0.9, 1),
        Event("v", 4, 5, "b", 0.5, 1),
    ]
    events.window("v", (6, 7), "a", 1.0)
    events.end()
    events.end()
    assert len(found) == 4


@pytest.mark.parametrize("stride", [0.5, 1.0, 2.0, 5.0])
def test_what_windows_speak_for_never_overlaps(stride):
    grid = WindowGrid(2.0, stride, (0.0, 1.0), 0.1)
    spans = [speaks_for(Window(n, grid.start(n), grid.end(n), ()), grid) for n in range(5)]
    for (_, end), (begin, _) in pairwise(spans):
        assert begin >= end - 1e-9
        assert stride > 2.0 or begin == pytest.approx(end)


# --- late -------------------------------------------------------------------------------------------------


def numbered(count):
    return [Window(n, float(n), n + 1.0, ()) for n in range(count)]


def test_windows_that_are_too_old_make_room_and_are_named():
    lag = {0: 9.0, 1: 5.0, 2: 3.0}
    waiting = Waiting(room=2, max_lag_s=2.0, lag_s=lambda end_s: lag.get(int(end_s) - 1, 0.0))
    for window in numbered(5):
        assert waiting.put(window)
    waiting.end()
    missed, *windows = waiting
    assert (missed.first, missed.last, missed.gap) == (0, 2, False) and "behind the stream" in missed.why
    assert [window.number for window in windows] == [3, 4]


def test_windows_that_are_fresh_make_the_reader_wait():
    waiting = Waiting(room=2, max_lag_s=2.0, lag_s=lambda end_s: 0.0)
    found, read = [], []

    def items():
        for window in numbered(20):
            read.append(window.number)
            yield window

    for window in in_background(items(), waiting):
        time.sleep(0.005)
        found.append(window.number)
        assert len(read) - len(found) <= 4  # those that wait, the one in hand, the one that is read
    assert found == list(range(20))


def test_an_error_of_the_reader_comes_after_what_it_has_read():
    def items():
        yield from numbered(2)
        raise InputError("gone")

    waiting = Waiting(room=5, max_lag_s=2.0, lag_s=lambda end_s: 0.0)
    found = []
    with pytest.raises(InputError, match="gone"):
        for window in in_background(items(), waiting):
            found.append(window.number)
    assert found == [0, 1]


def test_the_reader_ends_when_nobody_listens():
    before = threading.active_count()
    items = in_background(iter(numbered(100)), Waiting(room=1, max_lag_s=9.0, lag_s=lambda end_s: 0.0))
    assert next(items).number == 0
    items.close()
    assert threading.active_count() == before


# --- clocks, names, formats -------------------------------------------------------------------------------


class Wall:
    now = 100.0

    def __call__(self):
        return self.now


def test_a_live_clock_goes_on_where_it_can_and_by_the_wall_where_it_cannot():
    wall = Wall()
    clock = LiveClock(0.1, wall)
    assert clock.time_of(5000.0) == (0.0, False)
    wall.now += 0.1
    assert clock.time_of(5000.1) == (pytest.approx(0.1), False)
    assert clock.time_of(5000.05) == (None, False)  # out of order
    wall.now += 3.0
    assert clock.time_of(5003.0) == (pytest.approx(3.0), False)  # a gap
    wall.now += 2.0
    assert clock.time_of(7.0) == (pytest.approx(5.0), True)  # times have started anew
    wall.now += 0.1
    assert clock.time_of(7.1) == (pytest.approx(5.1), False)
    wall.now += 1.0
    assert clock.time_of(9999.0) == (pytest.approx(6.1), True)  # further ahead than the wall allows
    wall.now += 1.0
    assert clock.time_of(None) == (pytest.approx(7.1), False)


def test_what_is_live_and_how_it_is_called(tmp_path):
    assert is_live("rtsp://host/cam") and is_live("/dev/video0") and is_live("/dev/null")
    assert not is_live(str(tmp_path)) and not is_live(str(tmp_path / "a.mp4"))
    assert shown_name("rtsp://me:secret@host:554/cam?x=1") == "rtsp://host:554/cam?x=1"
    assert safe_name("rtsp://me:secret@host:554/cam") == "host_554_cam"
    with pytest.raises(InputError, match="a process of its own"):
        find_inputs(["rtsp://host/cam", "a.mp4"])


def test_a_folder_stands_for_the_videos_below_it(tmp_path):
    for name in ("b.mp4", "day/a.AVI", "day/note.txt", ".hidden/c.mp4", "day/.d.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_inputs([str(tmp_path), "x/y.mp4"])
    assert [given.address for given in found] == [
        str(tmp_path / "b.mp4"),
        str(tmp_path / "day/a.AVI"),
        "x/y.mp4",
    ]
    assert [given.name for given in found] == ["b", "day_a", "y"]


def test_times_are_written_as_people_and_players_read_them():
    assert srt_time(3723.4996) == "01:02:03,500" and srt_time(0) == "00:00:00,000"
    assert clock_time(3723.54) == "1:02:03.5" and clock_time(59.96) == "01:00.0"
