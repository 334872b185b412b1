"""Frames are the right ones, counts are exact, and what is wrong with a file is a DecodeError of one line."""

import gc
import json
import os
import pickle
import random
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from make_video import frame_numbers, make_video, numbered_frames

from revit_video.decode import DECODERS, DecodeError, open_video, pyav_reader
from revit_video.decode.container import missing_bytes
from revit_video.types import InputError

CLIPS = Path(__file__).parents[2] / "shared" / "clips"
KINDS = {
    "h264.mp4": {},
    "b_frames.mp4": {"bframes": 3, "crf": 20},
    "b_frames.avi": {"codec": "mpeg4", "bframes": 2},
    "h264.mkv": {"bframes": 2},
    "vp9.webm": {"codec": "libvpx-vp9", "crf": 30},
    "vp8.webm": {"codec": "libvpx"},
    "stream.ts": {"bframes": 2},
    "fragments.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "irregular.mp4": {"pts": [i * i for i in range(40)]},
    "gaps.avi": {"codec": "mpeg4", "pts": [3 * i for i in range(40)]},  # its header says 118 frames
    "one_key_frame.mp4": {"gop": 1000},
}


def cut(path: str, share: float) -> str:
    """Keeps the first part of a file."""
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: int(len(content) * share)])
    return path


def open_files() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("name", KINDS)
def test_frames_come_exactly_as_asked_for_in_any_order(tmp_path, name):
    path = make_video(tmp_path / name, 40, **KINDS[name])
    rng = random.Random(name)
    with open_video(path) as video:
        assert video.num_frames == 40
        assert frame_numbers(video.frames(range(40))) == list(range(40))
        for _ in range(8):
            wanted = [rng.randrange(40) for _ in range(rng.choice([1, 4, 12]))]
            assert frame_numbers(video.frames(wanted)) == wanted


def test_asking_again_goes_on_or_starts_anew(tmp_path):
    with open_video(make_video(tmp_path / "a.mp4", 20)) as video:
        for wanted in ([0], [0, 3], [3], [2], [19], [19, 0], [7, 7, 5]):
            assert frame_numbers(video.frames(np.array(wanted))) == wanted


def test_lossless_pixels_survive(tmp_path):
    path = make_video(tmp_path / "a.mp4", 5)
    with open_video(path) as video:
        frames = video.frames([4])
    assert frames.dtype == np.uint8 and frames.shape == (1, 48, 64, 3)
    assert np.abs(frames[0].astype(int) - numbered_frames(5)[4]).max() <= 2


@pytest.mark.parametrize(
    ("size", "short_side", "height", "width"),
    [((64, 48), 24, 24, 32), ((48, 64), 24, 32, 24), ((100, 48), 32, 32, 66), ((64, 48), 96, 96, 128)],
)
def test_the_short_side_is_scaled_and_the_long_one_rounded_down(tmp_path, size, short_side, height, width):
    with open_video(make_video(tmp_path / "a.mp4", 9, size=size)) as video:
        assert (video.height, video.width) == size[::-1]
        assert video.scaled_size(short_side) == (height, width)
        frames = video.frames([8, 3], short_side=short_side)
        assert frames.shape == (2, height, width, 3)
        assert frame_numbers(frames) == [8, 3]


