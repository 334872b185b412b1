"""The one data set class and its list: parts of videos, frame rates; broken videos change no score."""

import os
import pickle
import random
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from make_video import frame_numbers, make_video, numbered_frames
from PIL import Image

from revit_video.build.passes import (
    eval_job,
    file_dataset,
    pick_test_views,
    pick_train_view,
    train_dataset,
)
from revit_video.config import load_config
from revit_video.data.class_folders import class_folder_split
from revit_video.data.dataset import VideoDataset
from revit_video.data.loader import eval_batches
from revit_video.data.sample_list import SampleList
from revit_video.data.ssv2 import ssv2_split
from revit_video.decode import DecodeError
from revit_video.evaluate.metrics import average_views, hits, percent
from revit_video.evaluate.run import score_views
from revit_video.sample import FramePicker
from revit_video.transform import EvalTransform
from revit_video.types import VideoSample, View

SAMPLES = [
    VideoSample("/a/b c.mp4", 3),
    VideoSample("", 0, "easy"),
    VideoSample("/ä/漢字.webm", 399, "hard", begin=7, end=9),
    VideoSample(os.fsdecode(b"/bytes/\xff.avi"), 2**40, "easy"),
]


def test_a_sample_list_is_the_list_it_was_made_of():
    made = SampleList(SAMPLES)
    assert list(made) == SAMPLES and len(made) == 4 and [made[i] for i in range(-4, 4)] == 2 * SAMPLES
    assert made[1:3] == SAMPLES[1:3] and made[::-1] == SAMPLES[::-1] and SAMPLES[2] in made
    assert made[np.int64(2)] == SAMPLES[2]
    assert list(pickle.loads(pickle.dumps(made))) == SAMPLES
    assert list(SampleList(iter(SAMPLES))) == list(SampleList(made)) == SAMPLES
    assert list(SampleList([])) == [] and random.Random(0).sample(made, 4) != SAMPLES
    for index in (4, -5):
        with pytest.raises(IndexError):
            made[index]


def test_a_sample_list_holds_no_object_per_sample():
    made = SampleList([VideoSample(f"/data/{i}.mp4", i) for i in range(1000)])
    assert all(isinstance(value, np.ndarray) for value in vars(made).values())
    assert not any(value.dtype.hasobject for value in vars(made).values())


def dataset(samples, picker, *, clips=1, crops=1, **options):
    pick = partial(pick_test_views, picker=picker, clips=clips, crops=crops, one_crop="centre")
    return VideoDataset(samples, pick_views=pick, transform=EvalTransform(32), **options)


def numbers(item) -> list[int]:
    return frame_numbers(item.clips[0].permute(0, 2, 3, 1).numpy())


@pytest.fixture
def video(tmp_path) -> str:
    return make_video(tmp_path / "a.mp4", 100, fps=24, size=(32, 32))


@pytest.mark.parametrize("cache", [False, True])
def test_a_part_of_a_video_is_a_video_of_its_own(video, cache):
    whole, part = VideoSample(video, 0), VideoSample(video, 0, begin=40, end=50)
    items = dataset([whole, part], FramePicker(4, 2), cache=cache)
    assert numbers(items[(0, 0)]) == [46, 48, 50, 52]
    assert numbers(items[(0, 1)]) == [41, 43, 45, 47]


@pytest.mark.parametrize("cache", [False, True])
def test_the_official_rule_gets_the_frame_rate_of_the_video(video, cache):
    items = dataset([VideoSample(video, 0)], FramePicker(4, 8, rule="slowfast"), cache=cache)
    assert numbers(items[(0, 0)]) == [0, 8, 16, 24]  # at 24 fps; at 30 it would be 0 10 20 31


def test_training_clips_follow_the_rule_of_the_picker(video):
    for rule, steps in (("centred", {8}), ("slowfast", {11, 12})):  # 24 / 22 * 32 frames, 11.3 apart
        pick = partial(pick_train_view, picker=FramePicker(4, 8, rule=rule, target_fps=22))
        items = VideoDataset([VideoSample(video, 0)], pick_views=pick, transform=EvalTransform(32))
        drawn = [numbers(items[(epoch, 0)]) for epoch in range(6)]
        assert len({clip[0] for clip in drawn}) > 3
        assert {b - a for clip in drawn for a, b in pairwise(clip)} == steps


def test_the_settings_reach_the_views():
    options = ["data.root=x", "data.sampling_rule=slowfast", "test.one_crop=first"]
    options += ["test.num_ensemble_views=2", "test.num_spatial_crops=1", "data.sampling_rate=8"]
    config = load_config(None, [*options, "data.num_frames=4", "data.target_fps=24"])
    views = file_dataset(config).pick_views(100, random.Random(0), 24.0)
    assert [(view.frames, view.crop) for view in views] == [((0, 10, 20, 31), 0), ((34, 44, 54, 65), 0)]
    drawn = train_dataset(config, []).pick_views(32, random.Random(0), 24.0)
    assert drawn == [View((0, 10, 20, 31), 0, 1)]  # one place only
    assert train_dataset(config, []).transform.rule == "slowfast"
    centred = eval_job(load_config(None, ["data.root=x", "test.one_crop=first"]), [], None).dataset
    assert centred.pick_views(300, random.Random(0), 24.0)[0].crop == 1  # labels look at the centre


