"""Folders of videos by class: which video falls into which split, and what is refused. No video is opened."""

from pathlib import Path

import pytest

from revit_video.build.lists import build_split
from revit_video.config import load_config
from revit_video.data.class_folders import class_folder_split
from revit_video.types import InputError, VideoSample

SPLITS = ("train", "val", "test")


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


def sessions(root: Path, classes=("hug", "kick"), count: int = 20) -> Path:
    """Videos called set<s>_<n>_<session>_<class>, two of each class per session."""
    for label, name in enumerate(classes):
        touch(root, *(f"{name}/set{n % 2}_{n}_{1 + n // 2}_{label}.avi" for n in range(2 * count)))
    return root


def test_split_folders_are_taken_as_they_are(tmp_path):
    touch(
        tmp_path,
        "train/run/b.mp4",
        "train/run/a.MP4",
        "train/jump/c.webm",
        "val/run/d.avi",
        "val/jump/notes.txt",
    )
    train, val = (class_folder_split(tmp_path, split) for split in ("train", "val"))
    assert train.class_names == val.class_names == ("jump", "run")
    names = [(Path(sample.path).name, sample.label) for sample in train.samples]
    assert names == [("c.webm", 0), ("a.MP4", 1), ("b.mp4", 1)]
    assert val.samples == (VideoSample(str(tmp_path / "val/run/d.avi"), 1),)
    assert refusal(class_folder_split, tmp_path, "test").endswith("it has train, val")


def test_a_class_must_have_a_folder_in_every_split_folder(tmp_path):
    touch(tmp_path, "train/run/a.mp4", "train/jump/b.mp4", "val/run/d.mp4")
    assert "has no folder for the class 'jump'" in refusal(class_folder_split, tmp_path, "val")
    (tmp_path / "val/jump").mkdir()
    assert len(class_folder_split(tmp_path, "val").class_names) == 2


@pytest.mark.parametrize("pattern", ["", r"_(\d+)_\d+$"])
def test_every_video_is_in_one_split_and_every_class_in_all(tmp_path, pattern):
    sessions(tmp_path)
    parts = {
        split: class_folder_split(tmp_path, split, shares=(0.7, 0.15, 0.15), group_pattern=pattern)
        for split in SPLITS
    }
    paths = [sample.path for part in parts.values() for sample in part.samples]
    assert sorted(paths) == sorted(str(path) for path in tmp_path.glob("*/*.avi"))
    for part, expected in zip(parts.values(), (28, 6, 6), strict=True):
        labels = [sample.label for sample in part.samples]
        assert labels.count(0) == labels.count(1) == expected


def test_videos_of_one_group_stay_together(tmp_path):
    sessions(tmp_path)
    groups = []
    for split in SPLITS:
        part = class_folder_split(tmp_path, split, shares=(0.7, 0.15, 0.15), group_pattern=r"_(\d+)_\d+$")
        groups.append({Path(sample.path).stem.split("_")[2] for sample in part.samples})
    assert [len(group) for group in groups] == [14, 3, 3] and len(set.union(*groups)) == 20


def test_the_rule_does_not_depend_on_the_place_of_the_folder(tmp_path):
    first, second = (sessions(tmp_path / name) for name in ("one", "two"))
    for split in SPLITS:
        one, two = (class_folder_split(root, split, shares=(0.5, 0.25, 0.25)) for root in (first, second))
        relative = [
            [Path(sample.path).relative_to(root) for sample in part.samples]
            for root, part in ((first, one), (second, two))
        ]
        assert relative[0] == relative[1]


def test_three_videos_of_a_class_are_enough_for_three_splits(tmp_path):
    touch(tmp_path, *(f"{name}/{name}{i}.mp4" for name in ("run", "jump") for i in range(3)))
    assert [len(class_folder_split(tmp_path, split).samples) for split in SPLITS] == [2, 2, 2]
    touch(tmp_path, "sit/a.mp4", "sit/b.mp4")
    said = refusal(class_folder_split, tmp_path, "train")
    assert f"no video of the class 'sit' of {tmp_path} falls into the split " in said