def test_a_shrunk_frame_is_averaged_not_picked(tmp_path):
    stripes = np.zeros((2, 64, 64, 3), np.uint8)
    stripes[:, ::2] = 255  # every other row white
    with open_video(make_video(tmp_path / "a.mp4", stripes)) as video:
        shrunk = video.frames([1], short_side=16)
    assert abs(shrunk[:, 2:-2].mean() - 127) < 5 and shrunk[:, 2:-2].std() < 5


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_a_stored_rotation_is_applied(tmp_path, rotation):
    with open_video(make_video(tmp_path / "a.mp4", 20, rotation=rotation)) as video:
        frames, small = video.frames([0, 18]), video.frames([0, 18], short_side=24)
        shape = (48, 64) if rotation == 180 else (64, 48)
        assert (video.height, video.width) == frames.shape[1:3] == shape
        assert small.shape[1:3] == (shape[0] // 2, shape[1] // 2)
    for read in (frames, small):
        upright = np.rot90(read, -rotation // 90, axes=(1, 2))
        assert frame_numbers(upright) == [0, 18]


@pytest.mark.parametrize(("fps", "found"), [(25, 25.0), (30, 30.0), (29.97, 30000 / 1001), (10, 10.0)])
def test_the_rate_is_read(tmp_path, fps, found):
    with open_video(make_video(tmp_path / "a.mp4", 30, fps=fps)) as video:
        assert video.fps == pytest.approx(found, rel=1e-3)


def test_no_indices_give_no_frames(tmp_path):
    with open_video(make_video(tmp_path / "a.mp4", 3)) as video:
        assert video.frames([]).shape == (0, 48, 64, 3)
        assert video.frames([], short_side=24).shape == (0, 24, 32, 3)


@pytest.mark.parametrize("counted_before", [True, False])
@pytest.mark.parametrize("name", ["a.mp4", "a.avi"])
def test_numbers_outside_the_video_are_refused(tmp_path, name, counted_before):
    path = make_video(tmp_path / name, 10, codec="mpeg4")
    with open_video(path) as video:
        if counted_before:
            assert video.num_frames == 10
        for wanted, message in (
            ([2, -1], r"frame -1 was asked for"),
            ([2, 10], r"frame 10 .* has 10 frames"),
        ):
            with pytest.raises(InputError, match=message) as error:
                video.frames(wanted)
            assert not isinstance(error.value, DecodeError)
        assert frame_numbers(video.frames([9, 2])) == [9, 2]


def test_a_short_side_of_nothing_is_refused(tmp_path):
    with (
        open_video(make_video(tmp_path / "a.mp4", 3)) as video,
        pytest.raises(InputError, match="short_side is 0"),
    ):
        video.frames([0], short_side=0)


def test_a_closed_reader_says_so(tmp_path):
    with open_video(make_video(tmp_path / "a.mp4", 3)) as video:
        pass
    video.close()
    with pytest.raises(InputError, match="the reader is closed"):
        video.frames([0])


def end_after(last: int, monkeypatch) -> None:
    """Lets the decoder, not the file, end after frame `last`: the packets of the others are still counted."""
    step = pyav_reader._Walk.step
    monkeypatch.setattr(pyav_reader._Walk, "step", lambda walk: walk.number < last and step(walk))


def test_a_few_promised_frames_that_never_come_are_the_last_one_again(tmp_path, monkeypatch):
    path = make_video(tmp_path / "a.mp4", 20)
    end_after(17, monkeypatch)
    with open_video(path) as video:
        assert video.num_frames == 20
        assert frame_numbers(video.frames([19, 17, 18, 4])) == [17, 17, 17, 4]
        assert video.num_frames == 18
        assert frame_numbers(video.frames([19])) == [17]
        with pytest.raises(InputError, match="frame 20 was asked for; the video has 18 frames"):
            video.frames([20])


def test_many_promised_frames_that_never_come_are_an_error(tmp_path, monkeypatch):
    path = make_video(tmp_path / "a.mp4", 20)
    end_after(15, monkeypatch)
    with (
        open_video(path) as video,
        pytest.raises(DecodeError, match=r"a\.mp4: gives 16 frames of the 20 .*\(reader pyav, frame 16\)"),
    ):
        video.frames([19])


NOISE = np.random.default_rng(0).integers(0, 255, (40, 48, 64, 3), dtype=np.uint8)
CUT_FILES = {
    "front.mp4": {"container_options": {"movflags": "faststart"}},
    "fragments.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "mpeg4.avi": {"codec": "mpeg4"},
    "h264.mkv": {},
    "vp9.webm": {"codec": "libvpx-vp9"},
}


@pytest.mark.parametrize("share", [0.5, 0.95])
@pytest.mark.parametrize("name", CUT_FILES)
def test_a_cut_file_names_itself_its_reader_and_the_first_lost_frame(tmp_path, name, share):
    path = cut(make_video(tmp_path / name, NOISE, **CUT_FILES[name]), share)
    with pytest.raises(
        DecodeError, match=rf"{name}: is cut off: \d+ bytes are missing.*pyav, frame \d+"
    ) as error:
        open_video(path)
    assert error.value.path == path and error.value.reader == "pyav"
    assert 0 < error.value.frame < 40
    assert "\n" not in str(error.value)


def test_a_cut_mp4_with_its_index_at_the_end_says_that_bytes_are_missing(tmp_path):
    path = cut(make_video(tmp_path / "a.mp4", NOISE), 0.5)
    with pytest.raises(DecodeError, match=r"a\.mp4: cannot be opened: .*; \d+ bytes are missing at its end"):
        open_video(path)


def test_a_file_that_lost_its_index_only_is_read(tmp_path):
    path = make_video(tmp_path / "a.avi", 30, codec="mpeg4")
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: content.rindex(b"idx1")])
    assert missing_bytes(path) > 0
    with open_video(path) as video:
        assert video.num_frames == 30
        assert frame_numbers(video.frames([29, 3])) == [29, 3]


