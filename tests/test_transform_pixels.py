"""What happens to the pixels of a clip: against Pillow, against the definitions in float64, as pictures."""

import random
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance, ImageOps
from torchvision.transforms.v2 import functional as peer

from revit_video.transform import rand_augment
from revit_video.transform.colour import ColorJitter, Grayscale, change_colours
from revit_video.transform.erase import RandomErasing
from revit_video.transform.rand_augment import OPERATIONS, Operation, RandAugment

FILL = (128.0, 64.0, 32.0)
HEIGHT, WIDTH = 96, 128
GREY = np.array([0.299, 0.587, 0.114])
KNOW_NO_STRENGTH = {"auto_contrast", "equalize", "invert"}


def smooth_clip(count: int = 1) -> torch.Tensor:
    """uint8 (count, 3, 96, 128) of smooth pictures, each another, with all values from dark to light."""
    coarse = torch.from_numpy(np.random.default_rng(0).uniform(20, 200, (count, 3, 8, 10))).float()
    return F.interpolate(coarse, size=(HEIGHT, WIDTH), mode="bicubic").clamp(0, 255).to(torch.uint8)


def picture(clip: torch.Tensor) -> Image.Image:
    return Image.fromarray(clip[0].permute(1, 2, 0).numpy())


def affine(image: Image.Image, *matrix: float) -> Image.Image:
    fill = tuple(map(int, FILL))
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=fill
    )


def factor(x: float) -> float:
    return max(0.1, 1 + 0.9 * x)


PILLOW = {  # the operations by their definition in Pillow
    "auto_contrast": lambda image, x: ImageOps.autocontrast(image),
    "equalize": lambda image, x: ImageOps.equalize(image),
    "invert": lambda image, x: ImageOps.invert(image),
    "posterize": lambda image, x: ImageOps.posterize(image, 4 - int(4 * x)),
    "solarize": lambda image, x: ImageOps.solarize(image, 256 - int(256 * x)),
    "solarize_add": lambda image, x: image.point([i + int(110 * x) * (i < 128) for i in range(256)] * 3),
    "color": lambda image, x: ImageEnhance.Color(image).enhance(factor(x)),
    "contrast": lambda image, x: ImageEnhance.Contrast(image).enhance(factor(x)),
    "brightness": lambda image, x: ImageEnhance.Brightness(image).enhance(factor(x)),
    "sharpness": lambda image, x: ImageEnhance.Sharpness(image).enhance(factor(x)),
    "rotate": lambda image, x: image.rotate(
        -30 * x, Image.Resampling.BILINEAR, fillcolor=tuple(map(int, FILL))
    ),
    "shear_x": lambda image, x: affine(image, 1, 0.3 * x, 0, 0, 1, 0),
    "shear_y": lambda image, x: affine(image, 1, 0, 0, 0.3 * x, 1, 0),
    "translate_x": lambda image, x: affine(image, 1, 0, -round(0.45 * x * WIDTH), 0, 1, 0),
    "translate_y": lambda image, x: affine(image, 1, 0, 0, 0, 1, -round(0.45 * x * HEIGHT)),
}


def run(name: str, clip: torch.Tensor, strength: float) -> torch.Tensor:
    return OPERATIONS[name].apply(clip, strength, FILL)


def strengths() -> list[tuple[str, float]]:
    both = [(name, x) for name in OPERATIONS for x in (0.0, 0.5, 0.74, 1.0)]
    both += [(name, x) for name, operation in OPERATIONS.items() if operation.signed for x in (-0.5, -1.0)]
    return [case for case in both if case != ("posterize", 1.0)]  # Pillow keeps at least one bit


@pytest.mark.parametrize(("name", "strength"), strengths())
def test_every_operation_is_that_of_pillow(name, strength):
    clip = smooth_clip()
    ours = run(name, clip, strength)[0].permute(1, 2, 0).numpy().astype(int)
    theirs = np.asarray(PILLOW[name](picture(clip), strength)).astype(int)
    gaps = abs(ours - theirs)
    if name in ("rotate", "shear_x", "shear_y", "translate_x", "translate_y"):
        # Pillow does not blend with the fill at the picture's edge, which a part of the pixels shows.
        assert np.mean(gaps > 3) < 0.03 and np.median(gaps) <= 1
    else:
        assert gaps.max() <= 1


