"""Seeking and leaving pictures out give the very frames of one walk through the file, or are not done."""

import random

import av
import numpy as np
import pytest
from make_video import frame_numbers, make_video
from test_decode import KINDS
from test_decode_errors import CLIPS, REFERENCE

from revit_video.decode import DecodeError, open_video, pyav_reader
from revit_video.decode.nal import Bits
from revit_video.decode.pyav_source import Source

NUM_FRAMES = 60
X264 = {"preset": "medium", "crf": "30"}
FILES = {
    "pyramid.mp4": {"bframes": 3, "codec_options": X264},
    "pyramid.mkv": {"bframes": 3, "codec_options": X264},
    "flat_b.mp4": {"bframes": 3, "codec_options": X264 | {"x264-params": "b-pyramid=none"}},
    "long_gop.mp4": {"gop": 250, "bframes": 3, "codec_options": X264},
    "open_gop.mp4": {"bframes": 3, "codec_options": X264 | {"x264-params": "open-gop=1"}},
    "refresh.mp4": {"codec_options": X264 | {"x264-params": "intra-refresh=1"}},
    "interlaced.mp4": {"bframes": 2, "codec_options": X264 | {"x264-params": "tff=1"}},
    "irregular.mp4": {"bframes": 3, "codec_options": X264, "pts": [i * i for i in range(NUM_FRAMES)]},
    "edit_list.mp4": {"bframes": 3, "codec_options": X264, "pts": [i - 20 for i in range(NUM_FRAMES)]},
    "fragments.mp4": {
        "bframes": 3,
        "codec_options": X264,
        "container_options": {"movflags": "frag_keyframe+empty_moov"},
    },
    "hevc.mp4": {"codec": "libx265", "codec_options": {"x265-params": "keyint=12:log-level=none"}},
    "hevc_open.mkv": {
        "codec": "libx265",
        "codec_options": {"x265-params": "keyint=12:open-gop=1:bframes=4:log-level=none"},
    },
    "vp9.webm": {
        "codec": "libvpx-vp9",
        "crf": 40,
        "codec_options": {"deadline": "realtime", "cpu-used": "8"},
    },
    "av1.mp4": {"codec": "libsvtav1", "codec_options": {"preset": "12", "svtav1-params": "keyint=12"}},
    "key_frames.mp4": {"gop": 1},
}


@pytest.fixture(scope="module")
def moving() -> np.ndarray:
    """Frames (T, H, W, 3) on which an encoder uses all it has: a drifting texture under noise."""
    rng = np.random.default_rng(0)
    texture = np.kron(rng.integers(0, 255, (24, 32, 3)), np.ones((8, 8, 1)))
    rolled = [np.roll(texture, (i, 2 * i), (0, 1))[:80, :128] for i in range(NUM_FRAMES)]
    return (np.stack(rolled) + rng.normal(0, 4, (NUM_FRAMES, 80, 128, 3))).clip(0, 255).astype(np.uint8)


def one_walk(path, monkeypatch, short_side=None) -> np.ndarray:
    """All frames, without seeking."""
    with monkeypatch.context() as patch:
        patch.setattr(pyav_reader, "may_have_table", lambda *_: False)
        with open_video(path) as video:
            return video.frames(range(video.num_frames), short_side)


def assert_all_ways_agree(path, walked: np.ndarray, rng: random.Random, short_side=None) -> bool:
    """Compares bit by bit; was it by seeking to the end?"""
    num_frames = len(walked)
    with open_video(path) as video:
        assert video.num_frames == num_frames
        for size in (1, 8, 2, 20, 1, 8):
            wanted = [rng.randrange(num_frames) for _ in range(size)]
            assert np.array_equal(video.frames(wanted, short_side), walked[wanted])
        parts = [video.frames(range(i, min(i + 7, num_frames)), short_side) for i in range(0, num_frames, 7)]
        assert np.array_equal(np.concatenate(parts), walked)
    for wanted in (range(num_frames), np.linspace(0, num_frames - 1, 8).astype(int), [num_frames - 1]):
        with open_video(path) as video:
            assert np.array_equal(video.frames(wanted, short_side), walked[list(wanted)])
            sought = video._seeker is not None
    return sought


@pytest.mark.parametrize("name", FILES)
def test_seeking_gives_the_frames_of_one_walk(tmp_path, monkeypatch, moving, name):
    try:
        path = make_video(tmp_path / name, moving, **FILES[name])
    except (av.FFmpegError, av.codec.codec.UnknownCodecError) as error:
        pytest.skip(f"no encoder here: {error}")
    walked = one_walk(path, monkeypatch)
    assert len(walked) == {"edit_list.mp4": NUM_FRAMES - 20}.get(name, NUM_FRAMES)
    assert assert_all_ways_agree(path, walked, random.Random(name))


