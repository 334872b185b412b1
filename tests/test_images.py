"""Images as clips of one frame: the same numbers by every way, label maps through a training, predictions."""

import json
import random
import shutil

import numpy as np
import pytest
import torch
from image_fixtures import CLASSES, COUNTS, MAP_SHAPE, picture, train_images
from make_video import make_video
from PIL import Image
from small_run import run_tool

from revit_video.build.passes import eval_job, train_dataset, view_settings
from revit_video.config import load_config
from revit_video.data.class_folders import class_folder_split
from revit_video.data.dataset import collate
from revit_video.data.label_maps import LabelMaps
from revit_video.recognizer import Recognizer
from revit_video.stages import revit as revit_stage
from revit_video.stages.job import RunFolder
from revit_video.train.checkpoint import load_checkpoint
from revit_video.train.progress import ProgressFolder
from revit_video.train.revit import revit_step
from revit_video.train.team import only_rows
from revit_video.types import VideoSample

pytest_plugins = ["image_fixtures", "run_fixtures"]


@pytest.fixture(scope="module")
def recognizer(image_run) -> Recognizer:
    return Recognizer.load(image_run / "recognizer.pt", device="cpu", dtype="float32")


@pytest.fixture
def ways(tmp_path) -> list[str]:
    """One picture as a file, as a folder of one frame, and as a lossless video of one frame."""
    shown = np.asarray(picture(CLASSES["red"], np.random.default_rng(3)).resize((48, 36)))
    (tmp_path / "frames").mkdir()
    for path in (tmp_path / "a.png", tmp_path / "frames/img_00001.png"):
        Image.fromarray(shown).save(path)
    video = make_video(tmp_path / "a.mov", shown[None], codec="png", pix_fmt="rgb24")
    return [str(tmp_path / "a.png"), str(tmp_path / "frames"), video]


def test_a_picture_and_a_video_of_that_one_frame_have_the_same_logits_bit_for_bit(recognizer, ways):
    config = recognizer.config
    job = eval_job(config, [VideoSample(path, 0) for path in ways], None, **view_settings(config))
    clips = [job.dataset[0, index].clips for index in range(3)]
    model = recognizer.backbone
    for level in range(model.num_levels):
        with torch.inference_mode():
            first, *others = (model(recognizer.run.to_clips(one), level) for one in clips)
        assert first.shape == (1, len(CLASSES)) and all(torch.equal(first, other) for other in others)
    told = [recognizer.predict(path) for path in ways]
    assert told[0].probabilities == told[1].probabilities == told[2].probabilities


def test_a_picture_and_a_video_of_that_one_frame_are_trained_on_alike(recognizer, ways):
    dataset = train_dataset(recognizer.config, [VideoSample(path, 1) for path in ways])
    for rng in range(3):
        one, two, three = (dataset.read(sample, random.Random(rng))[0] for sample in dataset.samples)
        assert torch.equal(one, two)
        # A picture is made larger or smaller by Pillow, a video's frame by FFmpeg: they round differently.
        assert (one.int() - three.int()).abs().max() <= 4


# --- label maps through data set and training ---------------------------------------------------------------


def sets_of(image_run, image_data):
    """The training set of the run, with label maps and without."""
    config = load_config(image_run / "config.yaml", [])
    split = class_folder_split(image_data, "train", kind="images")
    maps = LabelMaps(image_data.parent / "maps", split.samples, num_classes=3)
    return [train_dataset(config, split.samples, label_maps=one) for one in (maps, None)]


def test_an_item_brings_its_map_and_the_place_of_its_clip_by_seed_epoch_and_index(image_run, image_data):
    mapped, plain = sets_of(image_run, image_data)
    for key in ((0, 0), (0, 20), (3, 20)):
        item, again, bare = mapped[key], mapped[key], plain[key]
        assert torch.equal(item.clips, bare.clips) and item.clip_labels == bare.clip_labels
        assert torch.equal(item.places, again.places) and bare.label_map is None
        name = list(CLASSES)[item.label]
        saved = torch.load(image_data.parent / f"maps/{name}/{name}_{sorted_number(key[1])}.pt")
        assert torch.equal(item.label_map, saved.float()) and item.places.shape == (1, 2, 3)
    assert not torch.equal(mapped[0, 20].places, mapped[3, 20].places)


def sorted_number(index: int) -> str:
    """The number in the name of the image at this place of the list."""
    return sorted(str(number) for number in range(COUNTS["train"]))[index % COUNTS["train"]]


def test_maps_stay_with_their_clips_where_others_are_missing(image_run, image_data, tmp_path):
    mapped, plain = sets_of(image_run, image_data)
    broken = tmp_path / "green/broken.png"
    broken.parent.mkdir()
    broken.write_bytes(b"no picture")
    items = [mapped[0, 0], plain_broken(mapped, broken), mapped[0, 2], mapped[0, 30]]
    batch = collate(items)
    assert batch.rows.tolist() == [0, 2, 3] and batch.label_maps.shape == (3, *MAP_SHAPE)
    assert torch.equal(batch.label_maps[2], items[3].label_map)
    fewer = only_rows(batch, {0, 3})
    assert torch.equal(fewer.label_maps[1], items[3].label_map)
    assert torch.equal(fewer.places, torch.stack([items[0].places, items[3].places]))
    without = only_rows(collate([plain[0, 0], plain[0, 1]]), {1})
    assert without.label_maps is None and len(without.clips) == 1