@pytest.mark.parametrize("name", sorted(OPERATIONS.keys() - KNOW_NO_STRENGTH))
def test_without_strength_nothing_changes(name):
    clip = smooth_clip(2)
    if name == "posterize":  # begins with 4 bits
        assert torch.equal(run(name, clip, 0.0), clip & 0b11110000)
    else:
        assert torch.equal(run(name, clip, 0.0), clip)


def test_full_strength_is_as_strong_as_the_table_says():
    clip = smooth_clip()
    wide = torch.full((1, 3, HEIGHT, WIDTH), 60, dtype=torch.uint8)
    assert run("posterize", clip, 1.0).eq(0).all()
    assert torch.equal(run("solarize", clip, 1.0), 255 - clip)
    assert run("solarize_add", wide, 1.0).eq(170).all()
    assert run("brightness", wide, 1.0).eq(114).all() and run("brightness", wide, -1.0).eq(6).all()
    grey = (clip.permute(0, 2, 3, 1).double() @ torch.from_numpy(GREY))[..., None]
    spread = {x: (run("color", clip, x).permute(0, 2, 3, 1) - grey).abs().mean() for x in (-1.0, 0.0, 1.0)}
    assert spread[-1.0] < 0.12 * spread[0.0] and spread[1.0] > 1.6 * spread[0.0]
    contrast = {x: run("contrast", clip, x).float().std() for x in (-1.0, 0.0, 1.0)}
    assert contrast[-1.0] < 0.11 * contrast[0.0] and contrast[1.0] > 1.5 * contrast[0.0]
    noise = torch.randint(90, 160, (1, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    edges = {x: run("sharpness", noise, x).float().diff(dim=-1).abs().mean() for x in (-1.0, 0.0, 1.0)}
    assert edges[-1.0] < 0.5 * edges[0.0] and edges[1.0] > 1.5 * edges[0.0]


def centre_of_mark(clip: torch.Tensor) -> tuple[float, float]:
    """(x, y) of what is white in a black picture."""
    rows, columns = (clip[0, 0] > 127).nonzero(as_tuple=True)
    return columns.double().mean().item(), rows.double().mean().item()


def test_full_strength_moves_the_picture_as_far_as_the_table_says():
    clip = torch.zeros(1, 3, HEIGHT, WIDTH, dtype=torch.uint8)
    clip[..., 44:53, 60:69] = 255  # around x 64, y 48
    middle_x, middle_y = (WIDTH - 1) / 2, (HEIGHT - 1) / 2
    moved = {
        name: centre_of_mark(OPERATIONS[name].apply(clip, 1.0, (0, 0, 0))) for name in OPERATIONS_THAT_MOVE
    }
    assert moved["translate_x"] == (64 + round(0.45 * WIDTH), 48)
    assert moved["translate_y"] == (64, 48 + round(0.45 * HEIGHT))
    assert moved["shear_x"] == pytest.approx((64 - 0.3 * 48.5, 48), abs=0.6)
    assert moved["shear_y"] == pytest.approx((64, 48 - 0.3 * 64.5), abs=0.6)
    assert moved["rotate"] == pytest.approx((64, 48), abs=0.6)
    clip[..., 40:57, 60:69], clip[..., 44:53, 100:109] = 0, 255  # a mark at the right turns by 30 degrees
    x, y = centre_of_mark(OPERATIONS["rotate"].apply(clip, 1.0, (0, 0, 0)))
    angle = np.degrees(np.arctan2(y - middle_y, x - middle_x) - np.arctan2(48 - middle_y, 104 - middle_x))
    assert abs(angle) == pytest.approx(30, abs=0.6)


OPERATIONS_THAT_MOVE = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")


@pytest.mark.parametrize("strength", [1.0, -1.0])
@pytest.mark.parametrize("name", OPERATIONS)
def test_no_operation_mirrors_the_picture(name, strength):
    """A corner of three marks keeps its sense of rotation and its left end left, so "left" stays left."""
    marks = {"right": (48, 70), "left": (48, 52), "below": (60, 52)}  # (row, column)
    places = {}
    for key, (row, column) in marks.items():
        clip = torch.full((1, 3, HEIGHT, WIDTH), 40, dtype=torch.uint8)
        clip[..., row - 2 : row + 3, column - 2 : column + 3] = 255
        seen = OPERATIONS[name].apply(clip, 0.6 * strength, (40, 40, 40)).float()
        odd = (seen - seen.flatten().median()).abs()[0, 0]  # also of an inverted picture
        rows, columns = (odd > odd.max() / 2).nonzero(as_tuple=True)
        places[key] = np.array([columns.double().mean().item(), rows.double().mean().item()])
    along, down = places["right"] - places["left"], places["below"] - places["left"]
    assert along[0] > 0 and along[0] * down[1] - along[1] * down[0] > 0


def test_what_comes_in_from_outside_has_the_colour_of_the_fill():
    moved = run("translate_x", smooth_clip(), 1.0)
    new = moved[..., : round(0.45 * WIDTH) - 1]
    assert torch.equal(new, torch.tensor(FILL, dtype=torch.uint8).view(1, 3, 1, 1).expand_as(new))


def seen_strengths(**changes) -> list[float]:
    """Strengths that RandAugment hands to an operation that is signed, in its table of one."""
    seen = []
    table = {"look": Operation(lambda clip, x, fill: seen.append(x) or clip, signed=True)}
    settings = {"num_ops": 2, "magnitude": 9.0, "std": 0.5, "prob": 0.5, "fill": FILL} | changes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rand_augment, "OPERATIONS", table)
        for seed in range(4000):
            RandAugment(**settings)(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), random.Random(seed))
    return seen