@pytest.mark.parametrize(("end", "readable"), [(103, True), (104, False), (240, False)])
def test_a_part_may_reach_past_the_end_by_a_little(video, end, readable):
    sample = VideoSample(video, 0, begin=90, end=end)
    item = dataset([sample], FramePicker(2, 9))[(0, 0)]
    if readable:
        assert numbers(item) == [90, 99]
    else:
        assert item.clips is None
        assert f"{video}: has 100 frames, the list asks for 90 to {end - 1}" in item.unreadable
    beyond = dataset([VideoSample(video, 0, begin=100, end=101)], FramePicker(2, 9))
    assert "has 100 frames, the list asks for 100 to 100" in beyond[(0, 0)].unreadable
    with pytest.raises(DecodeError):
        beyond.read(beyond.samples[0], random.Random(0))


def test_lists_of_frames_and_images_are_read_as_videos(tmp_path):
    """From the lists to the frames: folders of frames by class and by a frame list, and single images."""
    pictures = numbered_frames(12, (32, 32))
    for number, picture in enumerate(pictures, start=1):
        for folder in ("classes/hug/1", "ssv2/9", "images/hug"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(tmp_path / folder / f"{number}.png")  # 10 comes after 9
    (one,) = class_folder_split(tmp_path / "classes", "train", kind="frames", shares=(1, 0, 0)).samples
    assert numbers(dataset([one], FramePicker(4, 3))[(0, 0)]) == [1, 4, 7, 10]
    images = class_folder_split(tmp_path / "images", "train", kind="images", shares=(1, 0, 0)).samples
    shown = {images[i].path: numbers(dataset(images, FramePicker(2, 3))[(0, i)]) for i in range(12)}
    assert shown == {f"{tmp_path}/images/hug/{i + 1}.png": [i, i] for i in range(12)}
    rows = "".join(f'9 0 {i} 9/{i + 1}.png ""\n' for i in range(9))
    ssv2 = tmp_path / "ssv2"
    (ssv2 / "train.csv").write_text("original_vido_id video_id frame_id path labels\n" + rows)
    (ssv2 / "something-something-v2-labels.json").write_text('{"Holding": "0"}')
    (ssv2 / "something-something-v2-train.json").write_text('[{"id": "9", "template": "Holding"}]')
    official = FramePicker(3, sampling="segments", rule="slowfast")
    listed = dataset(ssv2_split(ssv2, "train").samples, official)  # 9 of the 12 frames are listed
    assert numbers(listed[(0, 0)]) == [1, 4, 6]  # bounds 0, 2.67, 5.33, 8


def scored(samples):
    """What `score_views` gives for a stand-in for a model, and its top-1 over the readable videos."""

    def predict(clips):  # (M, C, T, H, W) -> two scores per view, of its pixels
        scores = [clips.mean(dim=(1, 2, 3, 4)) / 64, clips[:, :, 0].std(dim=(1, 2, 3)) / 32]
        return {"logits": torch.stack(scores, dim=1)}

    seen = score_views(
        predict,
        eval_batches(dataset(samples, FramePicker(3, 4), clips=2, crops=3), videos_per_batch=2),
        to_clips=lambda clips: clips.float().transpose(1, 2),
        views_per_forward=5,
    )
    return seen, percent(hits(average_views(seen.values["logits"]), seen.labels))


@pytest.mark.parametrize("broken_places", [[], [0], [2, 3], [0, 4, 8]])
def test_broken_videos_change_no_score_of_the_others(tmp_path, broken_places):
    rng = np.random.default_rng(0)
    samples = []
    for place in range(9):
        frames = rng.integers(0, 30 + 25 * place, (14, 32, 48, 3)).astype(np.uint8)
        samples.append(VideoSample(make_video(tmp_path / f"{place}.mp4", frames), place % 2))
    for place in broken_places:
        (tmp_path / f"{place}.mp4").write_bytes((tmp_path / f"{place}.mp4").read_bytes()[: 40 * place])
    readable = [place for place in range(9) if place not in broken_places]
    all_of_them, top1 = scored(samples)
    without, top1_without = scored([samples[place] for place in readable])
    assert all_of_them.indices.tolist() == readable and sorted(all_of_them.unreadable) == broken_places
    assert torch.equal(all_of_them.values["logits"], without.values["logits"])
    assert top1 == top1_without and 0 < top1 < 100
