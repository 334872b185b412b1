"""Which frames and crops are taken: hand-computed tables, then facts that hold for every size."""

import random
from itertools import product

import pytest

from revit_video import sample
from revit_video.sample import (
    FramePicker,
    crop_box,
    random_start,
    segment_indices,
    strided_indices,
    uniform_starts,
)
from revit_video.types import InputError

SIZES = list(product([1, 2, 3, 7, 8, 9, 16, 31, 100, 301], [1, 2, 3, 8, 16]))  # num_frames, clip_len


@pytest.mark.parametrize(
    ("num_frames", "clip_len", "stride", "start", "indices"),
    [
        (10, 4, 2, 0, [0, 2, 4, 6]),
        (10, 4, 2, 3, [3, 5, 7, 9]),
        (10, 4, 2, 6, [6, 8, 9, 9]),
        (1, 3, 5, 0, [0, 0, 0]),
        (5, 1, 9, 4, [4]),
        (5, 2, 1, 20, [4, 4]),
    ],
)
def test_a_clip_takes_every_stride_th_frame_and_repeats_the_last(
    num_frames, clip_len, stride, start, indices
):
    assert strided_indices(num_frames, clip_len, stride, start) == indices


@pytest.mark.parametrize(
    ("num_frames", "clip_len", "stride", "num_clips", "starts"),
    [
        (10, 4, 2, 1, [1]),  # last start 3: centre 1.5, rounded down
        (10, 4, 2, 2, [0, 3]),
        (10, 4, 2, 3, [0, 1, 3]),
        (10, 4, 2, 5, [0, 0, 1, 2, 3]),
        (11, 4, 2, 1, [2]),
        (300, 8, 32, 1, [37]),  # span 225, last start 75
        (300, 8, 32, 4, [0, 25, 50, 75]),
        (7, 4, 2, 3, [0, 0, 0]),  # just long enough
        (3, 8, 32, 2, [0, 0]),  # too short
    ],
)
def test_uniform_starts_are_central_or_span_the_video(num_frames, clip_len, stride, num_clips, starts):
    assert uniform_starts(num_frames, clip_len, stride, num_clips) == starts


