"""The official sampling rules against tables that were computed by hand from their formulas."""

import random

import pytest

from revit_video import sample
from revit_video.sample import (
    FramePicker,
    clip_size,
    random_crop_box,
    random_spread_start,
    rounded_segments,
    spread_indices,
    spread_start,
)
from revit_video.types import InputError


@pytest.mark.parametrize(
    ("clip_len", "stride", "fps", "size"),
    [(8, 32, 30, 256), (8, 32, 60, 512), (4, 8, 24, 25.6), (16, 4, 15, 32), (8, 8, 29.97, 63.936)],
)
def test_a_clip_lasts_as_long_at_every_frame_rate(clip_len, stride, fps, size):
    assert clip_size(clip_len, stride, fps, 30) == pytest.approx(size)


@pytest.mark.parametrize(
    ("num_frames", "clip_len", "size", "start", "indices"),
    [
        (300, 8, 256, 0, [0, 36, 72, 109, 145, 182, 218, 255]),  # 255 / 7 = 36.43 apart
        (300, 8, 256, 22, [22, 58, 94, 131, 167, 204, 240, 277]),
        (300, 8, 256, 4.4, [4, 40, 77, 113, 150, 186, 222, 259]),
        (300, 8, 256, 39.6, [39, 76, 112, 148, 185, 221, 258, 294]),
        (200, 8, 256, 0, [0, 36, 72, 109, 145, 182, 199, 199]),  # too short: the last frame repeats
        (100, 4, 25.6, 0, [0, 8, 16, 24]),  # 24.6 / 3 = 8.2 apart
        (10, 4, 8, 0, [0, 2, 4, 7]),
        (1, 3, 6, 0, [0, 0, 0]),
        (50, 1, 4, 7.9, [7]),
    ],
)
def test_frames_lie_evenly_over_the_clip_and_are_rounded_down(num_frames, clip_len, size, start, indices):
    assert spread_indices(num_frames, clip_len, size, start) == indices


@pytest.mark.parametrize(
    ("num_frames", "size", "num_clips", "starts"),
    [
        (300, 256, 1, [0]),  # the start of the video, not its middle
        (300, 256, 2, [0, 22]),  # 44 frames are free, and the last clip ends 22 before the end
        (300, 256, 10, [0, 4.4, 8.8, 13.2, 17.6, 22, 26.4, 30.8, 35.2, 39.6]),
        (200, 256, 3, [0, 0, 0]),
    ],
)
def test_official_test_clips_start_at_shares_of_what_is_free(num_frames, size, num_clips, starts):
    found = [spread_start(num_frames, size, clip=clip, num_clips=num_clips) for clip in range(num_clips)]
    assert found == pytest.approx(starts)


@pytest.mark.parametrize(
    ("num_frames", "size", "num_clips", "starts"),
    [
        (300, 256, 1, [22]),
        (301, 256, 1, [22]),  # 22.5 rounded down
        (300, 256, 2, [0, 44]),
        (300, 256, 4, [0, 14, 28, 42]),  # steps of 14.67 rounded down
        (200, 256, 2, [0, 0]),
    ],
)
def test_the_offset_rule_spans_the_video_in_whole_steps(num_frames, size, num_clips, starts):
    clips = range(num_clips)
    found = [spread_start(num_frames, size, clip=i, num_clips=num_clips, offset=True) for i in clips]
    assert found == starts


@pytest.mark.parametrize(
    ("num_frames", "clip_len", "indices"),
    [
        (12, 3, [2, 5, 9]),  # bounds 0, 3.67, 7.33, 11
        (6, 2, [1, 3]),  # bounds 0, 2.5, 5: 2.5 rounds to 2
        (8, 2, [2, 5]),  # bounds 0, 3.5, 7: 3.5 rounds to 4
        (4, 8, [0, 0, 1, 1, 2, 2, 2, 3]),  # bounds every 0.375
        (1, 3, [0, 0, 0]),
        (33, 8, [2, 6, 10, 14, 18, 22, 26, 30]),  # bounds every 4
    ],
)
def test_official_segments_give_the_middle_between_rounded_bounds(num_frames, clip_len, indices):
    assert rounded_segments(num_frames, clip_len) == indices


