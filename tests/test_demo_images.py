"""The generated pictures: what they show, what lies on disk, and a run on them."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from small_run import ROOT, SMALL, report_of, run_tool

from revit_video import cli
from revit_video.data import demo_images
from revit_video.data.class_folders import class_folder_split
from revit_video.data.demo_images import (
    CLUTTER,
    IMAGE_CLASSES,
    SHAPES,
    generate_images,
    plain_shape,
    render_picture,
    textured_shape,
)
from revit_video.data.demo_render import ROOM, draw
from revit_video.types import InputError

NUMBERS = {"train": 36, "val": 27, "test": 18}
LUMA = np.array((0.299, 0.587, 0.114))


@pytest.fixture(scope="module")
def data_set(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("images") / "data"
    counts = [word for split, number in NUMBERS.items() for word in (f"--{split}", number)]
    assert run_tool("make_demo_data.py", root, "--images", *counts, "--processes", "1") == 0
    return root


def test_a_picture_is_a_function_of_seed_split_and_number():
    pictures = [render_picture(3, 0, index) for index in range(9)]
    assert render_picture(3, 0, 5).pixels.tobytes() == pictures[5].pixels.tobytes()
    sizes = [picture.half_size for picture in pictures]
    for seed, stream in ((4, 0), (3, 1), (0, 3)):
        assert not {render_picture(seed, stream, index).half_size for index in range(9)} & set(sizes)
    assert sorted(picture.label for picture in pictures) == list(range(9))


def test_a_picture_of_another_class_differs_in_its_object_alone(monkeypatch):
    """No draw depends on the class, down to the noise: what is around the object says nothing about it."""
    for index in range(4):
        pictures = []
        for label in range(len(IMAGE_CLASSES)):
            monkeypatch.setattr(demo_images, "class_and_tag", lambda *_, label=label, **__: (label, "hard"))
            pictures.append(render_picture(0, 0, index))
        for picture in pictures[1:]:
            assert picture.half_size == pictures[0].half_size
            assert np.mean(picture.pixels == pictures[0].pixels) > 0.97
        flat = {picture.pixels.tobytes() for picture in pictures}
        assert len(flat) == len(IMAGE_CLASSES)


@pytest.mark.parametrize("tag", CLUTTER)
def test_the_object_lies_in_the_square_that_the_centre_crop_sees(tag):
    """Its long half, half-size * sqrt(aspect), from any place that is drawn."""
    how = CLUTTER[tag]
    longest = how.half_size[1] * (max(aspect for _, aspect, _ in SHAPES.values()) * 1.15) ** 0.5
    room = max(ROOM / 2 - demo_images.REACH * how.half_size[1], 0.0)
    assert room + longest <= ROOM / 2


def test_a_hard_object_is_of_the_size_of_one_patch_of_the_shortest_length():
    short = {tag: 2 * how.half_size[1] for tag, how in CLUTTER.items()}
    assert short["hard"] < 112 / 7 < 2 * CLUTTER["medium"].half_size[0] < short["medium"] < short["easy"]


def test_flat_tall_and_round_objects_are_what_their_names_say():
    for shape in SHAPES:
        scene = np.zeros((132, 132, 3), np.float32)
        thing = textured_shape(np.random.default_rng(0), shape, "checks", 0.6, 0.1)
        _, opacity = draw(scene, thing, np.array((66.0, 66.0)), 20.0)
        height, width = (np.ptp(np.nonzero((opacity > 0.5).any(axis=axis))[0]) for axis in (1, 0))
        low, high = {"flat": (1.6, 4.0), "round": (0.7, 1.4), "tall": (0.25, 0.62)}[shape]
        assert low < width / height < high


def test_plain_shapes_have_one_colour_and_textured_ones_two_of_the_asked_contrast():
    for number in range(30):
        rng = np.random.default_rng(number)
        plain = plain_shape(rng, 0.6)
        assert np.array_equal(*plain.colours)
        assert max(plain.axes) / min(plain.axes) < 1.2
        for texture in demo_images.TEXTURES:
            bright, dark = textured_shape(rng, "round", texture, 0.5, 0.15).colours @ LUMA
            assert bright - dark == pytest.approx(0.3, abs=0.02)


def test_the_folders_hold_every_class_with_its_tags(data_set):
    tags = {row["path"]: row["tag"] for row in csv.DictReader((data_set / "tags.csv").open())}
    assert len(tags) == sum(NUMBERS.values()) == len(list(data_set.glob("*/*/*.jpg")))
    for stream, (name, number) in enumerate(NUMBERS.items()):
        split = class_folder_split(data_set, name, kind="images")
        assert split.class_names == IMAGE_CLASSES and len(split.samples) == number
        assert Counter(sample.label for sample in split.samples) == dict.fromkeys(range(9), number // 9)
        for sample in split.samples:
            picture = render_picture(0, stream, int(Path(sample.path).stem))
            assert (picture.label, picture.tag) == (sample.label, sample.tag)
            assert tags[str(Path(sample.path).relative_to(data_set))] == sample.tag


def test_images_take_no_shift_and_a_folder_of_videos_is_kept(data_set, tmp_path, capfd):
    assert run_tool("make_demo_data.py", tmp_path / "a", "--images", "--shift", "sizes") == 2
    assert "--shift sizes changes videos; leave it out with --images" in capfd.readouterr().err
    assert not (tmp_path / "a").exists()
    assert run_tool("make_demo_data.py", data_set, "--train", "1", "--val", "1", "--test", "1") == 2
    assert "give another folder" in capfd.readouterr().err
    assert not generate_images(data_set, **{f"num_{split}": number for split, number in NUMBERS.items()})


@pytest.fixture(scope="module")
def image_run(data_set, tmp_path_factory) -> Path:
    """The config of the pictures with everything shrunk."""
    out = tmp_path_factory.mktemp("run") / "images"
    cfg = str(ROOT / "configs/demo/images_deit_tiny.yaml")
    arguments = [f"output_dir={out}", f"data.root={data_set}", *SMALL, "router.budget=0.9"]
    assert cli.train(["--cfg", cfg, *arguments]) == 0
    return out


def test_the_config_of_the_pictures_runs_all_stages_and_reports_by_tag(image_run):
    report = report_of(image_run)
    assert [row["length"] for row in report["per_length"]] == [8, 5, 3]
    assert set(report["tags"]) == set(CLUTTER) and report["protocol"]["num_scored"] == NUMBERS["test"]
    assert report["throughput"]["clips_per_s"]["adaptive"] > 0


def test_the_sheet_shows_what_the_router_chose_without_a_test(image_run, tmp_path):
    from matplotlib.image import imread

    out = tmp_path / "sheet.png"
    assert run_tool("plot.py", "sheet", image_run, "report.sheet_clips=2", "--out", out) == 0
    assert imread(out).shape[0] > 300


def test_a_list_of_tags_must_begin_with_their_names(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "1.jpg").touch()
    (tmp_path / "tags.csv").write_text("path,tag\ntrain/a/1.jpg,easy\n")
    samples = class_folder_split(tmp_path, "train", kind="images").samples
    assert [sample.tag for sample in samples] == ["easy", ""]
    (tmp_path / "tags.csv").write_text("file,tag\n")
    with pytest.raises(InputError, match=r"tags.csv begins with \['file', 'tag'\], but must begin with"):
        class_folder_split(tmp_path, "train", kind="images")
