"""The frames are those asked for, of the right size, and counts are exact."""

import random
import sys

import av
import numpy as np
import pytest
from make_video import frame_numbers, make_video, numbered_frames

from revit_video.decode import DECODERS, DecodeError, open_video, pyav_reader
from revit_video.decode.pyav_source import Source
from revit_video.types import InputError

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


def test_frames_that_an_edit_list_hides_do_not_count(tmp_path):
    path = make_video(tmp_path / "a.mp4", 30, pts=[i - 5 for i in range(30)])  # 5 of them before time 0
    with av.open(path) as container:
        assert container.streams.video[0].frames == 30
    with open_video(path) as video:
        assert video.num_frames == 25
        assert frame_numbers(video.frames([0, 24])) == [5, 29]


def test_a_packet_without_a_picture_does_not_count_in_an_avi(tmp_path):
    source, path = make_video(tmp_path / "source.avi", 20, codec="mpeg4", bframes=2), tmp_path / "a.avi"
    with av.open(source) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        packets = [packet for packet in old.demux(video=0) if packet.size]
        packets.append(av.Packet(b"\x00\x00\x01\xb6\x57\x50"))  # "as before", as DivX and Xvid write it
        for i, packet in enumerate(packets):
            packet.stream, packet.dts, packet.time_base = stream, i, stream.time_base
            new.mux(packet)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 21
    with open_video(path) as video:
        assert video.num_frames == 20
        assert frame_numbers(video.frames([19, 0])) == [19, 0]


@pytest.mark.parametrize(("name", "decoded"), [("a.mp4", 13), ("a.avi", 21)])
def test_only_wanted_frames_are_converted_and_none_behind_them_decoded(tmp_path, monkeypatch, name, decoded):
    """Key frames are 0, 12, 24, 36: the mp4 needs the first, then 1 to 3 and 12 to 20."""
    counts = {"decode": 0, "_convert": 0}

    def count(owner, name):
        method = getattr(owner, name)

        def counted(*args):
            result = method(*args)
            counts[name] += len(result) if name == "decode" else 1
            return result

        monkeypatch.setattr(owner, name, counted)

    count(Source, "decode")
    count(pyav_reader.PyAVReader, "_convert")
    with open_video(make_video(tmp_path / name, 40, codec={"a.avi": "mpeg4"}.get(name, "libx264"))) as video:
        video.frames([20, 3, 20])
    assert counts == {"decode": decoded, "_convert": 2}


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


MIRRORED = {
    (0, 1, 0): (1, -1),
    (0, 0, 1): (-1, 1),
    (0, 1, 1): (-1, -1),
}  # degrees, flips -> steps of rows, columns


@pytest.mark.parametrize("stored", MIRRORED)
def test_stored_mirroring_is_applied(tmp_path, stored):
    """FFmpeg's angle of a picture that is mirrored left to right is 180: turning it would be wrong."""
    path = make_video(tmp_path / "a.mp4", 20)
    with av.open(path) as old, av.open(str(tmp_path / "b.mp4"), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        degrees, hflip, vflip = stored
        stream.set_display_rotation(degrees, hflip=bool(hflip), vflip=bool(vflip))
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    with open_video(path) as plain, open_video(tmp_path / "b.mp4") as video:
        rows, columns = MIRRORED[stored]
        assert np.array_equal(video.frames([0, 18]), plain.frames([0, 18])[:, ::rows, ::columns])


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
        for wanted, message in ((-1, "frame -1 was asked for"), (10, "frame 10 .* has 10 frames")):
            with pytest.raises(InputError, match=message) as error:
                video.frames([2, wanted])
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
    decode = Source.decode
    times = [512 * i for i in range(last + 1)]  # in a walk

    def cut(source, packet):
        return [frame for frame in decode(source, packet) if frame.pts <= last or frame.pts in times]

    monkeypatch.setattr(Source, "decode", cut)


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


def test_the_main_stream_is_read_not_the_first(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        streams = []
        for width, height in ((16, 16), (64, 48)):
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            streams.append(stream)
        streams[1].disposition = av.stream.Disposition.default
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


@pytest.mark.parametrize("name", ["decord", "torchcodec"])
def test_a_missing_decoder_says_how_to_get_it(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=f"pip install {name}"):
        open_video(make_video(tmp_path / "a.mp4", 3), name, guarded=False)


@pytest.mark.parametrize("name", ["decord", "torchcodec"])
def test_other_decoders_give_the_same_frames(tmp_path, name):
    try:
        pytest.importorskip(name)
    except RuntimeError as error:  # torchcodec without FFmpeg
        pytest.skip(str(error)[:80])
    path = make_video(tmp_path / "a.mp4", 20, size=(256, 192), rotation=90)
    with open_video(path, name) as theirs, open_video(path) as ours:
        for name in ("num_frames", "fps", "height", "width"):
            assert getattr(theirs, name) == getattr(ours, name)
        for short_side in (None, 96):
            wanted = [19, 0, 3, 3]
            a, b = (video.frames(wanted, short_side=short_side).astype(int) for video in (ours, theirs))
            assert a.shape == b.shape and np.abs(a - b).mean() < 3
        with pytest.raises(InputError, match="frame 20 was asked for"):
            theirs.frames([20])