def test_official_training_segments_draw_both_their_bounds():
    rng = random.Random(0)
    drawn = [rounded_segments(12, 3, rng) for _ in range(500)]
    assert [set(column) for column in zip(*drawn, strict=True)] == [
        set(range(5)),
        set(range(4, 8)),
        set(range(7, 12)),
    ]
    assert any(first == second == 4 for first, second, _ in drawn)  # the bound they share


def test_training_starts_are_fractions_between_the_first_place_and_the_last():
    rng = random.Random(0)
    starts = [random_spread_start(300, 256, rng) for _ in range(2000)]
    assert 0 <= min(starts) < 0.1 and 43.9 < max(starts) <= 44
    assert any(start % 1 for start in starts)
    assert random_spread_start(200, 256, rng) == 0


def test_a_picker_follows_its_rule():
    def clips(rule, num_clips, **more):
        return FramePicker(8, 32, rule=rule, **more).test_clips(300, 30, num_clips)

    assert clips("centred", 1) == [[37, 69, 101, 133, 165, 197, 229, 261]]
    assert clips("slowfast", 1) == [[0, 36, 72, 109, 145, 182, 218, 255]]
    assert clips("slowfast", 2)[1] == clips("slowfast_offset", 1)[0] == [22, 58, 94, 131, 167, 204, 240, 277]
    assert clips("slowfast_offset", 2)[1][-1] == 299
    twice = FramePicker(3, rule="slowfast", sampling="segments").test_clips(12, 30, 2)
    assert twice == [[2, 5, 9], [2, 5, 9]]  # the official code looks at no clip number here


def test_the_official_clip_follows_the_frame_rate_and_ours_counts_frames():
    official, ours = (FramePicker(4, 8, rule=rule) for rule in ("slowfast", "centred"))
    assert official.test_clips(100, 24, 1) == [[0, 8, 16, 24]]
    assert official.test_clips(100, 30, 1) == [[0, 10, 20, 31]]  # 31 / 3 = 10.33 apart
    assert ours.test_clips(100, 24, 1) == ours.test_clips(100, 30, 1) == [[37, 45, 53, 61]]
    faster = FramePicker(4, 8, rule="slowfast", target_fps=24)
    assert faster.test_clips(100, 24, 1) == [[0, 10, 20, 31]]
    assert faster.test_clips(100, 0, 1) == [[0, 10, 20, 31]]  # a folder of frames does not know its rate


def test_training_clips_follow_the_rule_and_the_seed():
    for sampling in sample.SAMPLINGS:
        drawn = {}
        for rule in sample.RULES:
            picker = FramePicker(4, 8, sampling=sampling, rule=rule)
            drawn[rule] = [picker.train_clip(99, 30, random.Random(seed)) for seed in range(40)]
            assert drawn[rule] == [picker.train_clip(99, 30, random.Random(seed)) for seed in range(40)]
            assert all(clip == sorted(clip) and set(clip) <= set(range(99)) for clip in drawn[rule])
            assert len({tuple(clip) for clip in drawn[rule]}) > 20
        assert drawn["slowfast"] == drawn["slowfast_offset"] != drawn["centred"]


@pytest.mark.parametrize(("rule", "last"), [("centred", 3), ("slowfast", 2)])
def test_the_official_random_crop_never_reaches_the_last_place(rule, last):
    rng = random.Random(0)
    boxes = {random_crop_box(5, 7, 4, rng, rule=rule) for _ in range(300)}
    assert {left for _, left in boxes} == set(range(last + 1))
    assert {top for top, _ in boxes} == set(range(last - 1))
    assert random_crop_box(4, 4, 4, rng, rule=rule) == (0, 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: clip_size(8, 32, 0, 30), "the frame rate is 0"),
        (lambda: clip_size(8, 32, 30, -1), "the target frame rate is -1"),
        (lambda: clip_size(8, 0, 30, 30), "stride is 0"),
        (lambda: spread_indices(0, 8, 256, 0), "from a video with 0 frames"),
        (lambda: spread_start(300, 256, clip=2, num_clips=2), "clip is 2, but must be from 0 to 1"),
        (lambda: rounded_segments(9, 0), "clip length is 0"),
        (lambda: random_crop_box(3, 9, 4, random.Random(0)), "cannot crop 4x4 from a frame 3 pixels high"),
    ],
)
def test_impossible_requests_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