@pytest.mark.parametrize("threads", [1, 3])
def test_little_is_decoded(tmp_path, monkeypatch, moving, threads):
    path = make_video(tmp_path / "a.mp4", moving, **FILES["pyramid.mp4"])
    packets = []
    decode = Source.decode
    monkeypatch.setattr(
        Source, "decode", lambda source, packet: packets.append(packet) or decode(source, packet)
    )
    with open_video(path, threads=threads) as video:
        spare = video._seeker.table.spare
        assert len(spare) > NUM_FRAMES // 3
        packets.clear()
        video.frames([30])
        sent = [packet.pts for packet in packets if packet is not None]
        assert sent[0] == 24 and len(sent) <= 7  # from its key frame
        packets.clear()
        video.frames([40, 50])
        sent = {packet.pts for packet in packets if packet is not None}
        wanted = {video._seeker.table.packets[number] for number in (40, 50)}
        assert wanted <= sent and not (sent - wanted) & spare


def test_reading_on_in_small_steps_does_not_start_anew(tmp_path, monkeypatch, moving):
    path = make_video(tmp_path / "a.mp4", moving, **FILES["long_gop.mp4"])
    sent = []
    decode = Source.decode
    monkeypatch.setattr(
        Source, "decode", lambda source, packet: sent.append(packet) or decode(source, packet)
    )
    with open_video(path) as video:
        for number in range(NUM_FRAMES):
            video.frames([number])
    assert len(sent) < 1.5 * NUM_FRAMES


def decoding_times(times: list[int]) -> list[int]:
    """As muxers write them that know of no B-frames."""
    return sorted(times)


def swapped_times(times: list[int]) -> list[int]:
    """Two of the first B-frames change places."""
    first, second = sorted(times)[1:4:2]
    return [{first: second, second: first}.get(time, time) for time in times]


@pytest.mark.parametrize("wrong", [decoding_times, swapped_times])
@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_wrong_times_are_noticed(tmp_path, monkeypatch, moving, wrong, kind):
    source, path = make_video(tmp_path / "source.mp4", moving, **FILES["pyramid.mp4"]), tmp_path / f"a.{kind}"
    with av.open(source) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        packets = [packet for packet in old.demux(video=0) if packet.size]
        step = packets[1].dts - packets[0].dts
        times = wrong([packet.pts + 10 * step for packet in packets])
        for packet, time in zip(packets, times, strict=True):
            packet.pts, packet.stream = time, stream
            new.mux(packet)
    walked = one_walk(path, monkeypatch)
    assert np.array_equal(walked, one_walk(source, monkeypatch))
    assert not assert_all_ways_agree(path, walked, random.Random(0))


def test_a_decoder_that_does_not_as_foretold_is_followed_from_the_start(tmp_path, monkeypatch):
    """A frame in the middle never comes out: seeking ends, and numbers are places in the output."""
    path = make_video(tmp_path / "a.mp4", 40)
    decode = Source.decode

    def without_14(source, packet):
        lost = 14 if packet is None or packet.pts < 40 else 14 * 512  # by place in a seek, by time in a walk
        return [frame for frame in decode(source, packet) if frame.pts not in (14, 14 * 512, lost)]

    monkeypatch.setattr(Source, "decode", without_14)
    with open_video(path) as video:
        assert frame_numbers(video.frames([3, 20, 30])) == [3, 21, 31]
        assert video._seeker is None


def test_a_packet_without_a_picture_counts_as_a_damaged_frame(tmp_path):
    source, path = make_video(tmp_path / "source.mp4", 20), tmp_path / "a.mp4"
    with av.open(source) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        packets = [packet for packet in old.demux(video=0) if packet.size]
        packets.append(av.Packet(b"\0\0\0\3\6\x80\x80"))  # a message
        for i, packet in enumerate(packets):
            packet.stream, packet.time_base = stream, stream.time_base
            packet.pts = packet.dts = 512 * i
            new.mux(packet)
    with open_video(path) as video:
        assert video.num_frames == 21
        assert frame_numbers(video.frames([19, 4])) == [19, 4]
        with pytest.raises(DecodeError, match="frame 20"):
            video.frames([20])


def test_numbers_in_unit_headers_are_read_as_the_standard_says():
    bits = Bits(bytes([0b10100110, 0b01000010, 0b10001000]))  # H.264, 9.1: 1 010 011 00100 00101 ...
    assert [bits.golomb() for _ in range(5)] == [0, 1, 2, 3, 4]
    assert Bits(b"\x01\0\0\3\x80").number(32) == 0x01000080
    assert Bits(b"\xff").number(12) == 0xFF0


@pytest.mark.shared
@pytest.mark.skipif(not CLIPS.exists(), reason="the folder of real clips is not here")
@pytest.mark.parametrize("name", REFERENCE)
def test_real_clips_give_the_frames_of_one_walk(monkeypatch, name):
    try:
        walked = one_walk(CLIPS / name, monkeypatch, 56)
    except DecodeError:
        pytest.skip("cannot be read to the end")
    assert_all_ways_agree(CLIPS / name, walked, random.Random(name), 56)


def test_every_kind_of_the_other_tests_is_sought_or_not_as_intended(tmp_path):
    sought = {}
    for name, made in KINDS.items():
        with open_video(make_video(tmp_path / name, 40, **made)) as video:
            sought[name] = video._seeker is not None
    walked = {"b_frames.avi", "vp8.webm", "stream.ts", "gaps.avi"}
    assert {name for name in sought if not sought[name]} == walked
