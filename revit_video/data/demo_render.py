"""Draw the clips of the demo data set: a textured object that moves among others that stand still.

The class is the motion alone. Shape, size, colours, background, picture size, length and frame rate are drawn
without looking at it, so no single frame suffices. Difficulty is distance: size and travel shrink together,
which one frame shows and which says nothing about the class.

Everything is a function of (seed, stream, index), and every class makes the same draws: two clips that differ
in nothing but the label differ in nothing but the motion. Pictures are float32 (H, W, 3) RGB in 0..1 while
they are drawn; places are (x, y) in pixels, y down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

VERSION = 2  # of the definition: one more whenever the pixels of a seed change

CLASS_NAMES = ("left", "right", "up", "down", "towards", "away", "sway", "bob", "still", "pulse")
HEADINGS = {"right": 0.0, "down": np.pi / 2, "left": np.pi, "up": -np.pi / 2}  # radians, y down
FRAME_RATES = ("8", "10", "12", "25/2", "15")  # fractions of frames per second

SHORT_SIDE = 128
LONG_SIDES = (128, 144, 160)
MIN_FRAMES, MAX_FRAMES = 15, 20
ROOM = 112  # px: the path stays in the central square of this side, which the centre crop sees
SHAKE = 1.5  # px, the most that the camera moves
PAD = 2  # px of scene around the picture, for the shake


@dataclass(frozen=True)
class Difficulty:
    """Ranges of one tag, both ends included."""

    share: int  # of every 20 clips of a class
    half_size: tuple[float, float]  # px
    distractors: tuple[int, int]
    contrast: tuple[float, float]  # of full scale, over the mean of the background
    occluded: float  # share of clips with something in front of the object
    noise: tuple[float, float]  # standard deviation, of 255


DIFFICULTIES = {
    "easy": Difficulty(8, (13.0, 20.0), (0, 2), (0.45, 0.70), 0.0, (0.0, 4.0)),
    "medium": Difficulty(6, (7.5, 11.5), (3, 6), (0.35, 0.55), 0.3, (2.0, 7.0)),
    "hard": Difficulty(6, (2.4, 3.8), (8, 14), (0.40, 0.60), 0.3, (2.0, 6.0)),
}


@dataclass(frozen=True)
class Shift:
    """How clips of the same classes look in another data set: factors on what is drawn."""

    texture: float = 1.0  # stripes per half-size of a shape
    inverted: bool = False  # dark things on a bright ground
    size: float = 1.0  # of shapes, and with them of their travel: all is farther away
    speed: float = 1.0  # of travel, zoom and waves


SHIFTS = {
    "": Shift(),
    "textures": Shift(texture=3.0, inverted=True),
    "sizes": Shift(size=0.7),
    "speeds": Shift(speed=1.5),
}
WIDEST_ZOOM = 4.0  # from the smallest to the largest of a clip


@dataclass(frozen=True)
class DemoClip:
    """One clip with what is known about it. `half_size` is the object's in px, in a zoom at half time."""

    frames: np.ndarray  # uint8 (T, H, W, 3) RGB
    label: int
    tag: str
    fps: str  # a fraction, such as 25/2
    half_size: float
    shape: str  # words for a caption: "triangle", "blob"


def class_and_tag(
    seed: int, stream: int, index: int, *, num_classes: int = len(CLASS_NAMES), kinds: Mapping = DIFFICULTIES
) -> tuple[int, str]:
    """Label and tag of one clip: every K hold each class once, every 20 K the exact shares of the tags.

    kinds: tag -> anything with its `share` of 20.
    """
    block, place = divmod(index, num_classes)
    label = int(np.random.default_rng([seed, stream, block, 1]).permutation(num_classes)[place])
    cards = [tag for tag, kind in kinds.items() for _ in range(kind.share)]
    deck, card = divmod(block, len(cards))
    order = np.random.default_rng([seed, stream, deck, label, 2]).permutation(len(cards))
    return label, cards[order[card]]


