"""Packed lists: the same videos from shards, whole or not at all, and nothing done for a stranger's shard."""

import hashlib
import json
import os
import shutil
import tarfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from make_video import make_video
from PIL import Image
from small_run import CFG, VIDEOS, run_tool, train

from revit_video.build.lists import build_split
from revit_video.build.passes import pick_train_view
from revit_video.config import load_config
from revit_video.data.dataset import VideoDataset
from revit_video.data.loader import eval_batches
from revit_video.data.packed import index_file, pack, packed_split
from revit_video.decode import DecodeError, open_video
from revit_video.decode.member import Member
from revit_video.sample import FramePicker
from revit_video.transform import TrainTransform
from revit_video.types import InputError, Split, VideoSample

pytest_plugins = ["run_fixtures"]

CLASSES = ("crawl", "walk", "run")
FORMS = {  # file name -> how it is written
    "a.mp4": {"bframes": 2},
    "b.avi": {"codec": "mpeg4"},
    "c.webm": {"codec": "libvpx-vp9"},
    "d.MKV": {},
    "e": {},  # mp4 without an ending
    "f.mp4": {"rotation": 90},
    "g.ts": {"codec": "mpeg2video"},
}


@pytest.fixture(scope="module")
def listed(tmp_path_factory) -> Split:
    """Videos in several containers, a picture, a broken file; two rows are parts of one file."""
    folder = tmp_path_factory.mktemp("loose")
    samples = []
    for number, (name, form) in enumerate(FORMS.items()):
        frames = np.random.default_rng(number).integers(0, 255, (30, 48, 64, 3)).astype(np.uint8)
        if "." in name:
            make_video(folder / name, frames, **form)
        else:
            os.rename(make_video(folder / "made.mp4", frames, **form), folder / name)
        samples.append(VideoSample(str(folder / name), number % 3, tag="odd" if number % 2 else ""))
    Image.fromarray(frames[0]).save(folder / "h.png")
    (folder / "broken.mp4").write_bytes(b"no video at all")
    samples += [VideoSample(str(folder / name), 1) for name in ("h.png", "broken.mp4")]
    parts = [replace(samples[0], begin=4, end=12, label=2), replace(samples[0], begin=10, end=30)]
    return Split(tuple([*samples, *parts]), CLASSES)


def packed_to(out: Path, split: Split, name: str = "train", *, shard_bytes: int = 150_000, **options):
    options = {"dataset": "kinetics", "class_name": split.class_names.__getitem__} | options
    return pack(split, out, name, shard_bytes=shard_bytes, **options)