@pytest.mark.parametrize("name", KINDS)
def test_whole_files_miss_no_bytes_also_with_something_behind_them(tmp_path, name):
    path = make_video(tmp_path / name, 40, **KINDS[name])
    assert missing_bytes(path) == 0
    with open(path, "ab") as file:
        file.write(b"\0" * 100)
    assert missing_bytes(path) == 0


def test_a_file_damaged_in_the_middle_gives_the_frames_before(tmp_path):
    path = make_video(tmp_path / "a.mp4", NOISE, container_options={"movflags": "faststart"})
    with av.open(path) as container:
        offsets = [packet.pos for packet in container.demux(video=0) if packet.size]
    content = bytearray(Path(path).read_bytes())
    content[offsets[20] : offsets[22]] = b"\xff" * (offsets[22] - offsets[20])
    Path(path).write_bytes(content)
    with open_video(path) as video:
        assert video.num_frames == 40
        assert video.frames([0, 10]).shape == (2, 48, 64, 3)
        with pytest.raises(DecodeError, match=r"a\.mp4: cannot be decoded: .*pyav, frame (\d+)") as error:
            video.frames([0, 39])
        assert 10 < error.value.frame <= 20
        assert video.frames([error.value.frame - 1, 0]).shape == (2, 48, 64, 3)