def render_clip(seed: int, stream: int, index: int, shift: Shift = SHIFTS[""]) -> DemoClip:
    """Clip number `index` of a stream (0 train, 1 val, 2 test); the same numbers give the same bytes. A shift
    changes no draw: the same clip in another look.
    """
    label, tag = class_and_tag(seed, stream, index)
    rng = np.random.default_rng([seed, stream, index, 3])
    how = DIFFICULTIES[tag]
    long_side = int(rng.choice(LONG_SIDES))
    height, width = (SHORT_SIDE, long_side) if rng.random() < 0.5 else (long_side, SHORT_SIDE)
    num_frames = int(rng.integers(MIN_FRAMES, MAX_FRAMES + 1))
    fps = str(rng.choice(FRAME_RATES))

    base = rng.uniform(0.15, 0.35)
    luma = base + rng.uniform(*how.contrast)
    half_size = shift.size * rng.uniform(*how.half_size)
    shape = random_shape(rng, luma, texture=shift.texture)
    offsets, scales = motion(
        CLASS_NAMES[label], rng, half_size=half_size, num_frames=num_frames, speed=shift.speed
    )
    places = offsets + np.array([width, height]) / 2 + PAD  # (T, 2), in the padded scene

    scene = background(rng, height + 2 * PAD, width + 2 * PAD, base)
    for _ in range(rng.integers(how.distractors[0], how.distractors[1] + 1)):
        spot = rng.uniform((0, 0), (width + 2 * PAD, height + 2 * PAD))
        size = rng.uniform(*how.half_size) * 2.75 ** rng.uniform(-0.5, 0.5)  # as far as a zoom goes
        thing = random_shape(rng, base + rng.uniform(*how.contrast), texture=shift.texture)
        draw(scene, thing, spot, shift.size * size)
    hidden = np.zeros(scene.shape[:2], np.float32)  # how much of each pixel the occluder takes
    if rng.random() < how.occluded:
        near = places[rng.integers(num_frames)] + rng.uniform(-1.2, 1.2, 2) * half_size
        bar = random_shape(rng, base * rng.uniform(0.5, 1.3), bar=True)
        window, hidden[window] = draw(scene, bar, near, half_size * rng.uniform(0.8, 1.3))

    noise = rng.uniform(*how.noise)
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    for frame, place, scale, view in zip(frames, places, scales, camera(rng, num_frames), strict=True):
        picture = scene.copy()
        draw(picture, shape, place, half_size * scale, hidden=hidden)
        frame[:] = shoot(picture, *view, noise=noise * grain(rng, height, width))
    if shift.inverted:
        np.subtract(255, frames, out=frames)
    return DemoClip(frames, label, tag, fps, float(half_size), "triangle" if shape.power is None else "blob")


