"""The augmentation's settings: presets, what wins over what, what is refused, and what is built from them."""

import pickle
import random

import pytest
import torch
from make_video import make_video

from revit_video.build.passes import augmentation, build_mix, train_dataset
from revit_video.config import load_config, save_config
from revit_video.settings.augment import OFF, PRESETS
from revit_video.transform import ColorJitter, Mix, RandAugment, RandomErasing
from revit_video.types import InputError, VideoSample

DATASETS = {
    "kinetics": ["data.dataset=kinetics"],
    "ssv2": ["data.dataset=ssv2", "data.flip=false"],
    "epic_kitchens": ["data.dataset=epic_kitchens", "data.target=verb"],
    "image_folders": ["data.dataset=image_folders"],
    "packed": ["data.dataset=packed"],
}
FOURTHS = [0.4, 0.4, 0.4, 0.0]
RAND_20 = {"rand_ops": 2, "rand_magnitude": 20.0, "rand_std": 0.5, "rand_prob": 0.5}
DEIT = {"resized_crop": [0.08, 1.0], "resized_aspect": [3 / 4, 4 / 3], "rand_ops": 2, "rand_magnitude": 9.0}
DEIT |= {"rand_std": 0.5, "rand_prob": 0.5, "erase_prob": 0.25, "erase_share": [0.02, 1 / 3], "repeats": 3}
DEIT |= {"mixup": 0.8, "cutmix": 1.0, "mix_prob": 1.0, "switch_prob": 0.5}


def config(*overrides: str, dataset: str = "kinetics"):
    return load_config(None, ["data.root=x", *DATASETS[dataset], *overrides])


def values(*overrides: str, dataset: str = "kinetics") -> dict:
    """All settings but the preset, as they are used."""
    found = augmentation(config(*overrides, dataset=dataset))
    return {name: getattr(found, name) for name in OFF}


def refusal(*overrides: str, dataset: str = "kinetics") -> str:
    with pytest.raises(InputError) as caught:
        config(*overrides, dataset=dataset)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("preset", "dataset", "changes"),
    [
        ("", "kinetics", {}),
        ("", "ssv2", {}),
        ("timesformer", "kinetics", {"jitter": "uniform"}),
        ("timesformer", "ssv2", {"jitter": "inverse_uniform"}),
        ("motionformer", "kinetics", {"jitter": "uniform", "color_jitter": FOURTHS, "color_prob": 0.8}),
        ("motionformer", "ssv2", {"jitter": "inverse_uniform", **RAND_20}),
        ("motionformer", "epic_kitchens", {"jitter": "uniform", **RAND_20}),
        ("motionformer", "image_folders", {"jitter": "uniform", "color_jitter": FOURTHS, "color_prob": 0.8}),
        ("motionformer_ssv2", "image_folders", {"jitter": "inverse_uniform", **RAND_20}),
        ("timesformer_kinetics", "ssv2", {"jitter": "uniform"}),
        ("deit", "image_folders", DEIT),
        ("deit", "ssv2", DEIT),
    ],
)
def test_a_preset_has_the_numbers_of_its_recipe_and_all_else_is_off(preset, dataset, changes):
    found = values(f"augment.preset={preset}", dataset=dataset)
    assert found == {**OFF, **changes}


def test_every_value_of_a_preset_is_a_setting_of_the_right_type():
    for said in PRESETS.values():
        assert {key: type(value) for key, value in said.items()} == {key: type(OFF[key]) for key in said}


def test_a_value_that_is_given_wins_and_one_that_is_not_is_the_presets(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "data: {root: x}\n"
        "augment: {preset: deit, mixup: 0, erase_prob: 0.1, repeats: null, resized_crop: []}\n"
    )
    found = augmentation(load_config(tmp_path / "a.yaml", ["augment.rand_ops=3"]))
    assert (found.mixup, found.erase_prob, found.resized_crop, found.rand_ops) == (0.0, 0.1, [], 3)
    assert (found.cutmix, found.repeats, found.rand_magnitude) == (1.0, 3, 9.0)


