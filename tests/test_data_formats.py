"""Lists in the forms that test_lists.py and test_class_folders.py leave out: frames, images, actions."""

import json
from pathlib import Path

import pytest

from revit_video.build.lists import build_split
from revit_video.config import load_config
from revit_video.data.class_folders import class_folder_split
from revit_video.data.epic_kitchens import epic_split
from revit_video.data.kinetics import kinetics_split
from revit_video.data.ssv2 import ssv2_split
from revit_video.types import InputError, VideoSample


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def refusal(function, *args, **kwargs) -> str:
    with pytest.raises(InputError) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- Kinetics ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [";", "|", " , ", "::"])
def test_any_text_can_separate_a_path_from_its_label(tmp_path, separator):
    (tmp_path / "train.csv").write_text(f"a b.mp4{separator}1\nc,d.mp4{separator}0\n")
    split = kinetics_split(tmp_path / "train.csv", separator=separator, check_files=False)
    assert [(Path(s.path).name, s.label) for s in split.samples] == [("a b.mp4", 1), ("c,d.mp4", 0)]
    said = refusal(kinetics_split, tmp_path / "train.csv", separator="#", check_files=False)
    assert said.startswith(f"{tmp_path}/train.csv:1: expected a path, a '#' and a label, got ")


@pytest.mark.parametrize("header", ["path,label", "Video,Class", "filename, class_id", "video_path,target"])
def test_a_header_is_passed_over(tmp_path, header):
    (tmp_path / "train.csv").write_text(f"{header}\na.mp4,0\n")
    assert len(kinetics_split(tmp_path / "train.csv", check_files=False).samples) == 1


def test_the_published_list_of_kinetics_is_recognised(tmp_path):
    text = "label,youtube_id,time_start,time_end,split,is_cc\nabseiling,abc,1,11,train,0\n"
    (tmp_path / "train.csv").write_text(text)
    assert "the list of Kinetics as published, which names no files" in refusal(
        kinetics_split, tmp_path / "train.csv"
    )


def test_class_names_can_be_a_table_in_json(tmp_path):
    touch(tmp_path, "a.mp4")
    (tmp_path / "train.csv").write_text("a.mp4 0\n")
    names = tmp_path / "names.json"
    names.write_text(json.dumps({"zumba": 1, "abseiling": "0"}))
    options = ["data.dataset=kinetics", f"data.root={tmp_path}", f"data.class_names={names}"]
    assert build_split(load_config(None, options), "train").class_names == ("abseiling", "zumba")
    names.write_text(json.dumps({"zumba": 2, "abseiling": 0}))
    assert "their labels must be 0 to 1, each once" in refusal(
        kinetics_split, tmp_path / "train.csv", class_names_file=names
    )


def test_many_missing_files_of_a_folder_are_found_by_listing_it(tmp_path):
    names = [f"v/{i}.mp4" for i in range(40)]
    touch(tmp_path, *names[:38])
    (tmp_path / "train.csv").write_text("".join(f"{name} 0\n" for name in names))
    said = refusal(kinetics_split, tmp_path / "train.csv")
    assert (
        said.startswith("2 of the 40 videos") and f"exist: {tmp_path}/v/38.mp4, {tmp_path}/v/39.mp4;" in said
    )


# --- Something-Something ----------------------------------------------------------------------------------


PREFIX = "something-something-v2-"
FRAMES = """original_vido_id video_id frame_id path labels
7 0 0 7/7_000001.jpg ""
7 0 1 7/7_000002.jpg ""
7 0 2 7/7_000003.jpg "0"
9 1 0 "no 9/9_000001.jpg" ""
9 1 1 "no 9/9_000002.jpg" ""
"""


def ssv2_lists(root: Path, frames: str | None, ids=("9", "7")) -> Path:
    (root / f"{PREFIX}labels.json").write_text(json.dumps({"Holding something": "0", "Moving up": "1"}))
    entries = [
        {"id": name, "template": "Moving up" if name == "7" else "Holding [something]"} for name in ids
    ]
    (root / f"{PREFIX}train.json").write_text(json.dumps(entries))
    if frames is not None:
        (root / "train.csv").write_text(frames)
    return root