@pytest.fixture(scope="module")
def shards(listed, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("packed")
    packed_to(out, listed)
    return out


@pytest.fixture
def copied(shards, tmp_path) -> Path:
    return Path(shutil.copytree(shards, tmp_path / "copied"))


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def refusal(*args, **options) -> str:
    with pytest.raises(InputError) as caught:
        packed_split(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- reading ----------------------------------------------------------------------------------------------


def test_a_packed_list_is_the_list(listed, shards):
    found = packed_split(shards, "train")
    assert found.class_names == CLASSES and len(found.samples) == len(listed.samples) == 11
    for ours, theirs in zip(found.samples, listed.samples, strict=True):
        assert replace(ours, path="") == replace(theirs, path="")
        member = Member.of(ours.path)
        with member.open() as file:
            assert file.read() == Path(theirs.path).read_bytes()
    one_file = {found.samples[row].path for row in (0, 9, 10)}
    assert len(one_file) == 1  # in the shards once
    assert len(list(shards.glob("*.tar"))) > 2


@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_clip_of_a_packed_list_is_that_of_its_loose_file(listed, shards, num_workers):
    def items(samples):
        dataset = VideoDataset(
            samples,
            pick_views=partial(pick_train_view, picker=FramePicker(4, 3)),
            transform=TrainTransform(32, jitter=(34, 40), flip=True),
            repeats=2,
            seed=3,
        )
        return list(eval_batches(dataset, videos_per_batch=3, num_workers=num_workers))

    loose, ours = items(listed.samples), items(packed_split(shards, "train").samples)
    for one, other in zip(loose, ours, strict=True):
        assert torch.equal(one.clips, other.clips) and torch.equal(one.indices, other.indices)
        assert torch.equal(one.clip_labels, other.clip_labels)
        assert [item.index for item in one.unreadable] == [item.index for item in other.unreadable]
    (broken,) = [item for batch in ours for item in batch.unreadable]
    assert broken.index == 8 and "train-00000" in broken.unreadable and "000000008.mp4" in broken.unreadable


def test_all_that_a_reader_says_is_what_it_says_of_the_loose_file(listed, shards):
    for ours, theirs in zip(packed_split(shards, "train").samples[:8], listed.samples[:8], strict=True):
        with open_video(ours.path) as one, open_video(theirs.path) as other:
            for name in ("num_frames", "fps", "fps_known", "height", "width"):
                assert getattr(one, name) == getattr(other, name)
            everything = range(one.num_frames)
            assert np.array_equal(one.frames(everything), other.frames(everything))


def test_webdataset_reads_the_shards_as_its_own(listed, shards):
    urls = [str(shard) for shard in sorted(shards.glob("*.tar"))]
    seen = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert len(seen) == 9 == len({sample["__key__"] for sample in seen})
    for sample in seen:
        about = json.loads(sample["json"])
        row = listed.samples[int(sample["__key__"])]
        suffix = Path(row.path).suffix.lower().removeprefix(".") or "video"
        assert sample[suffix] == Path(row.path).read_bytes()
        others = about.pop("others", [])
        assert about == {
            "label": row.label,
            "class_name": CLASSES[row.label],
            "path": row.path,
            "tag": row.tag,
            "begin": 0,
            "end": 0,
        }
        assert [other["begin"] for other in others] == ([4, 10] if sample["__key__"] == "000000000" else [])
    with tarfile.open(urls[0]) as tar:  # and so does anything that reads tars
        assert [member.name for member in tar] == ["000000000.mp4", "000000000.json"]


def test_other_readers_refuse_a_member_and_another_process_does_not(shards, listed):
    path = packed_split(shards, "train").samples[0].path
    for decoder in ("decord", "torchcodec"):
        with pytest.raises(InputError, match=f"{decoder} reads whole files only; use decoder=pyav") as caught:
            open_video(path, decoder)
        assert not isinstance(caught.value, DecodeError)  # no fault of the video
    with open_video(path, guarded=True) as one, open_video(listed.samples[0].path) as other:
        assert np.array_equal(one.frames([7, 3]), other.frames([7, 3]))


def test_a_member_is_read_in_small_pieces_and_leaves_no_file_open(shards, monkeypatch):
    path = packed_split(shards, "train").samples[0].path
    sizes = []
    real = Member.open

    def noting(self):
        file = real(self)
        read = file.readinto
        file.readinto = lambda buffer: sizes.append(len(buffer)) or read(buffer)
        return file

    monkeypatch.setattr(Member, "open", noting)
    before = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else None
    for _ in range(20):
        with open_video(path) as video:
            video.frames([0, 29, 3])
    assert sizes and max(sizes) <= 1 << 16
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) == before


# --- damage and strangers ---------------------------------------------------------------------------------


def test_shards_that_are_not_whole_are_named_before_anything_is_read(copied):
    names = sorted(path.name for path in copied.glob("*.tar"))
    os.truncate(copied / names[1], 5000)
    (copied / names[2]).unlink()
    said = refusal(copied, "train")
    assert f"2 of the {len(names)} shards" in said
    assert f"{names[1]} (5000 of " in said and f"{names[2]} (missing)" in said


def test_a_shard_damaged_later_names_itself_and_the_others_are_read(copied, shards):
    found = packed_split(copied, "train").samples
    member = Member.of(found[1].path)
    with open(member.shard, "r+b") as file:
        file.seek(member.begin - 512)
        file.write(bytes(512))
    with pytest.raises(
        DecodeError, match=rf"{member.shard}/.*the shard is damaged before byte {member.begin}"
    ):
        open_video(found[1].path)
    with open_video(found[2].path) as video:
        assert video.num_frames == 30
    os.truncate(member.shard, member.begin + 100)
    with pytest.raises(DecodeError, match=r"the shard is cut off: it has \d+ bytes, the file ends at \d+"):
        open_video(found[1].path)
    os.unlink(member.shard)
    with pytest.raises(DecodeError, match="no such file"):
        open_video(found[1].path)


def test_a_shard_of_another_list_is_not_taken_for_it(copied):
    found = packed_split(copied, "train").samples
    there = Member.of(found[1].path)
    with pytest.raises(
        DecodeError, match=f"another one, or damaged: it has {there.name} of {there.size} bytes"
    ):
        open_video(replace(there, name="000000777.avi").path)
    with pytest.raises(DecodeError, match="another one, or damaged"):
        open_video(replace(there, size=there.size - 1).path)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, 99), (0, -1), (0, "0"), (0, True), (0, 1.0), (0, None),
        (1, "../../etc/passwd"), (1, "a/b.mp4"), (1, 7), (1, "a[1+2].mp4"),
        (2, -512), (2, 10**15), (2, "512"), (3, 10**15), (3, -1),
        (4, 3), (4, -1), (5, 5), (6, -1), (7, "x"),
    ],
)  # fmt: skip
def test_a_line_that_no_tool_of_ours_wrote_is_refused_with_its_number(copied, place, value):
    source = index_file(copied, "train")
    lines = source.read_text().splitlines()
    row = json.loads(lines[3])
    row[place] = value
    source.write_text("\n".join([*lines[:3], json.dumps(row), *lines[4:]]) + "\n")
    assert refusal(copied, "train").startswith(f"{source}:4: ")


