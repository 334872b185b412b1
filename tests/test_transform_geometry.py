"""Draws of sizes, crops and boxes: the official distributions, and every draw from the rng handed in."""

import math
import random
from collections import Counter
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import RandomResizedCrop

from revit_video.build.passes import pixel_steps, train_transform
from revit_video.sample import spatial
from revit_video.settings import AugmentConfig, DataConfig
from revit_video.settings.augment import filled, recipe
from revit_video.transform.clip import ResizedCrop, TrainTransform, as_clip
from revit_video.types import InputError, View

SHARE, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)
VIEW = View((0, 1, 2), 0, 1)


def frames(height: int, width: int, *, count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def transform(preset: str, dataset: str = "kinetics", **given) -> TrainTransform:
    """The transform that the settings make, at a small size."""
    ssv2 = {"flip": False} if dataset == "ssv2" else {}
    data = DataConfig(root="x", dataset=dataset, crop=48, train_jitter=[52, 64], **ssv2)
    return train_transform(data, filled(AugmentConfig(preset, **given), recipe(preset, dataset)))


def drawn(made: TrainTransform, seed: int, height: int = 60, width: int = 80) -> torch.Tensor:
    """A clip, as the data set makes one: frames of the short side that the transform asked for."""
    rng = random.Random(seed)
    side = made.short_side(rng)
    size = [length * side // min(height, width) for length in (height, width)]
    return made(frames(*size), VIEW, 0, rng)[0]


def draw_all(seeds: list[int]) -> list[torch.Tensor]:
    torch.manual_seed(12345)  # of another process, where the global generators stand elsewhere
    np.random.seed(999)
    random.seed(7)
    return [drawn(transform("deit", rand_ops=4, rand_prob=1.0, grayscale=0.2), seed) for seed in seeds]


@pytest.mark.parametrize("flip", [True, False])
def test_without_augmentation_the_draws_are_those_of_the_first_version(flip):
    data = DataConfig(root="x", crop=48, train_jitter=[52, 64], flip=flip)
    made = train_transform(data, filled(AugmentConfig(), recipe("", "kinetics")))
    for seed in range(40):
        rng, plain = random.Random(seed), random.Random(seed)
        side = made.short_side(rng)
        assert side == plain.randint(52, 64)
        picture = frames(side, side * 4 // 3)
        clip, _ = made(picture, VIEW, 0, rng)
        top, left = plain.randint(0, side - 48), plain.randint(0, side * 4 // 3 - 48)
        expected = as_clip(picture)[..., top : top + 48, left : left + 48]
        assert torch.equal(clip, expected.flip(-1) if flip and plain.random() < 0.5 else expected)
        assert rng.getstate() == plain.getstate()


@pytest.mark.parametrize(
    ("rule", "mean"),
    [("whole", 288), ("uniform", 288), ("inverse_uniform", math.log(320 / 256) / (1 / 256 - 1 / 320))],
)
def test_the_short_side_has_the_mean_and_the_ends_of_its_rule(rule, mean):
    rng = random.Random(0)
    sides = [spatial.draw_short_side(256, 320, rng, rule=rule) for _ in range(60_000)]
    assert abs(np.mean(sides) - mean) < 0.35  # 4.5 standard errors
    count = Counter(sides)
    assert set(count) == set(range(256, 321))
    ends = {"whole": (1, 1), "uniform": (0.5, 0.5), "inverse_uniform": (0.5 * 288 / 256, 0.5 * 288 / 320)}
    for side, share in zip((256, 320), ends[rule], strict=True):
        expected = share * 60_000 / 64.5
        if rule == "inverse_uniform":  # density proportional to 1 / side^2
            expected = 60_000 * 0.5 / side**2 / (1 / 256 - 1 / 320)
        assert abs(count[side] - expected) < 5 * math.sqrt(expected)


def test_an_unknown_rule_of_the_short_side_is_refused():
    with pytest.raises(InputError, match="'log', but must be one of whole, uniform, inverse_uniform"):
        spatial.draw_short_side(1, 2, random.Random(0), rule="log")


@pytest.mark.parametrize("size", [(256, 340), (360, 640), (640, 360), (256, 256)])
def test_resized_crops_are_distributed_as_torchvisions_and_never_short_of_pixels(size):
    rng, shortest, ours = random.Random(0), min(size), []
    for _ in range(20_000):
        side = spatial.resized_crop_side(rng.uniform(*SHARE), 224, aspect=ASPECT)
        height, width = (length * side // shortest for length in size)
        top, left, *box = spatial.resized_crop_box(height, width, 224, rng, share=SHARE, aspect=ASPECT)
        assert min(box) >= (224 if side < 4 * 224 else 100)
        assert top >= 0 and left >= 0 and top + box[0] <= height and left + box[1] <= width
        ours.append((box[0] * box[1] / height / width, math.log(box[1] / box[0]), top / height, left / width))
    torch.manual_seed(0)
    peer, picture, theirs = RandomResizedCrop(224), torch.empty(3, *(4 * length for length in size)), []
    for _ in range(6_000):
        box = peer.make_params([picture])
        height, width = picture.shape[1:]
        area = box["height"] * box["width"] / height / width
        ratio = math.log(box["width"] / box["height"])
        theirs.append((area, ratio, box["top"] / height, box["left"] / width))
    ours, theirs = np.array(ours), np.array(theirs)
    error = np.sqrt(ours.var(0) / len(ours) + theirs.var(0) / len(theirs))
    assert (abs(ours.mean(0) - theirs.mean(0)) < 4.5 * error).all()
    assert np.allclose(ours.std(0), theirs.std(0), rtol=0.05)


def test_a_box_of_one_share_and_one_aspect_is_that_box():
    rng = random.Random(0)
    side = spatial.resized_crop_side(0.25, 50, aspect=(1, 1))
    assert side == 100
    boxes = [
        spatial.resized_crop_box(100, 150, 50, rng, share=(0.25, 0.25), aspect=(1, 1)) for _ in range(99)
    ]
    assert {box[2:] for box in boxes} == {(61, 61)}  # a quarter of 100 x 150
    assert min(box[0] for box in boxes) < 4 and max(box[1] for box in boxes) > 85


def test_small_boxes_are_drawn_alike_from_frames_of_the_largest_side():
    rng, share = random.Random(0), (0.01, 0.03)  # would need sides of 289 to 500
    assert {spatial.resized_crop_side(part, 50, aspect=(1, 1)) for part in share} == {200}
    boxes = [spatial.resized_crop_box(200, 200, 50, rng, share=share, aspect=(1, 1)) for _ in range(4000)]
    areas = np.array([box[2] * box[3] for box in boxes]) / 200**2
    assert areas.min() < 0.0105 and areas.max() > 0.029 and abs(areas.mean() - 0.02) < 0.0005


def test_a_frame_too_narrow_for_any_box_gives_the_largest_of_the_nearest_aspect():
    for size, box in (((20, 400), (20, 27)), ((400, 20), (27, 20))):
        found = spatial.resized_crop_box(*size, 10, random.Random(0), share=(0.5, 1), aspect=ASPECT)
        assert found[2:] == box


def test_a_resized_crop_shows_its_box_in_all_frames():
    """The ramp of a frame tells where each edge of the crop was."""
    rows, columns = np.meshgrid(np.arange(240), np.arange(250), indexing="ij")
    picture = np.stack([rows, columns, 0 * rows], axis=-1).astype(np.uint8)
    crop = ResizedCrop(SHARE, ASPECT)
    rng = random.Random(3)
    for _ in range(20):
        told = random.Random()
        told.setstate(rng.getstate())
        top, left, height, width = spatial.resized_crop_box(240, 250, 48, told, share=SHARE, aspect=ASPECT)
        clip = crop(as_clip(np.stack([picture, picture])), 48, rng)
        assert clip.shape == (2, 3, 48, 48) and clip.dtype == torch.uint8
        assert torch.equal(clip[0], clip[1])
        for channel, begin, length in ((0, top, height), (1, left, width)):
            centres = begin + (np.arange(48) + 0.5) * length / 48 - 0.5
            line = clip[0, channel].float().mean(dim=1 - channel).numpy()
            assert np.abs(line - centres)[2:-2].max() < 1.1  # the edges see less on one side


def test_the_drawn_box_to_erase_has_its_share_and_aspect():
    rng = random.Random(0)
    boxes = [
        spatial.erase_box(224, 224, rng, share=(0.02, 1 / 3), aspect=(0.3, 1 / 0.3)) for _ in range(9999)
    ]
    areas = np.array([box[2] * box[3] / 224**2 for box in boxes])
    ratios = np.array([math.log(box[3] / box[2]) for box in boxes])
    assert 0.019 < areas.min() < 0.025 and 0.3 < areas.max() < 0.34
    assert abs(areas.mean() - 0.174) < 0.01 and abs(ratios.mean()) < 0.03
    assert all(top + height <= 224 and left + width <= 224 for top, left, height, width in boxes)
    assert spatial.erase_box(4, 4, rng, share=(1, 1), aspect=(1, 1)) is None  # would be the whole picture


def test_a_cut_box_has_the_frames_proportions_and_ends_at_its_edges():
    rng, plain = random.Random(0), random.Random(0)
    boxes = [spatial.cut_box(100, 200, 0.25, rng) for _ in range(5000)]
    for top, bottom, left, right in boxes:  # 50 x 100 around a random pixel
        row, column = plain.randrange(100), plain.randrange(200)
        assert (top, bottom) == (max(row - 25, 0), min(row + 25, 100))
        assert (left, right) == (max(column - 50, 0), min(column + 50, 200))
    covered = [(bottom - top) * (right - left) / 20_000 for top, bottom, left, right in boxes]
    assert abs(np.mean(covered) - (7 / 16) ** 2) < 0.004  # of half a side 1/16 lies outside on average
    top, bottom, left, right = spatial.cut_box(100, 200, 0.0, rng)
    assert (bottom - top, right - left) == (0, 0)


@pytest.mark.parametrize("dataset", ["kinetics", "ssv2", "epic_kitchens"])
@pytest.mark.parametrize("preset", ["timesformer", "motionformer", "deit"])
def test_all_frames_of_a_clip_share_every_draw(preset, dataset):
    """Three equal frames stay equal under everything."""
    given = {"target": "verb"} if dataset == "epic_kitchens" else {}
    data = DataConfig(root="x", dataset=dataset, crop=48, train_jitter=[52, 64], flip=False, **given)
    made = train_transform(data, filled(AugmentConfig(preset, grayscale=0.5), recipe(preset, dataset)))
    for seed in range(30):
        rng = random.Random(seed)
        side = made.short_side(rng)
        clip, _ = made(np.repeat(frames(side, side * 4 // 3, count=1), 3, axis=0), VIEW, 0, rng)
        assert clip.dtype == torch.uint8 and clip.shape == (3, 3, 48, 48)
        assert torch.equal(clip[0], clip[1]) and torch.equal(clip[0], clip[2])


def test_one_rng_gives_one_clip_in_this_and_in_another_process_and_leaves_global_draws_alone():
    seeds = list(range(12))
    with get_context("spawn").Pool(1) as pool:
        elsewhere = pool.apply(draw_all, [seeds])
    torch.manual_seed(1)
    states = torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    made = transform("deit", rand_ops=4, rand_prob=1.0, grayscale=0.2)
    here = [drawn(made, seed) for seed in seeds]
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1]) and random.getstate() == states[2]
    assert all(torch.equal(a, b) for a, b in zip(here, elsewhere, strict=True))
    assert len({clip.numpy().tobytes() for clip in here}) == len(seeds)


def test_the_frames_that_are_handed_in_stay_as_they_are():
    made, given = (
        transform("motionformer", "ssv2", erase_prob=1.0, color_jitter=[1, 1, 1, 0.5]),
        frames(60, 80),
    )
    before = given.copy()
    for seed in range(20):
        made(given, VIEW, 0, random.Random(seed))
    assert np.array_equal(given, before)


def test_the_steps_are_in_the_order_of_the_recipes_and_only_those_that_are_on():
    data = DataConfig(root="x", mean=[0.5, 0.4, 0.3])

    def names(preset: str, dataset: str = "kinetics", **given) -> list[str]:
        full = filled(AugmentConfig(preset, **given), recipe(preset, dataset))
        return [type(step).__name__ for step in pixel_steps(data, full)]

    assert names("") == names("timesformer") == []
    assert names("motionformer") == ["ColorJitter"]
    assert names("motionformer", "ssv2") == ["RandAugment"]
    all_on = names("deit", color_jitter=[0.1, 0, 0, 0], grayscale=0.1)
    assert all_on == ["RandAugment", "ColorJitter", "Grayscale", "RandomErasing"]
    assert names("deit", rand_ops=0, erase_prob=0.0) == []
    assert pixel_steps(data, filled(AugmentConfig("deit"), recipe("deit", "")))[0].fill == (128, 102, 76)