def plain_broken(dataset, path):
    """The item of a file that is no picture."""
    listed = type(dataset)(
        [VideoSample(str(path), 1)],
        pick_views=dataset.pick_views,
        transform=dataset.transform,
        label_maps=dataset.label_maps,
    )
    return listed[0, 0]


def test_a_killed_training_with_maps_and_mixed_tokens_goes_on_to_the_same_weights(
    image_data, tmp_path, monkeypatch
):
    options = ["stage=revit", "solver.max_steps=4", "solver.checkpoint_period=2", "solver.log_period=1"]
    assert train_images("revit_lvvit_s_224", image_data, tmp_path / "whole", *options) == 0
    seen = []

    def interrupted(*args, **kwargs):
        seen.append(kwargs["patches"])
        if len(seen) == 4:
            raise KeyboardInterrupt
        return revit_step(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(revit_stage, "revit_step", interrupted)
        assert train_images("revit_lvvit_s_224", image_data, tmp_path / "killed", *options) == 130
    assert all(task.weight == 0.5 and task.labels.maps.shape == (6, *MAP_SHAPE) for task in seen)
    assert len({task.box for task in seen}) == 4
    folder = RunFolder(tmp_path / "killed")
    assert list(ProgressFolder(folder.progress).files()) == [2]
    assert train_images("revit_lvvit_s_224", image_data, folder.path, *options, "resume=true") == 0
    ours, theirs = (
        load_checkpoint(RunFolder(path).revit)["model"] for path in (folder.path, tmp_path / "whole")
    )
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_maps_without_a_head_that_reads_them_and_clips_alone_in_a_pass_are_refused(
    image_data, tmp_path, refusal
):
    maps, out = f"data.label_maps={image_data.parent / 'maps'}", tmp_path / "run"
    mixes = ["augment.mixup=0", "augment.cutmix=0"]
    code = train_images("revit_deit_s_224", image_data, out / "0", maps, *mixes)
    assert "deit_small has no head that reads them; take an lvvit model" in refusal(code)
    code = train_images("revit_lvvit_s_224", image_data, out / "1", "solver.micro_batch_size=1")
    assert "solver.micro_batch_size=1 leaves each alone" in refusal(code)
    code = train_images(
        "revit_lvvit_s_224", image_data, out / "2", "data.label_maps=", "revit.true_class=true"
    )
    assert "revit.true_class is true, but" in refusal(code)
    code = train_images("revit_lvvit_s_224", image_data, out / "3", "data.label_maps=nowhere")
    assert "no folder nowhere of label maps" in refusal(code)
    assert not list(out.rglob("*.pt"))


# --- predictions --------------------------------------------------------------------------------------------


def test_predict_takes_pictures_and_folders_of_them_one_by_one(image_run, image_data, tmp_path, capfd):
    folder = shutil.copytree(image_data / "test", tmp_path / "mine")
    (folder / "red/notes.txt").write_text("no picture")
    single = next((image_data / "val/blue").iterdir())
    arguments = ("--checkpoint", image_run / "recognizer.pt", "--json", "--top", 1, "--dtype", "float32")
    assert run_tool("predict.py", folder, single, *arguments) == 0
    rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    files = [str(path) for path in sorted(folder.rglob("*.png"))] + [str(single)]
    assert [row["path"] for row in rows] == files and len(files) == 3 * COUNTS["test"] + 1
    recognizer = Recognizer.load(image_run / "recognizer.pt", device="cpu", dtype="float32")
    for row in rows[::5]:
        told = recognizer.predict(row["path"], top=1)
        assert row["class_names"] == list(told.class_names) and row["token_lengths"][0] in (8, 4, 2)
        assert row["probabilities"] == pytest.approx(told.probabilities, rel=1e-3)


def test_predict_names_a_picture_that_it_cannot_read_and_a_folder_without_any(image_run, tmp_path, capfd):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 cut off")
    (tmp_path / "empty").mkdir()
    arguments = ("--checkpoint", image_run / "recognizer.pt", "--length", 4)
    assert run_tool("predict.py", tmp_path / "broken.jpg", tmp_path / "empty", *arguments) == 2
    out, err = capfd.readouterr()
    assert err.count("error: ") == 2 and "broken.jpg" in err and "a folder without pictures" in err
    assert out.count("not readable") == 2


def test_a_run_of_all_stages_reports_every_length_on_pictures(image_run):
    report = json.loads((image_run / "report.json").read_text())
    assert [row["length"] for row in report["per_length"]] == [8, 4, 2]
    assert len(json.loads((image_run / "labels.json").read_text())["correct"]) == 3 * COUNTS["train"]