@pytest.mark.parametrize(
    "change",
    [
        {"format": "another"}, {"videos": "11"}, {"class_names": [1]}, {"heads": [0]}, {"dataset": 3},
        {"shards": [["../train-000000.tar", 5]]}, {"shards": [["/etc/passwd.tar", 5]]},
        {"shards": [["a.tar"]]}, {"shards": [["a.zip", 5]]}, {"shards": 5}, {"shards": [["a.tar", "5"]]},
    ],
)  # fmt: skip
def test_a_header_that_no_tool_of_ours_wrote_is_refused(copied, change):
    source = index_file(copied, "train")
    lines = source.read_text().splitlines()
    source.write_text("\n".join([json.dumps(json.loads(lines[0]) | change), *lines[1:]]) + "\n")
    assert f"{source} is no index of a packed list" in refusal(copied, "train")


def test_half_an_index_is_refused_and_so_is_none(copied, listed):
    source = index_file(copied, "train")
    lines = source.read_text().splitlines()
    source.write_text("\n".join(lines[:6]) + "\n")
    assert f"{source} has 5 of 11 videos" in refusal(copied, "train")
    source.write_text("[1, 2]\n")
    assert "is no index" in refusal(copied, "train")
    source.write_text("")
    assert "is no index" in refusal(copied, "train")
    assert "in its folder there are train.index.jsonl" in refusal(copied, "val")


@pytest.mark.parametrize(
    "path", ["a.tar", "a.tar/b.mp4", "a.tar/b[1+2", "a.zip/b.mp4[1+2]", "a.tar/c/b.mp4[1+2]"]
)
def test_ordinary_paths_are_no_members(path):
    assert Member.of(path) is None


def test_a_member_says_its_place_and_back():
    member = Member("/a b/c.tar", "0.mp4", 512, 7)
    assert Member.of(member.path) == member and member.path == "/a b/c.tar/0.mp4[512+7]"