@pytest.mark.parametrize("tabs", [False, True])
def test_a_frame_list_says_where_the_frames_of_a_video_are(tmp_path, tabs):
    text = FRAMES.replace(" ", "\t").replace("no\t9", "no 9") if tabs else FRAMES
    ssv2_lists(tmp_path, text)
    touch(tmp_path / "frames", "7/7_000001.jpg", "no 9/9_000001.jpg")
    split = ssv2_split(tmp_path, "train", path_prefix=tmp_path / "frames")
    assert split.samples == (
        VideoSample(f"{tmp_path}/frames/no 9", 0, end=2),
        VideoSample(f"{tmp_path}/frames/7", 1, end=3),
    )
    assert "2 of the 2 videos" in refusal(ssv2_split, tmp_path, "train")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            ("7_000002", "7_000004"),
            "train.csv:4: 7_000003.jpg comes after 7_000004.jpg; expected the frames of 7",
        ),
        (("7/7_000003", "8/7_000003"), "train.csv:4: the frames of 7 lie in 7 and in 8; expected one"),
        (('7/7_000003.jpg "0"', "7/7_000003.jpg"), "train.csv:4: expected 5 fields"),
        (("9 1 1", "8 1 1"), "train.json lacks 1 of the videos of {root}/train.csv: 8"),
        (("path labels", "path"), "train.csv:1: the columns are "),
    ],
)
def test_a_wrong_frame_list_is_named(tmp_path, change, said):
    ssv2_lists(tmp_path, FRAMES.replace(*change))
    assert said.replace("{root}", str(tmp_path)) in refusal(ssv2_split, tmp_path, "train", check_files=False)


def test_a_frame_list_must_have_the_videos_of_the_json_list(tmp_path):
    ssv2_lists(tmp_path, FRAMES, ids=("7", "9", "11"))
    said = refusal(ssv2_split, tmp_path, "train", check_files=False)
    assert said == f"{tmp_path}/train.csv lacks 1 of the videos of {tmp_path}/{PREFIX}train.json: 11"


def test_folders_of_frames_are_found_without_a_frame_list(tmp_path):
    ssv2_lists(tmp_path, None)
    touch(tmp_path, "frames/7/1.jpg", "frames/9/1.jpg")
    assert [s.path for s in ssv2_split(tmp_path, "train").samples] == [
        f"{tmp_path}/frames/9",
        f"{tmp_path}/frames/7",
    ]


# --- class folders ----------------------------------------------------------------------------------------


def test_class_folders_can_hold_images(tmp_path):
    touch(
        tmp_path,
        "train/n02/b.JPEG",
        "train/n01/a.png",
        "train/n01/notes.txt",
        "val/n01/c.jpg",
        "val/n02/d.jpg",
    )
    split = class_folder_split(tmp_path, "train", kind="images")
    assert [(Path(s.path).name, s.label) for s in split.samples] == [("a.png", 0), ("b.JPEG", 1)]
    assert split.class_names == ("n01", "n02")
    assert "holds no videos" in refusal(class_folder_split, tmp_path, "train")


@pytest.mark.parametrize("parent", ["", "train/"])
def test_class_folders_can_hold_folders_of_frames(tmp_path, parent):
    for name in ("hug", "kick"):
        touch(tmp_path, *(f"{parent}{name}/{name}{i}/000{j}.jpg" for i in range(3) for j in range(2)))
    split = class_folder_split(tmp_path, "train", kind="frames", shares=(1, 0, 0))
    names = [(Path(s.path).name, s.label) for s in split.samples]
    assert names == [("hug0", 0), ("hug1", 0), ("hug2", 0), ("kick0", 1), ("kick1", 1), ("kick2", 1)]


