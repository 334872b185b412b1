"""What is wrong with a file is a DecodeError of one line, cut files are noticed, and nothing stays open."""

import gc
import json
import os
import pickle
from pathlib import Path

import av
import numpy as np
import pytest
from make_video import frame_numbers, make_video
from test_decode import KINDS

from revit_video.decode import DecodeError, open_video
from revit_video.decode.container import missing_bytes
from revit_video.types import InputError

CLIPS = Path(__file__).parents[2] / "shared" / "clips"


def cut(path: str, share: float) -> str:
    """Keeps the first part of a file."""
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: int(len(content) * share)])
    return path


def open_files() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


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
    with pytest.raises(DecodeError, match=rf"{name}: is cut off: \d+ bytes are missing") as error:
        open_video(path)
    assert error.value.path == path
    assert str(error.value).endswith(f"(reader pyav, frame {error.value.frame})")
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


EBML, SEGMENT = b"\x1a\x45\xdf\xa3\x81\x00", b"\x18\x53\x80\x67"
FTYP = b"\0\0\0\x0cftypisom"


@pytest.mark.parametrize(
    ("content", "missing"),
    [
        (FTYP + b"\0\0\0\x10mdat" + b"." * 8, 0),
        (FTYP + b"\0\0\0\x10mdat" + b"." * 5, 3),
        (FTYP + b"\0\0\0\x01mdat" + (20).to_bytes(8, "big") + b"..", 2),  # a length of 8 bytes
        (FTYP + b"\0\0\0\0mdat....", 0),  # to the end
        (FTYP + b"\x7f\xff\xff\xffJUNK....", 0),  # no box that we know
        (b"RIFF" + (8).to_bytes(4, "little") + b"AVI ....", 0),
        (b"RIFF" + (9).to_bytes(4, "little") + b"AVI ....", 1),
        (b"RIFF" + (8).to_bytes(4, "little") + b"AVI ....RIFF" + (7).to_bytes(4, "little") + b"AVIX", 3),
        (b"RIFF\xff\xff\xff\xffAVI ....", 0),  # written as a stream
        (b"RIFF\0\0\0\0AVI ....", 0),
        (EBML + SEGMENT + b"\x84....", 0),
        (EBML + SEGMENT + b"\x85....", 1),
        (EBML + SEGMENT + b"\x40\x06....", 2),  # a length of 2 bytes
        (EBML + SEGMENT + b"\xff....", 0),  # written as a stream
        (EBML + SEGMENT + b"\x01" + b"\xff" * 7 + b"....", 0),
        (EBML + b"no segment", 0),
        (EBML + SEGMENT, 0),
        (b"OggS" + b"." * 50, 0),
        (b"", 0),
    ],
)
def test_missing_bytes_are_read_from_the_container(tmp_path, content, missing):
    (tmp_path / "a").write_bytes(content)
    assert missing_bytes(str(tmp_path / "a")) == missing


@pytest.mark.parametrize(
    "raised",
    [av.FFmpegError(1, "boom"), av.error.ExternalError(1, "boom"), OSError(5, "boom"), RuntimeError("boom")],
)
def test_no_error_of_the_decoder_leaks(tmp_path, monkeypatch, raised):
    def fail(*args, **kwargs):
        raise raised

    monkeypatch.setattr(av, "open", fail)
    (tmp_path / "a.mp4").touch()
    with pytest.raises(DecodeError, match=r"a\.mp4: cannot be opened: boom \(reader pyav\)"):
        open_video(tmp_path / "a.mp4")


@pytest.mark.parametrize(("damaged", "gop"), [(20, 100), (38, 12)])
def test_a_damaged_file_gives_the_frames_before_and_always_the_same_error(tmp_path, damaged, gop):
    path = make_video(tmp_path / "a.mp4", NOISE, gop=gop, container_options={"movflags": "faststart"})
    with av.open(path) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray(Path(path).read_bytes())
    begin, size = packets[damaged]
    content[begin : begin + size] = b"\xff" * size
    Path(path).write_bytes(content)
    with open_video(path) as video:
        assert video.num_frames == 40
        assert video.frames([0, 10]).shape == (2, 48, 64, 3)
        for _ in range(2):
            with pytest.raises(DecodeError, match=r"a\.mp4: cannot be decoded: .*pyav, frame \d+") as error:
                video.frames([39])
            assert 10 < error.value.frame <= damaged
        assert video.frames([error.value.frame - 1, 0]).shape == (2, 48, 64, 3)


def test_damage_hurts_only_the_frames_up_to_the_next_key_frame(tmp_path):
    path = make_video(tmp_path / "a.mp4", NOISE, gop=12, container_options={"movflags": "faststart"})
    with open_video(path) as video:
        whole = video.frames(range(40))
    with av.open(path) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray(Path(path).read_bytes())
    begin, size = packets[18]
    content[begin : begin + size] = b"\xff" * size
    Path(path).write_bytes(content)
    with open_video(path) as video:
        for wanted in ([5], [30, 39], [17], [24]):
            assert np.array_equal(video.frames(wanted), whole[wanted])
        for wanted in ([18], [23], [5, 23, 30], list(range(40))):
            with pytest.raises(DecodeError, match=r"cannot be decoded: .*pyav, frame 18\)"):
                video.frames(wanted)


def write_audio(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


BAD_FILES = {
    "missing.mp4": (lambda path: None, "no such file"),
    "pipe.mp4": (lambda path: os.mkfifo(path), "is no file"),
    "empty.mp4": (lambda path: path.write_bytes(b""), "cannot be opened: "),
    "text.mp4": (lambda path: path.write_text("this is no video\n" * 50), "cannot be opened: "),
    "zeros.mp4": (lambda path: path.write_bytes(b"\0" * 5000), "cannot be opened: "),
    "audio.mp4": (write_audio, "holds no video stream"),
    "no_frames.mp4": (lambda path: make_video(path, 0), "(holds no|cannot be)"),
    "no_frames.mkv": (lambda path: make_video(path, 0), "(holds no|cannot be)"),
    "no_frames.avi": (lambda path: make_video(path, 0, codec="mpeg4"), "(holds no|cannot be)"),
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


def test_a_decode_error_travels_between_processes():
    error = pickle.loads(pickle.dumps(DecodeError("a.mp4", "pyav", "cannot be decoded", 7)))
    assert str(error) == "a.mp4: cannot be decoded (reader pyav, frame 7)"
    assert (error.path, error.reader, error.frame) == ("a.mp4", "pyav", 7)


def test_decord_errors_are_decode_errors_of_one_line(tmp_path):
    pytest.importorskip("decord")
    for name in ("text.mp4", "missing.mp4"):
        BAD_FILES[name][0](tmp_path / name)
        with pytest.raises(DecodeError, match=r"\(reader decord\)") as error:
            open_video(tmp_path / name, "decord")
        assert "\n" not in str(error.value)


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