# --- writing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop_after", [1, 2, 4])
def test_packing_that_was_stopped_goes_on_and_ends_with_the_same_bytes(listed, shards, tmp_path, stop_after):
    calls = []

    def advance(videos):
        calls.append(videos)
        if len(calls) == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        packed_to(tmp_path, listed, advance=advance)
    left = contents(tmp_path)
    assert len(left) == stop_after and left.items() <= contents(shards).items()  # whole shards, no index
    assert "in its folder there are" in refusal(tmp_path, "train") or "no .jsonl" in refusal(
        tmp_path, "train"
    )
    times = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    written, kept = packed_to(tmp_path, listed)
    assert (kept, written + kept) == (stop_after, len(list(shards.glob("*.tar"))))
    assert contents(tmp_path) == contents(shards)
    assert times.items() <= {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}.items()
    assert packed_to(tmp_path, listed)[0] == 0 and contents(tmp_path) == contents(shards)


@pytest.mark.parametrize("change", ["longer", "shorter"])
def test_a_video_that_changes_meanwhile_leaves_no_half_shard(listed, tmp_path, monkeypatch, change):
    loose, out = (
        Path(shutil.copytree(Path(listed.samples[0].path).parent, tmp_path / "loose")),
        tmp_path / "out",
    )
    samples = tuple(replace(s, path=str(loose / Path(s.path).name)) for s in listed.samples)
    victim = Path(samples[3].path)

    def advance(videos):
        if change == "longer":
            victim.write_bytes(victim.read_bytes() + b"more")
        else:
            os.truncate(victim, 1000)

    with pytest.raises(InputError, match=rf"{victim} has changed while it was packed"):
        packed_to(out, replace(listed, samples=samples), advance=advance)
    assert all(path.suffix == ".tar" for path in out.iterdir())
    for shard in out.iterdir():
        with tarfile.open(shard) as tar:
            assert [len(tar.extractfile(m).read()) for m in tar] == [m.size for m in tar.getmembers()]


def test_a_folder_that_holds_something_else_is_refused_and_stays(listed, copied):
    before = contents(copied)
    others = [
        ({"shard_bytes": 300_000}, listed),
        ({}, replace(listed, samples=listed.samples[:-1])),
        ({"dataset": "ssv2"}, listed),
        ({"class_name": lambda label: "x"}, listed),
        ({}, replace(listed, class_names=("krawl", "welk", "ran"))),  # as long as the others
    ]
    for options, split in others:
        with pytest.raises(InputError, match=r"is there already and .*; give another --out"):
            packed_to(copied, split, **options)
        assert contents(copied) == before
    index_file(copied, "train").unlink()
    for options, split in others[3:]:  # other labels in the very same places
        with pytest.raises(InputError, match=r"\.tar is there already and holds something else"):
            packed_to(copied, split, **options)


def test_what_cannot_be_packed_is_refused(listed, tmp_path):
    folder = replace(listed, samples=(VideoSample(str(tmp_path), 0),))
    with pytest.raises(InputError, match="is a folder of frames; only files can be packed"):
        packed_to(tmp_path / "out", folder)
    with pytest.raises(InputError, match=r"a list called '\.\./train' cannot be packed"):
        packed_to(tmp_path / "out", listed, "../train")
    with pytest.raises(OSError, match="missing"):
        packed_to(tmp_path / "out", replace(listed, samples=(VideoSample(str(tmp_path / "missing"), 0),)))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_shards_keep_to_their_size_unless_one_video_has_more(listed, tmp_path):
    for shard_bytes in (1, 120_000, 10**9):
        out = tmp_path / str(shard_bytes)
        packed_to(out, listed, shard_bytes=shard_bytes)
        for shard in out.glob("*.tar"):
            with tarfile.open(shard) as tar:
                assert shard.stat().st_size <= shard_bytes or len(tar.getmembers()) == 2
    assert len(list((tmp_path / "1").glob("*.tar"))) == 9
    assert len(list((tmp_path / "1000000000").glob("*.tar"))) == 1