def test_a_saved_config_keeps_what_was_given_and_takes_another_preset(tmp_path):
    first = config("augment.preset=motionformer", "augment.grayscale=0.2")
    save_config(first, tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml") == first
    other = augmentation(load_config(tmp_path / "saved.yaml", ["augment.preset=deit"]))
    assert (other.grayscale, other.mixup, other.color_jitter) == (0.2, 0.8, [])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "augment.preset=deti",
            "augment.preset is 'deti', but must be one of timesformer, motionformer, timesform",
        ),
        ("augment.jitter=log", "augment.jitter is 'log', but must be one of whole, uniform, inverse_uniform"),
        ("augment.color_jitter=[0.4,0.4,0.4]", "augment.color_jitter is [0.4, 0.4, 0.4], but must be [] or"),
        ("augment.color_jitter=[0,0,0,0.6]", "augment.color_jitter is [0.0, 0.0, 0.0, 0.6], but must be"),
        ("augment.resized_crop=[0,1]", "augment.resized_crop is [0.0, 1.0], but must be [smallest, largest]"),
        ("augment.resized_crop=[0.5]", "augment.resized_crop is [0.5], but must be [smallest, largest]"),
        ("augment.erase_share=[]", "augment.erase_share is [], but must be [smallest, largest] share of"),
        ("augment.resized_aspect=[2,1]", "augment.resized_aspect is [2.0, 1.0], but must be [narrowest, wid"),
        ("augment.erase_prob=1.5", "augment.erase_prob is 1.5, but must be from 0 to 1"),
        ("augment.rand_ops=-1", "augment.rand_ops is -1, but must be at least 0"),
        ("augment.mixup=nan", "augment.mixup is nan, but must be at least 0"),
        ("augment.repeats=0", "augment.repeats is 0, but must be at least 1"),
        ("augment.mixup=abc", "augment.mixup: Value 'abc'"),
        (
            "augment.mixp=1",
            "unknown config key augment.mixp in the override 'augment.mixp=1'. Did you mean a",
        ),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(override, said):
    assert refusal(override).startswith(said)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["resized_crop=[0.1,1]", "jitter=inverse_uniform"],
            "augment.jitter is 'inverse_uniform', but augment.resized_crop=[0.1, 1.0] takes the place of",
        ),
        (["preset=deit", "jitter=uniform"], "augment.jitter is 'uniform', but augment.resized_crop=[0.08"),
        (["resized_aspect=[1,1]"], "augment.resized_aspect is [1.0, 1.0], but augment.resized_crop is off"),
        (["color_prob=0.5"], "augment.color_prob is 0.5, but augment.color_jitter is off, so nothing would"),
        (["color_prob=0.5", "color_jitter=[0,0,0,0]"], "augment.color_prob is 0.5, but augment.color_jitter"),
        (["rand_magnitude=5"], "augment.rand_magnitude is 5.0, but augment.rand_ops is off"),
        (["preset=deit", "rand_ops=0", "rand_std=1"], "augment.rand_std is 1.0, but augment.rand_ops is off"),
        (["erase_share=[0.1,0.2]"], "augment.erase_share is [0.1, 0.2], but augment.erase_prob is off"),
        (["mix_prob=0.5"], "augment.mix_prob is 0.5, but augment.mixup and augment.cutmix are off"),
        (["mixup=1", "switch_prob=0.5"], "augment.switch_prob is 0.5, but augment.cutmix is off"),
    ],
)
def test_a_setting_that_nothing_would_look_at_is_refused(overrides, said):
    assert refusal(*(f"augment.{override}" for override in overrides)).startswith(said)


def test_one_switched_on_kind_is_enough_for_the_share_of_mixed_steps():
    assert values("augment.cutmix=1", "augment.mix_prob=0.5")["mix_prob"] == 0.5


def test_the_presets_jitter_gives_way_to_a_resized_crop():
    found = values("augment.preset=motionformer", "augment.resized_crop=[0.08,1]")  # Motionformer-L
    assert (found["resized_crop"], found["color_jitter"]) == ([0.08, 1.0], FOURTHS)


def test_a_packed_data_set_does_not_say_whose_recipe_a_preset_is():
    said = refusal("augment.preset=motionformer", dataset="packed")
    assert said.startswith("augment.preset is 'motionformer', but data.dataset=packed does not say whose")
    assert said.endswith("motionformer_kinetics, motionformer_ssv2, motionformer_epic_kitchens")
    assert values("augment.preset=motionformer_ssv2", dataset="packed")["jitter"] == "inverse_uniform"


