"""The demo data set: what the clips show, and what lies on disk."""

from __future__ import annotations

import csv
import importlib.util
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest

from revit_video.data import demo, demo_render
from revit_video.data.demo import demo_split, generate_demo
from revit_video.data.demo_render import CLASS_NAMES, DIFFICULTIES, class_and_tag, motion, render_clip
from revit_video.data.kinetics import kinetics_split
from revit_video.data.ssv2 import ssv2_split
from revit_video.types import InputError

LUMA = np.array((0.299, 0.587, 0.114), np.float32)
TOOL = Path(__file__).parents[1] / "tools/make_demo_data.py"


@pytest.fixture(scope="module")
def data_set(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("demo") / "data"
    assert generate_demo(root, num_train=20, num_val=7, num_test=3, seed=5)
    return root


def motions(name: str, count: int = 300, tag: str = "medium") -> tuple[np.ndarray, np.ndarray]:
    """Places (count, 16, 2) and sizes (count, 16) of one class, from the same seeds for every class."""
    low, high = DIFFICULTIES[tag].half_size
    drawn = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        drawn.append(motion(name, rng, half_size=rng.uniform(low, high), num_frames=16))
    places, sizes = zip(*drawn, strict=True)
    return np.stack(places), np.stack(sizes)


def test_the_same_numbers_give_the_same_frames_and_any_other_number_gives_others():
    clips = [render_clip(3, 0, index) for index in range(8)]
    assert render_clip(3, 0, 5).frames.tobytes() == clips[5].frames.tobytes()
    formats = [(clip.frames.shape, clip.fps) for clip in clips]  # drawn first, so equal draws would show
    for seed, stream in ((4, 0), (3, 1), (0, 3)):
        others = [render_clip(seed, stream, index) for index in range(8)]
        assert [(clip.frames.shape, clip.fps) for clip in others] != formats
    assert len(set(formats)) > 4


def test_ten_clips_hold_every_class_and_two_hundred_the_exact_shares_of_tags():
    drawn = [class_and_tag(0, 0, index) for index in range(400)]
    for start in range(0, 400, 10):
        assert sorted(label for label, _ in drawn[start : start + 10]) == list(range(10))
    for start in (0, 200):
        shares = Counter(drawn[start : start + 200])
        for label in range(10):
            assert [shares[label, tag] for tag in ("easy", "medium", "hard")] == [8, 6, 6]


def test_clips_that_differ_only_in_the_label_differ_only_in_the_motion(monkeypatch):
    """The strongest leak check there is: no draw depends on the class, down to the noise."""
    for index in range(4):
        clips = []
        for label in range(len(CLASS_NAMES)):
            monkeypatch.setattr(demo_render, "class_and_tag", lambda *_, label=label: (label, "medium"))
            clips.append(render_clip(0, 0, index))
        first = clips[0]
        for clip in clips[1:]:
            facts = (clip.frames.shape, clip.fps, clip.half_size, clip.shape)
            assert facts == (first.frames.shape, first.fps, first.half_size, first.shape)
            assert np.mean(clip.frames == first.frames) > 0.8  # all but the object, and what covers it


def test_left_and_right_visit_the_same_places_in_opposite_order():
    left, right = motions("left")[0][..., 0], motions("right")[0][..., 0]
    assert np.all(np.diff(left[:, ::5]) < 0) and np.all(np.diff(right[:, ::5]) > 0)
    assert abs(left.mean() - right.mean()) < 1 and abs(left.std() / right.std() - 1) < 0.05
    assert abs(left[:, 7:9].mean() - right[:, 7:9].mean()) < 1  # half-way not even the order can be seen


def test_at_a_random_time_moving_and_resting_axes_are_spread_alike():
    spreads = [motions(name)[0].std((0, 1)) for name in ("left", "down", "still", "sway", "pulse")]
    np.testing.assert_allclose(spreads, np.mean(spreads), rtol=0.12)


@pytest.mark.parametrize("tag", DIFFICULTIES)
def test_every_path_stays_in_the_square_that_the_centre_crop_sees(tag):
    for name in CLASS_NAMES:
        assert np.abs(motions(name, 60, tag)[0]).max() < demo_render.ROOM / 2


def test_each_class_moves_as_its_name_says():
    for name, axis in (("left", 0), ("right", 0), ("up", 1), ("down", 1)):
        places, sizes = motions(name)
        travel = np.abs(places[:, -1] - places[:, 0])
        assert np.all(travel[:, axis] > 3.8 * travel[:, 1 - axis] - 2) and np.all(sizes == 1)
        assert np.all(
            np.sign(places[:, -1, axis] - places[:, 0, axis]) == (1 if name in ("right", "down") else -1)
        )
    for name, power in (("towards", 1), ("away", -1)):
        sizes = motions(name)[1]
        zoom = (sizes[:, -1] / sizes[:, 0]) ** power
        assert zoom.min() >= 2.2 and zoom.max() <= 3.3
    for name, axis in (("sway", 0), ("bob", 1)):
        swings = np.ptp(motions(name)[0], axis=1)
        assert swings[:, axis].min() > 10 and swings[:, 1 - axis].max() < 2
    places, sizes = motions("still")
    assert np.ptp(places, axis=1).max() < 2 and np.all(sizes == 1)
    turns = np.count_nonzero(np.diff(np.sign(np.diff(motions("pulse")[1])), axis=1), axis=1)
    assert turns.min() >= 2 and turns.max() <= 5  # 1.4 to 2.1 periods there and back


@pytest.mark.parametrize("tag", DIFFICULTIES)
def test_objects_are_brighter_than_the_background(tag):
    how, rng = DIFFICULTIES[tag], np.random.default_rng(0)
    for _ in range(20):
        base = rng.uniform(0.15, 0.35)
        scene = demo_render.background(rng, 132, 132, base)
        assert scene.mean((0, 1)) @ LUMA == pytest.approx(base, abs=0.02)
        before = scene.copy()
        shape = demo_render.random_shape(rng, base + how.contrast[0])
        window, opacity = demo_render.draw(scene, shape, (66.3, 65.8), rng.uniform(*how.half_size))
        gain = ((scene - before)[window] @ LUMA)[opacity > 0.9]
        assert gain.mean() > how.contrast[0] - 0.14 and np.mean(gain > 0) > 0.85


def test_lists_agree_with_each_other_and_with_the_files(data_set):
    tags = {row["path"]: row for row in csv.DictReader((data_set / "tags.csv").open())}
    labels = json.loads((data_set / "something-something-v2-labels.json").read_text())
    assert list(labels.values()) == [str(label) for label in range(10)]
    for split, ssv2 in (("train", "train"), ("val", "validation"), ("test", "test")):
        rows = json.loads((data_set / f"something-something-v2-{ssv2}.json").read_text())
        lines = (data_set / f"{split}.csv").read_text().splitlines()
        assert len(lines) == {"train": 20, "val": 7, "test": 3}[split]
        for line, row in zip(lines, rows, strict=True):
            template = row["template"].replace("[", "").replace("]", "")
            assert line == f"videos/{row['id']}.mp4 {labels[template]}"
    assert len(tags) == 30 == len(list(data_set.glob("videos/*/*.mp4")))
    for path, facts in tags.items():
        with av.open(str(data_set / path)) as file:
            stream = file.streams.video[0]
            assert stream.codec.canonical_name == "h264"
            assert float(stream.average_rate) == float(facts["fps"])
            assert (stream.width, stream.height) == (int(facts["width"]), int(facts["height"]))
            assert sum(1 for _ in file.decode(video=0)) == int(facts["num_frames"])


def test_a_split_is_read_back_with_labels_tags_and_class_names(data_set):
    split = demo_split(data_set, "train")
    assert split.class_names == CLASS_NAMES
    assert [(sample.label, sample.tag) for sample in split.samples] == [
        class_and_tag(5, 0, i) for i in range(20)
    ]
    assert all(Path(sample.path).is_file() for sample in split.samples)
    with pytest.raises(InputError, match="no demo split named 'training'; the splits are train, val, test"):
        demo_split(data_set, "training")
    with pytest.raises(
        InputError, match=r"videos holds no complete demo data set; run: python tools/make_demo_data"
    ):
        demo_split(data_set / "videos", "train")


@pytest.mark.parametrize("split", demo.SPLITS)
def test_the_readers_of_kinetics_and_ssv2_lists_find_the_same_videos(data_set, split):
    samples = [(sample.path, sample.label) for sample in demo_split(data_set, split).samples]
    for other in (kinetics_split(data_set / f"{split}.csv", root=data_set), ssv2_split(data_set, split)):
        assert [(sample.path, sample.label) for sample in other.samples] == samples


def test_a_decoded_video_shows_the_rendered_frames(data_set):
    with av.open(str(data_set / "videos/val/00002.mp4")) as file:
        decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
    rendered = render_clip(5, 1, 2).frames
    assert np.abs(decoded.astype(float) @ LUMA - rendered @ LUMA).mean() < 6


def test_two_processes_write_the_files_of_one(data_set, tmp_path):
    generate_demo(tmp_path / "data", num_train=20, num_val=7, num_test=3, seed=5, processes=2)
    for path in sorted(data_set.rglob("*.*")):
        assert (tmp_path / "data" / path.relative_to(data_set)).read_bytes() == path.read_bytes(), path.name


def test_a_complete_data_set_is_kept_and_a_half_written_one_replaced(tmp_path, monkeypatch):
    sizes = {"num_train": 4, "num_val": 1, "num_test": 1}
    real = demo._write_video

    def killed(*arguments):
        if arguments[-1] == ("train", 2):
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(demo, "_write_video", killed)
    with pytest.raises(KeyboardInterrupt):
        generate_demo(tmp_path, **sizes, seed=1)
    monkeypatch.undo()
    with pytest.raises(InputError, match="holds no complete demo data set"):
        demo_split(tmp_path, "train")
    assert generate_demo(tmp_path, **sizes, seed=2)
    assert (tmp_path / "videos/train/00003.mp4").is_file() and not (tmp_path / demo.STARTED).exists()
    assert not generate_demo(tmp_path, **sizes, seed=2)
    with pytest.raises(InputError, match=r'"seed": 2.*, not .*"seed": 3.*; give another folder'):
        generate_demo(tmp_path, **sizes, seed=3)


@pytest.mark.parametrize(
    "wrong, text",
    [
        ({"seed": -1}, "seed is -1, but must be at least 0"),
        ({"num_val": 0}, "num_val is 0, but must be at least 1"),
        ({"processes": 0}, "processes is 0, but must be at least 1"),
    ],
)
def test_senseless_numbers_are_refused_before_anything_is_written(tmp_path, wrong, text):
    with pytest.raises(InputError, match=text):
        generate_demo(tmp_path / "data", **wrong)
    assert not (tmp_path / "data").exists()


def run_tool(monkeypatch, *args) -> int:
    spec = importlib.util.spec_from_file_location("make_demo_data", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    monkeypatch.setattr(sys, "argv", [str(TOOL), *map(str, args)])
    return tool.main()


def test_the_tool_writes_once_and_says_what_is_wrong_in_one_line(tmp_path, monkeypatch, capsys):
    sizes = ("--train", 2, "--val", 1, "--test", 1, "--processes", 1)
    assert run_tool(monkeypatch, tmp_path / "data", *sizes) == 0
    assert "4 videos written" in capsys.readouterr().out
    assert run_tool(monkeypatch, tmp_path / "data", *sizes) == 0
    assert "complete already" in capsys.readouterr().out
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep me")
    for wrong in (tmp_path / "mine", tmp_path / "mine/notes.txt"):
        assert run_tool(monkeypatch, wrong, *sizes) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ") and said.count("\n") == 1
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_workers_do_not_import_torch():
    code = "import sys, revit_video.data.demo; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