def test_a_share_of_zero_leaves_a_split_out(tmp_path):
    sessions(tmp_path)
    shares = (0.8, 0.0, 0.2)
    counts = [len(class_folder_split(tmp_path, split, shares=shares).samples) for split in ("train", "test")]
    assert counts == [64, 16]
    assert "the split val has the share 0" in refusal(class_folder_split, tmp_path, "val", shares=shares)


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"group_pattern": r"_(\d+)_x"}, "the group pattern '_(\\\\d+)_x' does not fit 'set0_0_1_0' of "),
        ({"group_pattern": r"_\d+"}, "has 0 (groups), but must have one"),
        ({"group_pattern": "("}, "is no regex"),
        ({"group_pattern": r"(set)"}, "of the class 'hug' of {root} falls into the split val"),
        ({"shares": (0.5, 0.2)}, "the split shares are [0.5, 0.2], but must be three"),
        ({"shares": (0.5, 0.2, 0.2)}, "with the sum 1"),
    ],
)
def test_a_rule_that_cannot_work_is_refused(tmp_path, settings, said):
    assert said.replace("{root}", str(tmp_path)) in refusal(
        class_folder_split, sessions(tmp_path), "train", **settings
    )


def test_folders_without_videos_are_refused_and_other_files_counted(tmp_path):
    assert refusal(class_folder_split, tmp_path / "none", "train").startswith(
        f"no folder {tmp_path / 'none'}"
    )
    assert "holds no folders" in refusal(class_folder_split, tmp_path, "train")
    touch(sessions(tmp_path), "MANIFEST.csv", "hug/notes.txt", ".git/x/y")
    assert len(class_folder_split(tmp_path, "train").samples) == 64
    assert "so the splits are train, val, test, not 'training'" in refusal(
        class_folder_split, tmp_path, "training"
    )
    touch(tmp_path, "empty/1.jpg", "empty/2.jpg", "empty/x.txt", "empty/.hidden.mp4")
    said = refusal(class_folder_split, tmp_path, "train")
    assert said.startswith(
        f"the class folder {tmp_path}/empty holds no videos (files: 2 with .jpg, 1 with .txt)"
    )


@pytest.mark.parametrize("parts", [3, 10, 20])
def test_every_group_is_left_out_once_over_the_folds(tmp_path, parts):
    sessions(tmp_path)
    rule, tested = {"group_pattern": r"_(\d+)_\d+$"}, []
    for number in range(parts):
        lists = {
            split: class_folder_split(tmp_path, split, fold=(number, parts), **rule).samples
            for split in SPLITS
        }
        groups = {
            split: {Path(sample.path).stem.split("_")[2] for sample in samples}
            for split, samples in lists.items()
        }
        assert not groups["test"] & groups["val"] and not groups["train"] & (groups["test"] | groups["val"])
        assert sum(map(len, lists.values())) == 80
        assert len(groups["test"]) in (20 // parts, 20 // parts + 1)
        following = class_folder_split(tmp_path, "test", fold=((number + 1) % parts, parts), **rule)
        assert lists["val"] == following.samples
        tested += [sample.path for sample in lists["test"]]
    assert sorted(tested) == sorted(str(path) for path in tmp_path.glob("*/*.avi"))


def test_more_folds_than_groups_and_folds_of_split_folders_are_refused(tmp_path):
    sessions(tmp_path / "a")
    said = refusal(class_folder_split, tmp_path / "a", "test", group_pattern=r"_(\d+)_\d+$", fold=(0, 21))
    assert "data.test_fold=0/21 wants 21 parts of 20 groups of videos; give at most 20" in said
    touch(tmp_path / "b", "train/run/a.mp4", "test/run/b.mp4")
    assert "has nothing to share out" in refusal(class_folder_split, tmp_path / "b", "test", fold=(0, 3))


@pytest.mark.parametrize(
    "given", ["data.test_fold=3/3", "data.test_fold=0/2", "data.leave_out=x", "data.leave_out=0/1"]
)
def test_a_fold_that_is_none_is_refused(given):
    key = given.partition("=")[0].replace(".", r"\.")
    with pytest.raises(InputError, match=f"{key} is .*, but must be k/K with 0 <= k < K and K at least"):
        load_config(None, ["data.dataset=class_folders", "data.root=x", given])


def test_a_fold_takes_the_place_of_the_shares(tmp_path):
    options = ["data.dataset=class_folders", f"data.root={sessions(tmp_path)}", "data.test_fold=1/4"]
    config = load_config(None, options)
    assert build_split(config, "test") == class_folder_split(tmp_path, "test", fold=(1, 4))
    with pytest.raises(InputError, match=r"data.split_shares is .* must be not given with data.test_fold"):
        load_config(None, [*options, "data.split_shares=[0.5,0.25,0.25]"])