@pytest.mark.parametrize(
    ("num_frames", "clip_len", "indices"),
    [
        (12, 3, [2, 6, 10]),
        (10, 4, [1, 3, 6, 8]),  # segments 0-1, 2-4, 5-6, 7-9
        (8, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (16, 8, [1, 3, 5, 7, 9, 11, 13, 15]),
        (9, 1, [4]),
        (2, 4, [0, 0, 1, 1]),
        (1, 3, [0, 0, 0]),
    ],
)
def test_segments_give_their_middle_frame(num_frames, clip_len, indices):
    assert segment_indices(num_frames, clip_len) == indices


def test_several_segment_clips_interleave():
    assert segment_indices(12, 3, clip=0, num_clips=2) == [1, 5, 9]
    assert segment_indices(12, 3, clip=1, num_clips=2) == [3, 7, 11]


@pytest.mark.parametrize(
    ("height", "width", "size", "boxes"),
    [
        (224, 298, 224, [(0, 0), (0, 37), (0, 74)]),
        (298, 224, 224, [(0, 0), (37, 0), (74, 0)]),
        (256, 341, 224, [(16, 0), (16, 59), (16, 117)]),  # 58.5 is rounded up
        (224, 224, 224, [(0, 0), (0, 0), (0, 0)]),
        (10, 10, 4, [(3, 0), (3, 3), (3, 6)]),  # a square counts as wide
    ],
)
def test_crops_lie_along_the_longer_side(height, width, size, boxes):
    assert [crop_box(height, width, size, position) for position in range(3)] == boxes


@pytest.mark.parametrize(("num_frames", "clip_len"), SIZES)
@pytest.mark.parametrize("stride", [1, 2, 5, 32])
def test_dense_clips_stay_inside_and_only_short_videos_repeat_frames(num_frames, clip_len, stride):
    rng = random.Random(0)
    long_enough = num_frames > (clip_len - 1) * stride
    starts = [random_start(num_frames, clip_len, stride, rng) for _ in range(20)]
    for num_clips in (1, 2, 10):
        uniform = uniform_starts(num_frames, clip_len, stride, num_clips)
        assert len(uniform) == num_clips and uniform == sorted(uniform)
        starts += uniform
    for start in starts:
        indices = strided_indices(num_frames, clip_len, stride, start)
        assert len(indices) == clip_len and indices == sorted(indices)
        assert indices[0] >= 0 and indices[-1] < num_frames
        if long_enough:
            assert indices == list(range(start, start + clip_len * stride, stride))
    first, last = uniform_starts(num_frames, clip_len, stride, 2)
    assert first == 0
    assert strided_indices(num_frames, clip_len, stride, last)[-1] == num_frames - 1


@pytest.mark.parametrize(("num_frames", "clip_len"), SIZES)
def test_segment_clips_rise_and_stay_inside_their_segments(num_frames, clip_len):
    rng = random.Random(0)
    clips = [segment_indices(num_frames, clip_len, rng) for _ in range(20)]
    clips += [segment_indices(num_frames, clip_len, clip=clip, num_clips=3) for clip in range(3)]
    for indices in clips:
        assert len(indices) == clip_len and indices == sorted(indices)
        for i, index in enumerate(indices):
            assert (
                i * num_frames // clip_len
                <= index
                <= max((i + 1) * num_frames // clip_len - 1, i * num_frames // clip_len)
            )
        if num_frames >= clip_len:
            assert len(set(indices)) == clip_len


def test_random_starts_reach_the_first_and_the_last_place_and_follow_the_seed():
    def draw(seed):
        rng = random.Random(seed)
        return [random_start(10, 4, 2, rng) for _ in range(200)]

    assert set(draw(0)) == {0, 1, 2, 3}
    assert draw(0) == draw(0) != draw(1)


def test_random_segments_reach_every_frame_and_follow_the_seed():
    def draw(seed):
        rng = random.Random(seed)
        return [segment_indices(10, 4, rng) for _ in range(200)]

    assert {index for indices in draw(0) for index in indices} == set(range(10))
    assert draw(0) == draw(0) != draw(1)


def test_views_run_clip_by_clip_and_crop_by_crop():
    views = sample.test_views(10, 30, FramePicker(4, 2), 2, 3)
    assert [(view.clip, view.crop) for view in views] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert [view.frames for view in views] == [(0, 2, 4, 6)] * 3 + [(3, 5, 7, 9)] * 3


def test_one_crop_is_the_centre_one_unless_the_first_is_asked_for():
    (view,) = sample.test_views(10, 30, FramePicker(4, 2), 1, 1)
    assert (view.frames, view.clip, view.crop) == ((1, 3, 5, 7), 0, 1)
    (view,) = sample.test_views(10, 30, FramePicker(4, 2), 1, 1, one_crop="first")
    assert (view.frames, view.clip, view.crop) == ((1, 3, 5, 7), 0, 0)
    views = sample.test_views(10, 30, FramePicker(4, 2), 1, 3, one_crop="first")
    assert [view.crop for view in views] == [0, 1, 2]


def test_segment_views_span_the_video_and_differ():
    views = sample.test_views(12, 30, FramePicker(3, 99, sampling="segments"), 2, 1)
    assert [view.frames for view in views] == [(1, 5, 9), (3, 7, 11)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: strided_indices(0, 4, 2, 0), "from a video with 0 frames"),
        (lambda: strided_indices(9, 0, 2, 0), "clip length is 0"),
        (lambda: strided_indices(9, 4, 0, 0), "stride is 0"),
        (lambda: strided_indices(9, 4, 2, -1), "cannot start at frame -1"),
        (lambda: random_start(0, 4, 2, random.Random(0)), "0 frames"),
        (lambda: uniform_starts(9, 4, 2, 0), "number of clips is 0"),
        (lambda: segment_indices(0, 4), "0 frames"),
        (lambda: segment_indices(9, 4, clip=2, num_clips=2), "clip is 2, but must be from 0 to 1"),
        (lambda: crop_box(100, 200, 101, 0), "cannot crop 101x101 from a frame 100 pixels high and 200 wide"),
        (lambda: crop_box(100, 200, 50, 3), "crop position is 3"),
        (
            lambda: sample.test_views(9, 30, FramePicker(4, 2), 1, 2),
            "number of spatial crops is 2, but must be 1 or 3",
        ),
        (
            lambda: sample.test_views(9, 30, FramePicker(4, 2), 1, 1, one_crop="left"),
            "one_crop is 'left', but must be one of centre, first",
        ),
        (lambda: sample.test_views(9, 30, FramePicker(4, 2), 0, 1), "number of clips is 0"),
        (lambda: FramePicker(4, sampling="segment"), "no sampling is named 'segment'; nearest: segments"),
        (lambda: FramePicker(4, rule="slow"), "no rule is named 'slow'; nearest: slowfast"),
    ],
)
def test_impossible_requests_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