def test_magnitudes_are_drawn_around_the_given_one_and_end_at_ten():
    assert set(seen_strengths(magnitude=20.0)) == {1.0, -1.0}  # m20 of the Motionformer recipe is 10
    assert set(seen_strengths(magnitude=3.0, std=0.0)) == {0.3, -0.3}
    seen = np.array(seen_strengths())
    assert abs(len(seen) - 4000) < 250  # two of them, each with probability 0.5
    assert abs((seen > 0).mean() - 0.5) < 0.04
    assert abs(np.abs(seen).mean() - 0.9) < 0.004 and abs(np.abs(seen).std() - 0.048) < 0.004
    assert len(seen_strengths(prob=1.0, num_ops=3)) == 12_000


def test_all_operations_are_drawn_alike():
    """The clip counts: every operation of a table of counters adds 1 to a pixel of its own."""
    table = {
        name: Operation(lambda clip, x, fill, at=at: clip + (torch.arange(len(OPERATIONS)) == at))
        for at, name in enumerate(OPERATIONS)
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rand_augment, "OPERATIONS", table)
        counts = RandAugment(9000, 9.0, 0.5, 1.0, FILL)(torch.zeros(len(table)), random.Random(0))
    assert len(counts) == 15 and counts.sum() == 9000
    assert (counts - 600).abs().max() < 5 * 600**0.5


def reference(frame: np.ndarray, changes: dict[str, float]) -> np.ndarray:
    """The changes one after the other, by their definitions, in float64 (H, W, 3)."""
    frame = frame.astype(float)
    for name, amount in changes.items():
        grey = frame @ GREY
        towards = {"brightness": 0.0, "contrast": grey.mean(), "saturation": grey[..., None]}[name]
        frame = amount * frame + (1 - amount) * towards
    return frame


@pytest.mark.parametrize("order", list(permutations(("brightness", "contrast", "saturation"))))
def test_colour_changes_are_their_definitions_in_any_order_rounded_once(order):
    clip, rng = smooth_clip(3), random.Random(0)
    for _ in range(5):
        changes = {name: rng.uniform(0.5, 1.5) for name in order}
        ours = change_colours(clip, **changes).permute(0, 2, 3, 1).numpy()
        exact = np.stack([reference(frame, changes) for frame in clip.permute(0, 2, 3, 1).numpy()])
        assert np.abs(ours - exact.clip(0, 255)).max() < 0.5 + 1e-3