def write_audio(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


BAD_FILES = {
    "missing.mp4": (lambda path: None, "no such file"),
    "folder.mp4": (lambda path: path.mkdir(), "is no file"),
    "pipe.mp4": (lambda path: os.mkfifo(path), "is no file"),
    "empty.mp4": (lambda path: path.write_bytes(b""), "cannot be opened: "),
    "text.mp4": (lambda path: path.write_text("this is no video\n" * 50), "cannot be opened: "),
    "zeros.mp4": (lambda path: path.write_bytes(b"\0" * 5000), "cannot be opened: "),
    "audio.mp4": (write_audio, "holds no video stream"),
    "no_frames.mp4": (
        lambda path: make_video(path, np.empty((0, 48, 64, 3), np.uint8)),
        "(holds no|cannot be)",
    ),
    "no_frames.avi": (
        lambda path: make_video(path, np.empty((0, 48, 64, 3), np.uint8), codec="mpeg4"),
        "(holds no|cannot be)",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_a_decode_error_of_one_line(tmp_path, name):
    make, reason = BAD_FILES[name]
    make(tmp_path / name)
    before = open_files()
    with pytest.raises(DecodeError, match=rf"{name}: {reason}.*\(reader pyav") as error:
        open_video(tmp_path / name)
    assert "\n" not in str(error.value)
    del error
    assert open_files() == before


def test_a_web_address_is_not_followed():
    with pytest.raises(DecodeError, match="no such file"):
        open_video("http://localhost:9/a.mp4")


def test_names_that_look_like_addresses_or_patterns_are_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("concat:a.mp4", "a%03d b'\"é.mp4"):
        make_video(tmp_path / name, 3)
        with open_video(name) as video:
            assert frame_numbers(video.frames([2])) == [2]


def test_metadata_that_is_no_unicode_does_no_harm(tmp_path):
    path = make_video(tmp_path / "a.avi", 3, codec="mpeg4")
    content = Path(path).read_bytes()
    Path(path).write_bytes(content.replace(b"Lavf", b"\xff\xfe\xfd\xfc"))
    assert content != Path(path).read_bytes()
    with open_video(path) as video:
        assert video.num_frames == 3


def test_the_main_stream_is_read_not_the_first(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        streams = []
        for width, height in ((16, 16), (64, 48)):
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            streams.append(stream)
        for i in range(10):
            for stream in streams:
                picture = numbered_frames(10, (stream.width, stream.height))[i]
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts = i
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode(None))
    with open_video(path) as video:
        assert (video.height, video.width, video.num_frames) == (48, 64, 10)
        assert frame_numbers(video.frames([9, 1])) == [9, 1]


def test_nothing_stays_open(tmp_path):
    path = make_video(tmp_path / "a.mp4", 20)
    avi = make_video(tmp_path / "a.avi", 20, codec="mpeg4")
    before = open_files()
    for _ in range(20):
        for name in (path, avi):
            with open_video(name) as video:
                video.frames([video.num_frames - 1, 0, 3])
                with pytest.raises(InputError):
                    video.frames([20])
    assert open_files() == before


def test_threads_change_nothing(tmp_path):
    path = make_video(tmp_path / "a.mp4", 40, bframes=2)
    with open_video(path, threads=4) as four, open_video(path) as one:
        assert np.array_equal(four.frames(range(40)), one.frames(range(40)))


def test_the_default_decoder_is_pyav(tmp_path):
    path = make_video(tmp_path / "a.mp4", 3)
    for name in ("auto", "pyav"):
        with open_video(path, name) as video:
            assert video.decoder == "pyav" and DECODERS["pyav"] is type(video)


@pytest.mark.parametrize(("name", "nearest"), [("decort", "decord"), ("xyz", "auto, pyav, decord")])
def test_an_unknown_decoder_is_named_with_the_nearest(name, nearest):
    with pytest.raises(InputError, match=f"no decoder is named '{name}'; nearest: {nearest}"):
        open_video("a.mp4", name)


def test_a_missing_decord_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(InputError, match="pip install decord"):
        open_video(make_video(tmp_path / "a.mp4", 3), "decord")


def test_decord_gives_the_same_frames_and_the_same_errors(tmp_path):
    pytest.importorskip("decord")
    path = make_video(tmp_path / "a.mp4", 20, size=(256, 192), rotation=90)
    with open_video(path, "decord") as theirs, open_video(path) as ours:
        for name in ("num_frames", "fps", "height", "width"):
            assert getattr(theirs, name) == getattr(ours, name)
        for short_side in (None, 96):
            wanted = [19, 0, 3, 3]
            a, b = (video.frames(wanted, short_side=short_side).astype(int) for video in (ours, theirs))
            assert a.shape == b.shape and np.abs(a - b).mean() < 3
        with pytest.raises(InputError, match="frame 20 was asked for"):
            theirs.frames([20])
    for name in ("text.mp4", "missing.mp4"):
        BAD_FILES[name][0](tmp_path / name)
        with pytest.raises(DecodeError, match=r"\(reader decord\)") as error:
            open_video(tmp_path / name, "decord")
        assert "\n" not in str(error.value)


def test_a_decode_error_travels_between_processes():
    error = pickle.loads(pickle.dumps(DecodeError("a.mp4", "pyav", "cannot be decoded", 7)))
    assert str(error) == "a.mp4: cannot be decoded (reader pyav, frame 7)"
    assert (error.path, error.reader, error.frame) == ("a.mp4", "pyav", 7)


REFERENCE = json.loads((CLIPS / "reference.json").read_text()) if CLIPS.exists() else {"no clips here": {}}
REFUSED = {"bad_truncated_half.avi"}  # the reference decodes the half that is left


@pytest.mark.shared
@pytest.mark.skipif(not CLIPS.exists(), reason="the folder of real clips is not here")
@pytest.mark.parametrize("name", REFERENCE)
def test_real_clips_give_the_counts_and_colours_of_the_reference(name):
    known = REFERENCE[name]
    before = open_files()
    if known["n"] is None or known["decode_error"] or name in REFUSED:
        with pytest.raises(DecodeError, match=name) as error, open_video(CLIPS / name) as video:
            video.frames([video.num_frames - 1])
        assert "\n" not in str(error.value)
        del error
    else:
        with open_video(CLIPS / name) as video:
            assert video.num_frames == known["n"]
            frames = video.frames([known["n"] - 1, 0, known["mid_index"]])
            assert frames.shape == (3, video.height, video.width, 3)
            assert video.frames([0], short_side=56).shape[1:3] == video.scaled_size(56)
        last, first, middle = frames.mean(axis=(1, 2))
        colours = known["mean_rgb"]
        for mean, expected in ((first, colours["0"]), (middle, colours["mid"]), (last, colours["last"])):
            assert mean == pytest.approx(expected, abs=0.01)
    assert open_files() == before