def test_mixing_needs_two_videos_in_a_step():
    assert refusal("augment.cutmix=1", "solver.batch_size=1").startswith(
        "augment.mixup=0 and augment.cutmix=1 mix the videos of a step, but solver.batch_size=1 is fewer than"
    )
    said = refusal("augment.preset=deit", "solver.batch_size=5")
    assert "solver.batch_size=5 is fewer than 2 videos of 3 clips each" in said
    config("augment.preset=deit", "solver.batch_size=6")


def test_the_settings_reach_the_transform():
    made = train_dataset(config("augment.preset=motionformer", "data.sampling_rule=slowfast"), [])
    assert made.transform.steps == (ColorJitter(0.4, 0.4, 0.4, 0.0, prob=0.8),)
    assert (made.transform.jitter_rule, made.transform.rule, made.repeats) == ("uniform", "slowfast", 1)
    made = train_dataset(config("augment.preset=deit", "data.mean=[0.5,0.5,0.5]"), [])
    crop = made.transform.resized_crop
    assert (crop.share, crop.aspect, made.repeats) == ((0.08, 1.0), (3 / 4, 4 / 3), 3)
    assert made.transform.steps == (
        RandAugment(2, 9.0, 0.5, 0.5, (128.0, 128.0, 128.0)),
        RandomErasing(0.25, (0.02, 1 / 3), (0.5,) * 3, (0.225,) * 3),
    )


def test_the_assigner_sees_frames_with_flip_and_jitter_alone():
    made = train_dataset(config("augment.preset=deit", "augment.grayscale=1"), [], one_frame=True)
    assert (made.transform.steps, made.transform.resized_crop, made.repeats) == ((), None, 1)
    assert made.transform.flip and made.transform.jitter_rule == "whole"
    made = train_dataset(config("augment.preset=timesformer", dataset="ssv2"), [], one_frame=True)
    assert made.transform.jitter_rule == "inverse_uniform" and not made.transform.flip


@pytest.mark.parametrize("preset", ["timesformer", "motionformer", "deit"])
def test_a_video_file_becomes_clips_by_every_preset_the_same_ones_each_time(tmp_path, preset):
    path = make_video(tmp_path / "a.mp4", 20, size=(80, 60))
    options = [
        "model.token_lengths=[8]",
        "data.crop=32",
        "data.train_jitter=[36,44]",
        "data.num_frames=4",
        "data.sampling_rate=3",
    ]
    made = train_dataset(config(f"augment.preset={preset}", *options), [VideoSample(path, 3)])
    repeats = 3 if preset == "deit" else 1
    for epoch in range(4):
        item = made[(epoch, 0)]
        assert item.clips.shape == (repeats, 4, 3, 32, 32) and item.clips.dtype == torch.uint8
        assert torch.equal(item.clips, made[(epoch, 0)].clips)
        assert not torch.equal(item.clips, made[(epoch + 1, 0)].clips)
        assert len({clip.numpy().tobytes() for clip in item.clips}) == repeats


def test_worker_processes_of_every_kind_can_receive_the_transform():
    made = train_dataset(config("augment.preset=deit", "augment.color_jitter=[0.1,0,0,0]"), []).transform
    again = pickle.loads(pickle.dumps(made))
    assert again.steps == made.steps and again.resized_crop == made.resized_crop
    assert again.short_side(random.Random(0)) == made.short_side(random.Random(0))


def test_the_mix_is_built_from_the_settings_and_absent_where_both_kinds_are_off():
    assert build_mix(config(), 10) is None
    assert build_mix(config("augment.preset=deit", "augment.mixup=0", "augment.cutmix=0"), 10) is None
    assert build_mix(config("augment.preset=deit", "seed=5"), 10) == Mix(0.8, 1.0, 10, seed=5)
    given = config("augment.cutmix=0.5", "augment.mix_prob=0.3")
    assert build_mix(given, 7) == Mix(0.0, 0.5, 7, prob=0.3, switch_prob=0.5, seed=0)