@pytest.mark.parametrize(
    ("name", "adjust"),
    [
        ("brightness", peer.adjust_brightness),
        ("contrast", peer.adjust_contrast),
        ("saturation", peer.adjust_saturation),
    ],
)
def test_one_colour_change_is_torchvisions(name, adjust):
    clip = smooth_clip(3)
    for amount in (0.0, 0.4, 1.7):
        gap = change_colours(clip, **{name: amount}).int() - adjust(clip, amount).int()
        assert gap.abs().max() <= 1
    assert torch.equal(change_colours(clip, **{name: 1.0}), clip)


def test_colour_jitter_draws_each_factor_uniformly_and_leaves_the_rest_of_the_clips():
    grey = torch.full((1, 3, 2, 2), 100, dtype=torch.uint8)  # of which only the brightness shows
    jitter = ColorJitter(0.4, 0.4, 0.4, prob=0.8)
    values = [jitter(grey, random.Random(seed))[0, 0, 0, 0].item() for seed in range(8000)]
    changed = np.array([value for value in values if value != 100])
    assert abs(len(changed) - 0.8 * 8000 * 80 / 81) < 200
    assert changed.min() == 60 and changed.max() == 140 and abs(changed.mean() - 100) < 1.3
    assert abs(changed.std() - 0.4 * 100 / 3**0.5) < 0.7
    colour = smooth_clip()
    only = ColorJitter(0, 0, 0, hue=0.5)(colour, random.Random(1))
    told = random.Random(1)
    told.random()
    for _ in range(3):
        told.uniform(0, 0)
    assert torch.equal(only, peer.adjust_hue(colour, told.uniform(-0.5, 0.5)))
    assert torch.equal(ColorJitter(0, 0, 0)(colour, random.Random(1)), colour)


def test_a_grey_clip_has_three_equal_channels_and_the_given_share_is_grey():
    clip = smooth_clip(2)
    grey = Grayscale(1.0)(clip, random.Random(0))
    assert torch.equal(grey[:, 0], grey[:, 1]) and torch.equal(grey[:, 0], grey[:, 2])
    exact = clip.permute(0, 2, 3, 1).numpy() @ GREY
    assert np.abs(grey[:, 0].numpy() - exact).max() < 0.5 + 1e-3
    count = Counter(torch.equal(Grayscale(0.3)(clip, random.Random(seed)), clip) for seed in range(600))
    assert abs(count[False] - 180) < 50


def test_the_erased_box_is_noise_of_the_given_mean_and_the_same_in_all_frames():
    black = torch.zeros(2, 3, 224, 224, dtype=torch.uint8)
    erase = RandomErasing(1.0, (0.3, 0.3), mean=(0.5, 0.4, 0.3), std=(0.1, 0.1, 0.1))
    seen = []
    for seed in range(40):
        clip = erase(black, random.Random(seed))
        assert torch.equal(clip[0], clip[1])
        rows, columns = clip[0].gt(0).any(0).nonzero(as_tuple=True)
        box = clip[0][:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert abs(box[0].numel() / 224**2 - 0.3) < 0.01
        assert clip.gt(0).sum() == 2 * box.gt(0).sum()  # nothing outside
        seen.append(box.float().flatten(1))
    pixels = torch.cat(seen, dim=1) / 255
    torch.testing.assert_close(pixels.mean(1), torch.tensor([0.5, 0.4, 0.3]), atol=2e-3, rtol=0)
    torch.testing.assert_close(pixels.std(1), torch.full((3,), 0.1), atol=2e-3, rtol=0)
    assert black.eq(0).all()


def test_the_given_share_of_the_clips_is_erased():
    clip = smooth_clip()
    erase = RandomErasing(0.25, (0.02, 1 / 3), mean=(0.5,) * 3, std=(0.2,) * 3)
    erased = sum(not torch.equal(erase(clip, random.Random(seed)), clip) for seed in range(1000))
    assert abs(erased - 250) < 65
