"""The pictures of the demo: one textured object among plain ones, in front of a dim background.

    ROOT/{train,val,test}/flat_checks/00000.jpg   class folders: data.dataset=image_folders
    ROOT/tags.csv                                 path,tag of every picture

The class is shape and texture of the one object that is not plain: 3 x 3. The plain ones have none of these
shapes but the round one, and the tints of all textures, so that neither tint nor round outlines suffice.
Difficulty is size: the smaller the object, the more plain ones there are. One look shows it, and it says
nothing about the class.

Everything is a function of (seed, stream, index). Pictures are float32 (H, W, 3) RGB in 0..1 while they are
drawn; places are (x, y) in pixels, y down.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from revit_video.data.class_folders import TAGS
from revit_video.data.demo import SPLITS, numbers, write_data_set
from revit_video.data.demo_render import (
    LONG_SIDES,
    PAD,
    ROOM,
    SHORT_SIDE,
    Shape,
    background,
    class_and_tag,
    draw,
    grain,
    shoot,
)

IMAGES_VERSION = 1  # of the definition: one more whenever the pixels of a seed change
SHAPES = {"flat": (6.0, 3.0, 0.0), "round": (2.0, 1.0, 0.0), "tall": (6.0, 3.0, np.pi / 2)}
#        power of the super-ellipse, aspect, angle
TEXTURES = {"checks": (4.2, 4.2, 150), "halves": (1.2, 0.0, 270), "stripes": (5.5, 0.0, 30)}
#          waves along and across, in radians per half-size; middle of its tints, in degrees
PLAIN = ((2.0, 1.0, 0.0), (6.0, 1.0, 0.0), (None, 1.0, np.pi))  # discs, squares, triangles
IMAGE_CLASSES = tuple(f"{shape}_{texture}" for shape in SHAPES for texture in TEXTURES)
TINTS = 50.0  # degrees to both sides of a texture's middle
TURN = 0.3  # radians to both sides
REACH = 1.86  # half-sizes from the middle of the longest object to its end


@dataclass(frozen=True)
class Clutter:
    """Ranges of one tag, both ends included."""

    share: int  # of every 20 pictures of a class
    half_size: tuple[float, float]  # px, of the textured object
    plain: tuple[int, int]  # how many others there are at most
    plain_size: tuple[float, float]  # of what the textured object may have
    contrast: tuple[float, float]  # of the texture: brightness to both sides of its mean, of full scale
    noise: tuple[float, float]  # standard deviation, of 255


CLUTTER = {
    "easy": Clutter(8, (17.0, 24.0), (0, 1), (0.4, 0.7), (0.16, 0.24), (0.0, 4.0)),
    "medium": Clutter(6, (9.0, 13.0), (2, 4), (0.7, 1.2), (0.14, 0.22), (2.0, 6.0)),
    "hard": Clutter(6, (4.5, 6.5), (6, 10), (0.8, 1.3), (0.14, 0.22), (2.0, 5.0)),
}


@dataclass(frozen=True)
class DemoPicture:
    """One picture with what is known about it."""

    pixels: np.ndarray  # uint8 (H, W, 3) RGB
    label: int
    tag: str
    half_size: float  # of the textured object, px


def generate_images(
    root: str | os.PathLike,
    *,
    num_train: int = 4500,
    num_val: int = 1350,
    num_test: int = 1800,
    seed: int = 0,
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> bool:
    """Write the data set, as `demo.generate_demo` writes the videos."""
    root, counts = Path(root), dict(zip(SPLITS, (num_train, num_val, num_test), strict=True))
    return write_data_set(
        root,
        {"kind": "images", "version": IMAGES_VERSION, "seed": seed, **numbers(counts)},
        folders=[f"{split}/{name}" for split in SPLITS for name in IMAGE_CLASSES],
        jobs=[(split, index) for split in SPLITS for index in range(counts[split])],
        write=partial(_write_picture, root, seed),
        write_lists=partial(_write_tags, root),
        processes=processes,
        progress=progress,
    )


def _write_picture(root: Path, seed: int, job: tuple[str, int]) -> tuple[str, dict]:
    """Render and encode one picture; gives its split and its row of tags.csv. Runs in the workers."""
    split, index = job
    picture = render_picture(seed, SPLITS.index(split), index)
    path = f"{split}/{IMAGE_CLASSES[picture.label]}/{index:05d}.jpg"
    Image.fromarray(picture.pixels).save(root / path, quality=90)
    return split, {"path": path, "tag": picture.tag}


def _write_tags(root: Path, entries: dict[str, list[dict]]) -> None:
    with open(root / TAGS, "w", newline="") as file:
        table = csv.DictWriter(file, ("path", "tag"), lineterminator="\n")
        table.writeheader()
        table.writerows(row for split in SPLITS for row in entries[split])


def render_picture(seed: int, stream: int, index: int) -> DemoPicture:
    """Picture number `index` of a stream (0 train, 1 val, 2 test); the same numbers give the same bytes."""
    label, tag = class_and_tag(seed, stream, index, num_classes=len(IMAGE_CLASSES), kinds=CLUTTER)
    rng, how = np.random.default_rng([seed, stream, index, 5]), CLUTTER[tag]
    long_side = int(rng.choice(LONG_SIDES))
    height, width = (SHORT_SIDE, long_side) if rng.random() < 0.5 else (long_side, SHORT_SIDE)
    base = rng.uniform(0.08, 0.25)
    half_size, contrast = rng.uniform(*how.half_size), rng.uniform(*how.contrast)
    room = max(ROOM / 2 - REACH * half_size, 0.0)
    place = np.array([width, height]) / 2 + PAD + rng.uniform(-room, room, 2)

    scene = background(rng, height + 2 * PAD, width + 2 * PAD, base)
    for _ in range(rng.integers(how.plain[0], how.plain[1] + 1)):
        spot = rng.uniform((0, 0), (width + 2 * PAD, height + 2 * PAD))
        size = rng.uniform(*how.half_size) * rng.uniform(*how.plain_size)
        plain = plain_shape(rng, base + rng.uniform(0.35, 0.5))
        if np.hypot(*(spot - place)) > 1.2 * (size + half_size):  # one that would touch it is left out
            draw(scene, plain, spot, size)
    shape, texture = IMAGE_CLASSES[label].split("_")
    draw(
        scene, textured_shape(rng, shape, texture, base + rng.uniform(0.35, 0.5), contrast), place, half_size
    )
    noise = rng.uniform(*how.noise) * grain(rng, height, width)
    return DemoPicture(
        shoot(scene, 0.0, 0.0, 1.0, noise=noise).astype(np.uint8), label, tag, float(half_size)
    )


def textured_shape(rng: np.random.Generator, shape: str, texture: str, luma: float, contrast: float) -> Shape:
    """An object of a class: of mean brightness `luma`, its texture by `contrast` brighter and darker."""
    along, across, middle = TEXTURES[texture]
    colours = np.stack([tint(rng, middle, luma + contrast), tint(rng, middle, luma - contrast)])
    phase = rng.uniform(0, 2 * np.pi) * (texture != "halves")  # every class makes the same draws
    return _shape(rng, SHAPES[shape], (along, across, phase), colours)


def plain_shape(rng: np.random.Generator, luma: float) -> Shape:
    """An object of one colour, of the tints of any texture."""
    middle = list(TEXTURES.values())[rng.integers(len(TEXTURES))][2]
    colours = np.tile(tint(rng, middle, luma), (2, 1))
    return _shape(rng, PLAIN[rng.integers(len(PLAIN))], (0.0, 0.0, 0.0), colours)


def _shape(rng: np.random.Generator, form: tuple, waves: tuple, colours: np.ndarray) -> Shape:
    power, aspect, angle = form
    aspect = aspect * rng.uniform(0.85, 1.15)
    angle = angle + rng.uniform(-TURN, TURN)
    return Shape((aspect**0.5, aspect**-0.5), angle, power, waves, colours.astype(np.float32))


def tint(rng: np.random.Generator, middle: float, luma: float) -> np.ndarray:
    """A random (3,) RGB colour of this brightness, its hue within TINTS of `middle` degrees."""
    hue, richness = np.deg2rad(middle + rng.uniform(-TINTS, TINTS)), rng.uniform(0.1, 0.2)
    blue, red = richness * np.cos(hue), richness * np.sin(hue)  # U and V of YUV
    return np.clip(luma + np.array((1.14 * red, -0.395 * blue - 0.581 * red, 2.03 * blue)), 0, 1)