# --- from the settings ------------------------------------------------------------------------------------


def test_the_tool_packs_the_lists_of_a_config_and_the_settings_read_them(demo_data, tmp_path, capfd):
    out = tmp_path / "packed"
    settings = ["--cfg", CFG, f"data.root={demo_data}"]
    assert run_tool("pack_videos.py", *settings, "--out", out, "--shard-mb", 1) == 0
    assert f"train: {VIDEOS['train']} videos" in capfd.readouterr().out
    loose = load_config(CFG, [f"data.root={demo_data}"])
    ours = load_config(CFG, ["data.dataset=packed", f"data.root={out}"])
    for name in ("train", "val", "test"):
        one, other = build_split(loose, name), build_split(ours, name)
        assert one.class_names == other.class_names
        for theirs, sample in zip(one.samples, other.samples, strict=True):
            assert replace(sample, path=theirs.path) == theirs
            assert hashlib.sha256(Member.of(sample.path).open().read()).digest() == digest(theirs.path)
    before = contents(out)
    assert run_tool("pack_videos.py", *settings, "--out", out, "--shard-mb", 1) == 0
    assert run_tool("pack_videos.py", *settings, "--out", out, "data.dataset=kinetics", "--split", "val") == 2
    assert capfd.readouterr().err.count("\n") == 1 and contents(out) == before
    assert run_tool("pack_videos.py", *settings, "--out", tmp_path / "one", "--split", "val") == 0
    assert {path.name for path in (tmp_path / "one").iterdir()} == {"val-000000.tar", "val.index.jsonl"}
    for wrong in (["--shard-mb", 0], ["data.dataset=packed", "data.flip=false"]):
        assert run_tool("pack_videos.py", *settings, "--out", tmp_path / "wrong", *wrong) == 2
    assert not (tmp_path / "wrong").exists()


def test_a_training_from_shards_is_bit_by_bit_the_one_from_loose_files(demo_data, tmp_path):
    settings = ["--cfg", CFG, f"data.root={demo_data}", "--split", "train"]
    assert run_tool("pack_videos.py", *settings, "--out", tmp_path / "packed") == 0
    options = ["stage=revit", "solver.max_steps=3", "data.cache=none"]
    assert train(tmp_path / "loose", demo_data, *options) == 0
    packed = ["data.dataset=packed", "data.num_workers=2"]
    assert train(tmp_path / "shards", tmp_path / "packed", *options, *packed) == 0
    one, other = (
        torch.load(tmp_path / name / "checkpoints/revit.pt", weights_only=True)
        for name in ("loose", "shards")
    )
    assert one["class_names"] == other["class_names"] and one["model"].keys() == other["model"].keys()
    assert all(torch.equal(one["model"][name], other["model"][name]) for name in one["model"])


def digest(path: str) -> bytes:
    return hashlib.sha256(Path(path).read_bytes()).digest()


def test_a_packed_list_whose_classes_tell_left_from_right_is_not_mirrored(listed, tmp_path):
    packed_to(tmp_path, listed, dataset="ssv2")
    options = ["data.dataset=packed", f"data.root={tmp_path}"]
    with pytest.raises(InputError, match=r"data\.flip is true, but must be false for packed ssv2"):
        build_split(load_config(None, options), "train")
    for allowed in (["data.flip=false"], ["data.flip_labels=[[walk, run]]"]):
        assert build_split(load_config(None, [*options, *allowed]), "train").class_names == CLASSES


def test_readers_of_whole_files_are_refused_with_packed_lists():
    with pytest.raises(InputError, match=r"data\.decoder is 'decord', but must be auto or pyav for packed"):
        load_config(None, ["data.dataset=packed", "data.root=x", "data.decoder=decord"])