def motion(
    name: str, rng: np.random.Generator, *, half_size: float, num_frames: int, speed: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Where the object is, from the centre of the picture (T, 2), and its size as a factor (T,).

    Travel and periods are for 16 frames; a longer file goes on at the same speed per frame, as far as there
    is room. A resting axis is spread by what a moving one would cover, so that a frame taken at a random
    time tells next to nothing; only the first and the last one do (what goes left begins on the right).
    """
    length = speed * (num_frames - 1) / 15
    time = np.linspace(0, 1, num_frames)
    time = time + rng.uniform(-0.35, 0.35) * np.sin(2 * np.pi * time) / (2 * np.pi)  # speed eases in and out
    room = ROOM - 1.2 * half_size
    travel = min(min(rng.uniform(3.3, 5.0) * half_size, 72.0) * length, room)
    swing = travel / length * rng.uniform(0.6, 0.8)
    zoom = min(speed * np.log(rng.uniform(2.2, 3.3)), np.log(WIDEST_ZOOM))
    turn = rng.uniform(-0.25, 0.25)
    wave = np.sin(2 * np.pi * (rng.uniform(1.4, 2.1) * length * time + rng.random())) / 2

    moves, log_scale = np.zeros((num_frames, 2)), np.zeros(num_frames)
    if name in HEADINGS:
        heading = HEADINGS[name] + turn
        moves = travel * (time[:, None] - 0.5) * (np.cos(heading), np.sin(heading))
    elif name in ("sway", "bob"):
        moves[:, 0 if name == "sway" else 1] = swing * wave
    elif name in ("towards", "away"):
        log_scale = zoom * (time - 0.5) * (1 if name == "towards" else -1)
    elif name == "pulse":
        log_scale = 0.8 * zoom * wave
    rest = np.maximum(travel - np.ptp(moves, axis=0), 0.0)
    middle = rng.uniform(-0.5, 0.5, 2) * (room - travel) + rng.uniform(-0.5, 0.5, 2) * rest
    jitter = rng.normal(0, rng.uniform(0, 0.25), (num_frames, 2))
    return middle + moves + jitter, np.exp(log_scale)


@dataclass(frozen=True)
class Shape:
    """A super-ellipse |u|^p + |v|^p = 1, or a triangle (power None), with two colours."""

    axes: tuple[float, float]  # along u and v, in half-sizes
    angle: float
    power: float | None
    waves: tuple[float, float, float]  # texture: radians per half-size along u and v, phase
    colours: np.ndarray  # (2, 3)


def random_shape(rng: np.random.Generator, luma: float, *, bar: bool = False, texture: float = 1.0) -> Shape:
    """Any look of mean brightness `luma`; a bar is long, thin and of nearly one colour."""
    aspect = rng.uniform(7, 12) if bar else rng.uniform(1.0, 1.8)
    power = 6.0 if bar else None if rng.random() < 0.35 else float(rng.choice((2.0, 2.5, 4.0)))
    spread = 0.02 if bar else rng.uniform(0.06, 0.14)
    colours = np.stack([colour(rng, luma + spread), colour(rng, luma - spread)])
    waves = (texture * rng.uniform(1.5, 5.0), texture * rng.uniform(0.0, 3.0), rng.uniform(0, 2 * np.pi))
    return Shape(
        (aspect**0.5, aspect**-0.5), rng.uniform(0, 2 * np.pi), power, waves, colours.astype(np.float32)
    )


def colour(rng: np.random.Generator, luma: float, richness: tuple[float, float] = (0.1, 0.6)) -> np.ndarray:
    """A random (3,) RGB colour of this brightness; `richness` 1 goes to the edge of what can be shown."""
    luma = min(max(luma, 0.02), 0.97)
    tint = rng.uniform(-1, 1, 3)
    tint -= tint @ (0.299, 0.587, 0.114)
    reach = np.where(tint > 0, 1 - luma, luma) / np.maximum(np.abs(tint), 1e-6)
    return luma + tint * min(reach.min(), 1.0) * rng.uniform(*richness)


def background(rng: np.random.Generator, height: int, width: int, base: float) -> np.ndarray:
    """A dim scene of mean brightness `base`: a smooth coloured field, fine grain, stripes in half of them."""
    knots = 0.04 * rng.standard_normal((6, 6, 1)) + 0.02 * rng.standard_normal((6, 6, 3))
    rows, columns = _hats(height, 6), _hats(width, 6)
    field = np.einsum("yi,ijc->yjc", rows, knots.astype(np.float32))
    field = np.einsum("xj,yjc->yxc", columns, field)
    field += (colour(rng, base, (0.0, 0.4)) - field.mean((0, 1))).astype(np.float32)
    field += 0.015 * grain(rng, height, width)
    if rng.random() < 0.5:
        angle, period = rng.uniform(0, np.pi), rng.uniform(8, 28)
        ys, xs = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)
        phase = (np.cos(angle) * xs + np.sin(angle) * ys) * (2 * np.pi / period)
        field += (rng.uniform(0.02, 0.05) * np.sin(phase))[..., None].astype(np.float32)
    return np.maximum(field, 0.0)


def draw(
    scene: np.ndarray, shape: Shape, place: np.ndarray, half_size: float, *, hidden: np.ndarray | None = None
) -> tuple[tuple[slice, slice], np.ndarray]:
    """Paint a shape onto the scene, in place, behind what `hidden` (H, W) covers.

    Returns the window that it touched and its opacity there.
    """
    window = _window(scene, shape, place, half_size)
    alpha, paint = _stamp(shape, place, half_size, window)
    if hidden is not None:
        alpha *= 1 - hidden[window]
    scene[window] += alpha[..., None] * (paint - scene[window])
    return window, alpha


def _window(scene: np.ndarray, shape: Shape, place: np.ndarray, half_size: float) -> tuple[slice, slice]:
    """The part of the scene that the shape can touch; empty when it lies outside."""
    reach = half_size * np.hypot(*shape.axes) + 1.5
    spans = []
    for middle, side in zip(place[::-1], scene.shape[:2], strict=True):
        first = min(max(int(middle - reach), 0), side)
        spans.append(slice(first, max(first, min(int(middle + reach) + 2, side))))
    return tuple(spans)


def _stamp(shape, place, half_size, window) -> tuple[np.ndarray, np.ndarray]:
    """Opacity (h, w) and colours (h, w, 3) of a shape in a window of the scene; edges are a pixel soft."""
    ys = (np.arange(window[0].start, window[0].stop, dtype=np.float32)[:, None] - place[1]) / half_size
    xs = (np.arange(window[1].start, window[1].stop, dtype=np.float32) - place[0]) / half_size
    cos, sin = np.cos(shape.angle), np.sin(shape.angle)
    u = ((cos * xs + sin * ys) / shape.axes[0]).astype(np.float32)
    v = ((cos * ys - sin * xs) / shape.axes[1]).astype(np.float32)
    if shape.power is None:  # level is 0 at the centre and 1 on the outline
        level = np.maximum(np.maximum(0.866 * u - 0.5 * v, -0.866 * u - 0.5 * v), v) / np.float32(0.62)
        sharpness = 0.62 * half_size * shape.axes[1]
    else:
        if shape.power == 2.0:
            level = np.sqrt(u * u + v * v)
        elif shape.power == 4.0:
            level = np.sqrt(np.sqrt((u * u) ** 2 + (v * v) ** 2))
        else:
            level = (np.abs(u) ** shape.power + np.abs(v) ** shape.power) ** np.float32(1 / shape.power)
        sharpness = half_size * shape.axes[1]
    alpha = np.clip((1 - level) * np.float32(sharpness) + np.float32(0.5), 0, 1)
    texture = np.sin(shape.waves[0] * u + shape.waves[2]) * np.cos(shape.waves[1] * v)
    mix = np.clip(0.5 + 1.5 * texture, 0, 1).astype(np.float32)[..., None]
    return alpha, shape.colours[0] + mix * (shape.colours[1] - shape.colours[0])


def camera(rng: np.random.Generator, num_frames: int) -> np.ndarray:
    """For each frame, (T, 3): the shake along x and y in px, and the gain of the light. Slow waves all."""
    time = np.linspace(0, 1, num_frames)[:, None]
    rate, phase = rng.uniform(0.5, 3.0, (2, 3)), rng.random((2, 3))
    waves = np.sin(2 * np.pi * (rate[0] * time + phase[0]))
    shake, drift = rng.uniform(0, SHAKE), rng.uniform(0, 0.06)
    return waves * (shake, shake, drift) + (0, 0, 1)


def shoot(picture: np.ndarray, x: float, y: float, gain: float, *, noise: np.ndarray) -> np.ndarray:
    """What the camera, moved by (x, y), sees of a padded picture: (H, W, 3) in 0..255, like the noise."""
    height, width = noise.shape[:2]
    (left, right_part), (top, lower_part) = divmod(x + PAD, 1), divmod(y + PAD, 1)
    left, top = int(left), int(top)
    rows = picture[top : top + height] * np.float32(255 * gain * (1 - lower_part))
    rows += picture[top + 1 : top + height + 1] * np.float32(255 * gain * lower_part)
    seen = rows[:, left : left + width] * np.float32(1 - right_part)
    seen += rows[:, left + 1 : left + width + 1] * np.float32(right_part)
    seen += noise
    return np.clip(seen, 0, 255, out=seen)


@cache
def _grain_tile() -> np.ndarray:
    """Normal noise, drawn once per process; every use takes a window of it."""
    return np.random.default_rng(0).standard_normal((288, 288, 3), np.float32)


def grain(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    tile = _grain_tile()
    top, left = rng.integers(0, (tile.shape[0] - height, tile.shape[1] - width))
    return tile[top : top + height, left : left + width]


@cache
def _hats(length: int, knots: int) -> np.ndarray:
    """Weights (length, knots) that join values at even knots by smooth steps."""
    where = np.linspace(0, knots - 1, length)[:, None] - np.arange(knots)
    near = np.clip(1 - np.abs(where), 0, 1)
    return (near * near * (3 - 2 * near)).astype(np.float32)
