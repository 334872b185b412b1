"""Lists of videos: what is read from them, which line is named when one is wrong. No video is opened."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from revit_video.data.demo import demo_split, generate_demo
from revit_video.data.kinetics import kinetics_split
from revit_video.data.ssv2 import ssv2_split
from revit_video.types import InputError, VideoSample


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def kinetics_list(root: Path, text: str) -> Path:
    (root / "train.csv").write_text(text)
    return root / "train.csv"


def refusal(function, *args, **kwargs) -> str:
    with pytest.raises(InputError) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_importing_the_package_of_lists_does_not_import_torch():
    modules = (
        "revit_video.data, revit_video.data.kinetics, revit_video.data.ssv2, revit_video.data.class_folders"
    )
    check = f"import sys, {modules}, revit_video.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


# --- Kinetics ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator, name", [(" ", "space"), (",", "comma"), ("\t", "tab")])
def test_a_list_is_read_with_the_separator_found_or_given(tmp_path, separator, name):
    path = kinetics_list(tmp_path, f"a.mp4{separator}1\r\n\r\nb/c d,e.mp4{separator}0\r\n")
    touch(tmp_path, "a.mp4", "b/c d,e.mp4")
    split = kinetics_split(path)
    assert split.samples == (
        VideoSample(str(tmp_path / "a.mp4"), 1),
        VideoSample(str(tmp_path / "b/c d,e.mp4"), 0),
    )
    assert split.class_names == ("class 0", "class 1")
    assert kinetics_split(path, separator=name) == split


def test_paths_start_from_the_root_unless_they_are_absolute(tmp_path):
    touch(tmp_path, "videos/a.mp4", "far/b.mp4")
    path = kinetics_list(tmp_path, f"a.mp4 0\n{tmp_path}/far/b.mp4 0\n")
    samples = kinetics_split(path, root=tmp_path / "videos").samples
    assert [sample.path for sample in samples] == [f"{tmp_path}/videos/a.mp4", f"{tmp_path}/far/b.mp4"]


def test_class_names_beside_the_list_fix_the_number_of_classes(tmp_path):
    path = kinetics_list(tmp_path, "a 0\nb 2\n")
    (tmp_path / "classes.txt").write_text("run\nwalk slowly\nsit\nlie\n")
    assert kinetics_split(path, check_files=False).class_names == ("run", "walk slowly", "sit", "lie")
    said = refusal(kinetics_split, path, num_classes=3, check_files=False)
    assert said == f"{tmp_path}/classes.txt names 4 classes, expected 3"
    (tmp_path / "classes.txt").write_text("run\nrun\n")
    assert refusal(kinetics_split, path).startswith(f"{tmp_path}/classes.txt:2: the class name 'run'")
    (tmp_path / "other.txt").write_text("run\nwalk\n")
    said = refusal(kinetics_split, path, class_names_file=tmp_path / "other.txt")
    assert said == f"{path}:2: the label is 2, but there are 2 classes"


def test_the_number_of_classes_holds_where_the_list_lacks_the_last_one(tmp_path):
    path = kinetics_list(tmp_path, "a 0\nb 1\n")
    assert len(kinetics_split(path, num_classes=5, check_files=False).class_names) == 5


@pytest.mark.parametrize(
    "text, said",
    [
        ("a.mp4 0\nb.mp4\n", ":2: expected a path, a space and a label, got 'b.mp4'"),
        ("a.mp4 0\nb.mp4 run\n", ":2: the label is 'run' in 'b.mp4 run', but must be a whole number"),
        ("a.mp4 0\nb.mp4 1.0\n", ":2: the label is '1.0' in 'b.mp4 1.0', but must be a whole number"),
        ("a.mp4 0\n\nb.mp4 -1\n", ":3: the label is -1 in 'b.mp4 -1', but must be at least 0"),
        ("a.mp4 0\nb.mp4 3\n", ":2: the label is 3, but there are 3 classes"),
        ("a.mp4 0\nb.mp4 0\n./a.mp4 1\n", ":3: {root}/a.mp4 is there twice, first on line 1"),
        ("path,kind\n", ":1: expected a path and a label like 'a.mp4 0', got 'path,kind'"),
        ("a.mp4, 0\n", ":1: space and comma both fit 'a.mp4, 0'; set data.separator to one"),
        ("a 0\nb 1\nc,2\n", ":3: expected a path, a space and a label, got 'c,2'"),
        ("a 0\n" + 200 * "b", f":2: expected a path, a space and a label, got '{77 * 'b'}...'"),
        ("\n \n", " is empty; expected lines like 'videos/a.mp4 0'"),
    ],
)
def test_a_wrong_line_is_named_and_shown(tmp_path, text, said):
    path = kinetics_list(tmp_path, text)
    said = f"{path}{said}".replace("{root}", str(tmp_path))
    assert refusal(kinetics_split, path, num_classes=3, check_files=False) == said


def test_a_separator_that_does_not_exist_is_refused(tmp_path):
    said = refusal(kinetics_split, kinetics_list(tmp_path, "a 0"), separator="semicolon")
    assert said.startswith("separator is 'semicolon', but must be one of auto, space, comma, tab or ")


def test_missing_videos_are_counted_in_one_error(tmp_path):
    path = kinetics_list(tmp_path, "".join(f"{i}.mp4 0\n" for i in range(6)))
    touch(tmp_path, "0.mp4", "4.mp4")
    said = refusal(kinetics_split, path)
    first = ", ".join(f"{tmp_path}/{i}.mp4" for i in (1, 2, 3))
    assert said.startswith(
        f"4 of the 6 videos of {path} do not exist: {first}, ...; the paths were taken to start"
    )
    assert len(kinetics_split(path, check_files=False).samples) == 6


def test_a_missing_list_names_those_that_are_there(tmp_path):
    kinetics_list(tmp_path, "a 0")
    said = refusal(kinetics_split, tmp_path / "training.csv")
    assert said == f"no file {tmp_path}/training.csv; in its folder there are train.csv"
    assert "no .csv file is in its folder" in refusal(kinetics_split, tmp_path / "none/train.csv")


def test_a_list_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "train.csv").write_bytes(b"a 0\n\xff\xfe")
    assert refusal(kinetics_split, tmp_path / "train.csv").endswith("is no UTF-8 text: byte 4 is 0xff")


# --- Something-Something V2 -------------------------------------------------------------------------------

TEMPLATES = {"Holding something": "1", "Moving something left": "0", "Putting something on something": "2"}
ENTRIES = [
    {"id": "74225", "label": "holding a cup", "template": "Holding [something]", "placeholders": ["a cup"]},
    {"id": "9", "template": "Putting [something] on [something]"},
]


def ssv2_lists(root: Path, entries=ENTRIES, labels=TEMPLATES, name: str = "train") -> Path:
    for kind, content in (("labels", labels), (name, entries)):
        text = content if isinstance(content, str) else json.dumps(content)
        (root / f"something-something-v2-{kind}.json").write_text(text)
    return root


@pytest.mark.parametrize("layout", ["{}.webm", "{}.mp4", "videos/{}.webm", "videos/{}.mp4"])
def test_ssv2_labels_come_from_the_template_without_brackets(tmp_path, layout):
    touch(ssv2_lists(tmp_path), layout.format(74225), layout.format(9))
    split = ssv2_split(tmp_path, "train")
    assert split.samples == (
        VideoSample(str(tmp_path / layout.format(74225)), 1),
        VideoSample(str(tmp_path / layout.format(9)), 2),
    )
    assert split.class_names == (
        "Moving something left",
        "Holding something",
        "Putting something on something",
    )


def test_ssv2_val_is_called_validation_and_videos_may_lie_elsewhere(tmp_path):
    ssv2_lists(tmp_path, name="validation")
    touch(tmp_path, "far/v_74225.avi", "far/v_9.avi")
    split = ssv2_split(tmp_path, "val", path_prefix=tmp_path / "far", pattern="v_{id}.avi")
    assert [sample.path for sample in split.samples] == [f"{tmp_path}/far/v_{i}.avi" for i in (74225, 9)]


def test_ssv2_videos_that_are_missing_are_counted(tmp_path):
    touch(ssv2_lists(tmp_path), "videos/9.mp4")
    said = refusal(ssv2_split, tmp_path, "train")
    assert said.startswith("1 of the 2 videos of ") and f"{tmp_path}/videos/74225.mp4; " in said
    assert "videos/{id}.mp4" in said


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"entries": [{"id": "7", "template": "Holdin [something]"}]}, "Nearest: 'Holding something'"),
        ({"entries": [{"id": "7"}]}, "entry 0 (id 7) has no template; the official test list has no labels"),
        ({"entries": [ENTRIES[1], 3]}, "entry 1 is 3, but must have an id and a template"),
        (
            {"entries": [ENTRIES[0], ENTRIES[1], ENTRIES[0]]},
            "entry 2 (id 74225) is there twice, first as entry 0",
        ),
        ({"entries": []}, "is an empty list"),
        ({"entries": {"a": 1}}, "holds {'a': 1}, but must hold a list of objects"),
        ({"entries": "[\n{,\n]"}, "train.json:2 is no valid JSON"),
        ({"labels": {"Holding something": "one"}}, "labels.json: every label must be a whole number"),
        ({"labels": {"Holding something": "1"}}, "labels.json has 1 templates, whose labels must be 0 to 0"),
        (
            {"labels": {"a": "0", "b": "0"}},
            "labels.json has 2 templates, whose labels must be 0 to 1, each once",
        ),
        ({"name": "validation"}, "no file {root}/something-something-v2-train.json; in its folder there are"),
    ],
)
def test_ssv2_files_that_are_wrong_are_named(tmp_path, changes, said):
    ssv2_lists(tmp_path, **changes)
    assert said.replace("{root}", str(tmp_path)) in refusal(ssv2_split, tmp_path, "train")


@pytest.mark.parametrize("pattern", ["a.webm", "{name}.webm", "{id", "{}.webm"])
def test_an_ssv2_pattern_needs_the_id(tmp_path, pattern):
    assert repr(pattern) in refusal(ssv2_split, ssv2_lists(tmp_path), "train", pattern=pattern)


def test_ssv2_has_no_other_splits(tmp_path):
    assert "no split named 'training'" in refusal(ssv2_split, tmp_path, "training")


def test_the_demo_says_the_same_in_all_three_forms(tmp_path):
    generate_demo(tmp_path, num_train=2, num_val=2, num_test=1)
    for split in ("train", "val", "test"):
        demo, kinetics = demo_split(tmp_path, split), kinetics_split(tmp_path / f"{split}.csv")
        labels = [(sample.path, sample.label) for sample in demo.samples]
        assert labels == [(sample.path, sample.label) for sample in kinetics.samples]
        assert labels == [(sample.path, sample.label) for sample in ssv2_split(tmp_path, split).samples]
        assert demo.class_names == kinetics.class_names
