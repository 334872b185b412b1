"""Folders of pictures, single pictures, readers in processes of their own, and limits of time and memory."""

import os
import signal
import struct
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from make_video import frame_numbers, make_video, numbered_frames
from PIL import Image

from revit_video.decode import DECODERS, DecodeError, Limits, open_video
from revit_video.decode.decord_reader import DecordReader
from revit_video.decode.guard import GuardedReader
from revit_video.decode.picture_reader import PictureReader, counting_order
from revit_video.types import InputError

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import decode_fuzz

NAMES = {
    "img_{:05d}.jpg": 1,
    "frame_{:010d}.jpg": 1,
    "{}.png": 0,
    "v2_{}_left.JPEG": 8,  # 8, 9, 10: counted, not spelt
}


def write_pictures(folder: Path, name: str = "img_{:05d}.jpg", first: int = 1, num: int = 12) -> Path:
    folder.mkdir()
    for number, frame in enumerate(numbered_frames(num)):
        Image.fromarray(frame).save(folder / name.format(first + number))
    return folder


@pytest.mark.parametrize("decoder", ["auto", "decord"])
@pytest.mark.parametrize("name", NAMES)
def test_a_folder_of_pictures_is_a_video(tmp_path, name, decoder):
    folder = write_pictures(tmp_path / "a.mp4", name, NAMES[name])
    (folder / "Thumbs.db").write_text("no picture")
    (folder / "._img_00001.jpg").write_text("no picture")
    with open_video(folder, decoder) as video:
        assert (video.num_frames, video.height, video.width) == (12, 48, 64)
        assert (video.fps, video.fps_known, video.decoder) == (25.0, False, "pictures")
        assert frame_numbers(video.frames([11, 0, 2, 2])) == [11, 0, 2, 2]
        assert video.frames([3], short_side=24).shape == (1, 24, 32, 3)
        with pytest.raises(InputError, match="frame 12 was asked for; the video has 12 frames"):
            video.frames([12])
    with pytest.raises(InputError, match="the reader is closed"):
        video.frames([0])


def test_a_known_rate_can_be_given(tmp_path):
    with PictureReader(write_pictures(tmp_path / "a"), fps=30) as video:
        assert (video.fps, video.fps_known) == (30, True)


def test_names_are_sorted_by_their_numbers():
    names = ["a10.jpg", "a2.jpg", "a01.jpg", "B1.jpg", "a1.jpg", "a.jpg"]
    assert sorted(names, key=counting_order) == ["a.jpg", "a01.jpg", "a1.jpg", "a2.jpg", "a10.jpg", "B1.jpg"]


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "I;16"])
def test_a_single_picture_is_one_frame_in_rgb(tmp_path, mode):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    picture = (
        Image.fromarray(np.full((48, 64), 40000, np.uint16)) if mode == "I;16" else Image.new(mode, (64, 48))
    )
    picture.save(path)
    with open_video(path) as video:
        assert video.num_frames == 1
        assert video.frames([0, 0]).shape == (2, 48, 64, 3)


def test_a_picture_is_turned_as_its_exif_data_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(numbered_frames(6)[5]).save(tmp_path / "a.jpg", exif=exif)
    with open_video(tmp_path / "a.jpg") as video:
        assert (video.height, video.width) == (64, 48)
        assert frame_numbers(np.rot90(video.frames([0]), 1, axes=(1, 2))) == [5]


def test_a_bad_picture_is_named_with_its_file_and_frame(tmp_path):
    folder = write_pictures(tmp_path / "a")
    third, fourth = folder / "img_00003.jpg", folder / "img_00004.jpg"
    third.write_bytes(third.read_bytes()[:300])
    Image.new("RGB", (64, 50)).save(fourth)
    with open_video(folder) as video:
        assert frame_numbers(video.frames([0, 11])) == [0, 11]
        with pytest.raises(DecodeError, match=r"a: img_00003\.jpg cannot be decoded: .*pictures, frame 2\)"):
            video.frames([0, 2])
        with pytest.raises(
            DecodeError, match=r"img_00004\.jpg is 64x50, the first picture 64x48 .*frame 3\)"
        ):
            video.frames([3])


def test_a_folder_without_pictures_says_so(tmp_path):
    with pytest.raises(DecodeError, match="is no file, but a folder without pictures"):
        open_video(tmp_path)


LIMITED = {
    "a.mp4": {},
    "a.avi": {"codec": "mpeg4"},
    "a.png": None,
}


@pytest.mark.parametrize("name", LIMITED)
def test_pictures_larger_than_the_limit_are_refused(tmp_path, name):
    path = tmp_path / name
    if LIMITED[name] is None:
        Image.new("RGB", (64, 48)).save(path)
    else:
        make_video(path, 3, **LIMITED[name])
    with open_video(path, limits=Limits(pixels=64 * 48)) as video:
        assert video.num_frames > 0
    with pytest.raises(DecodeError, match=r"64x48.* more than the limit of 3071 pixels"):
        open_video(path, limits=Limits(pixels=64 * 48 - 1))


def test_more_frames_than_fit_are_refused_before_any_is_decoded(tmp_path):
    with open_video(make_video(tmp_path / "a.mp4", 3), limits=Limits(bytes=2 * 64 * 48 * 3)) as video:
        assert len(video.frames([0, 2])) == 2
        with pytest.raises(
            DecodeError, match="asked for 3 frames of 64x48, more than the limit of 18432 bytes"
        ):
            video.frames([0, 1, 2])
        with pytest.raises(DecodeError, match="asked for 1 frames of 133333x100000"):
            video.frames([0], short_side=100_000)