def test_images_among_videos_lead_to_the_other_form(tmp_path):
    touch(tmp_path, "hug/a.jpg")
    said = refusal(class_folder_split, tmp_path, "train")
    assert said.endswith("for images give data.dataset=image_folders")


def test_the_settings_choose_the_kind_of_folders(tmp_path):
    touch(tmp_path, "train/hug/1/a.jpg", "train/kick/2/a.jpg")
    for dataset, found in (("frame_folders", 2), ("image_folders", 0), ("class_folders", 0)):
        config = load_config(None, [f"data.root={tmp_path}", f"data.dataset={dataset}"])
        if found:
            assert len(build_split(config, "train").samples) == found
        else:
            refusal(build_split, config, "train")


# --- EPIC-KITCHENS ----------------------------------------------------------------------------------------


HEADER = "narration_id,participant_id,video_id,start_frame,stop_frame,verb,verb_class,noun,noun_class"


def epic_lists(root: Path, *rows: str) -> Path:
    (root / "EPIC_100_verb_classes.csv").write_text("id,key,instances\n1,put,['put']\n0,take,['take']\n")
    (root / "EPIC_100_noun_classes.csv").write_text("id,key\n0,tap\n1,plate\n2,bowl\n")
    rows = rows or (
        "P01_01_0,P01,P01_01,9,202,put,1,plate,1",
        "x,P01,P02_03,1,4,take,0,bowl,2",
    )
    (root / "EPIC_100_train.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    return root


def test_actions_are_parts_of_long_videos_with_a_verb_and_a_noun(tmp_path):
    epic_lists(tmp_path)
    touch(tmp_path, "v/P01/rgb_frames/P01_01/f.jpg", "v/P01/rgb_frames/P02_03/f.jpg")
    both = epic_split(tmp_path, "train", path_prefix=tmp_path / "v")
    assert both.class_names == ("take", "put", "tap", "plate", "bowl") and both.heads == (2, 3)
    assert both.samples == (
        VideoSample(f"{tmp_path}/v/P01/rgb_frames/P01_01", 1 * 3 + 1, begin=8, end=202),
        VideoSample(f"{tmp_path}/v/P01/rgb_frames/P02_03", 0 * 3 + 2, begin=0, end=4),
    )
    for target, names, labels in (
        ("verb", ("take", "put"), [1, 0]),
        ("noun", ("tap", "plate", "bowl"), [1, 2]),
    ):
        options = ["data.dataset=epic_kitchens", f"data.root={tmp_path}", f"data.target={target}"]
        split = build_split(load_config(None, [*options, f"data.path_prefix={tmp_path}/v"]), "train")
        assert split.class_names == names and [s.label for s in split.samples] == labels
    said = refusal(load_config, None, ["data.dataset=epic_kitchens", "data.root=x"])
    assert said == "data.target is '', but must be one of verb, noun, both"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("a,P01,P01_01,9,8,put,1,plate,1", ":2: the action runs from frame 9 to 8; frames begin with 1"),
        ("a,P01,P01_01,0,8,put,1,plate,1", "runs from frame 0 to 8"),
        ("a,P01,P01_01,1,8,put,2,plate,1", ":2: verb_class is 2, but there are 2 verbs"),
        ("a,P01,P01_01,1,8,put,1,plate,3", ":2: noun_class is 3, but there are 3 nouns"),
        ("a,P01,P01_01,1,x,put,1,plate,1", ":2: stop_frame is 'x', but must be a whole number"),
    ],
)
def test_a_wrong_action_is_named(tmp_path, row, said):
    assert said in refusal(epic_split, epic_lists(tmp_path, row), "train", check_files=False)


def test_a_pickled_list_is_never_read(tmp_path):
    epic_lists(tmp_path)
    (tmp_path / "EPIC_100_train.csv").rename(tmp_path / "EPIC_100_train.pkl")
    said = refusal(epic_split, tmp_path, "train")
    assert "EPIC_100_train.pkl beside it is a pickle, which is never read" in said