@pytest.mark.parametrize("name", ["a.mp4", "a.avi"])
def test_an_open_that_takes_too_long_is_an_error(tmp_path, monkeypatch, name):
    path = make_video(tmp_path / name, 30, codec="mpeg4" if name == "a.avi" else "libx264")
    with pytest.raises(DecodeError, match="took longer than the limit of 0 s"):
        open_video(path, limits=Limits(seconds=0))


def huge_png() -> bytes:
    """A header of 100,000 x 100,000 pixels with next to nothing behind it."""
    head = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + b"\0\0\0\0" + b"\0\0\0\4IDAT" + b"\0" * 50


def huge_avi(path: Path) -> bytes:
    """An AVI whose headers claim 65,535 x 65,535 pixels and 4 billion frames."""
    content = bytearray(Path(make_video(path, 3, codec="mjpeg", pix_fmt="yuvj420p")).read_bytes())
    main, stream = content.index(b"avih") + 8, content.index(b"strf") + 8
    content[main + 16 : main + 20] = b"\xff" * 4
    content[main + 32 : main + 40] = struct.pack("<II", 65_535, 65_535)
    content[stream + 4 : stream + 12] = struct.pack("<II", 65_535, 65_535)
    return bytes(content)


def endless_mp4(path: Path) -> bytes:
    """An mp4 whose tables claim a billion frames."""
    content = Path(make_video(path, 30)).read_bytes()
    for box, skipped in ((b"stsz", 12), (b"stts", 12)):
        begin = content.index(box) + skipped - (4 if box == b"stts" else 0)
        if box == b"stts":
            begin += 4
        content = content[:begin] + struct.pack(">I", 1_000_000_000) + content[begin + 4 :]
    return content


@pytest.mark.parametrize("kind", ["huge.png", "huge_png.mp4", "huge.avi", "endless.mp4"])
def test_what_a_header_claims_costs_neither_time_nor_memory(tmp_path, kind):
    made = {"huge.avi": huge_avi, "endless.mp4": endless_mp4}
    content = made[kind](tmp_path / f"source_{kind}") if kind in made else huge_png()
    (tmp_path / kind).write_bytes(content)
    before, start = decode_fuzz.resident_bytes(), time.monotonic()
    try:
        with open_video(tmp_path / kind) as video:
            assert video.num_frames < 100
            video.frames([0, video.num_frames - 1])
    except DecodeError as error:
        assert "\n" not in str(error)
    assert time.monotonic() - start < 30
    assert decode_fuzz.resident_bytes() - before < 500 << 20


def test_a_reader_in_its_own_process_gives_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_video(tmp_path / "a.mp4", 20, rotation=90)
    with open_video("a.mp4", guarded=True) as theirs, open_video("a.mp4") as ours:
        assert isinstance(theirs, GuardedReader)
        for what in ("num_frames", "fps", "fps_known", "height", "width", "decoder"):
            assert getattr(theirs, what) == getattr(ours, what)
        wanted = [19, 0, 3, 3]
        assert np.array_equal(theirs.frames(wanted, short_side=24), ours.frames(wanted, short_side=24))
        with pytest.raises(InputError, match=r"^a\.mp4: frame 20 was asked for") as error:
            theirs.frames([20])
        assert not isinstance(error.value, DecodeError)
        first = theirs._process
    with open_video("a.mp4", guarded=True) as again:
        assert again._process is first  # kept for the next video
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(DecodeError, match=r"^text\.mp4: cannot be opened") as error:
        open_video("text.mp4", guarded=True)


def test_a_reader_that_hangs_is_killed_and_the_next_one_works(tmp_path):
    path = make_video(tmp_path / "a.mp4", 3)
    with open_video(path, guarded=True) as video:
        child = video._process.child
        os.kill(child.pid, signal.SIGSTOP)
        video.limits = Limits(seconds=0.5)
        with pytest.raises(
            DecodeError, match=r"a\.mp4: took longer than the limit of 0\.5 s and was stopped"
        ):
            video.frames([0])
        assert child.poll() is not None
    with open_video(path, guarded=True) as video:
        assert frame_numbers(video.frames([2])) == [2]


def test_a_reader_that_crashes_is_an_error_and_the_next_one_works(tmp_path):
    path = make_video(tmp_path / "a.mp4", 3)
    with open_video(path, guarded=True) as video:
        os.kill(video._process.child.pid, signal.SIGSEGV)
        with pytest.raises(DecodeError, match=r"a\.mp4: ended the reader's process \(status -11\)"):
            video.frames([0])
    with open_video(path, guarded=True) as video:
        assert frame_numbers(video.frames([2])) == [2]


def test_decord_is_kept_in_a_process_of_its_own_unless_told_otherwise(tmp_path):
    pytest.importorskip("decord")
    path = make_video(tmp_path / "a.mp4", 3)
    with open_video(path, "decord") as kept, open_video(path, "decord", guarded=False) as free:
        assert isinstance(kept, GuardedReader) and isinstance(free, DecordReader)
        assert np.array_equal(kept.frames([1]), free.frames([1]))


def test_every_decoder_has_its_name():
    assert {name: reader.decoder for name, reader in DECODERS.items()} == {name: name for name in DECODERS}


def test_mutated_files_give_frames_or_an_error(tmp_path):
    assert set(decode_fuzz.fuzz(tmp_path, 140)) == {"frames", "refused"}


def test_many_opens_leave_nothing_behind(tmp_path):
    grown, files = decode_fuzz.opens(tmp_path, 300)
    assert grown < 20 << 20 and files == 0


@pytest.mark.slow
def test_thousands_of_opens_leave_nothing_behind(tmp_path):
    grown, files = decode_fuzz.opens(tmp_path, 2000)
    assert grown < 20 << 20 and files == 0
