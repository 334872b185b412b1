"""Settings of the augmentation, and the recipes that fill in what is not given."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

from revit_video.settings.checks import check, one_of, within
from revit_video.settings.data import DataConfig
from revit_video.types import InputError

OFF = {  # what a setting is that neither the user nor the preset gives
    "jitter": "whole",
    "resized_crop": [],
    "resized_aspect": [3 / 4, 4 / 3],
    "color_jitter": [],
    "color_prob": 1.0,
    "grayscale": 0.0,
    "rand_ops": 0,
    "rand_magnitude": 9.0,
    "rand_std": 0.5,
    "rand_prob": 0.5,
    "erase_prob": 0.0,
    "erase_share": [0.02, 1 / 3],
    "repeats": 1,
    "mixup": 0.0,
    "cutmix": 0.0,
    "mix_prob": 1.0,
    "switch_prob": 0.5,
    "mix_token": 0.0,
}

COLOURS = {"color_jitter": [0.4, 0.4, 0.4, 0.0], "color_prob": 0.8}
PICTURES = {  # of DeiT, which LV-ViT takes over
    "resized_crop": [0.08, 1.0],
    "resized_aspect": [3 / 4, 4 / 3],
    "rand_ops": 2,
    "rand_magnitude": 9.0,
    "rand_std": 0.5,
    "rand_prob": 0.5,
    "erase_prob": 0.25,
    "erase_share": [0.02, 1 / 3],
}
RAND_20 = {"rand_ops": 2, "rand_magnitude": 20.0, "rand_std": 0.5, "rand_prob": 0.5}
PRESETS: dict[str, dict] = {  # docs/data.md says where every number is from
    "timesformer_kinetics": {"jitter": "uniform"},
    "timesformer_ssv2": {"jitter": "inverse_uniform"},
    "motionformer_kinetics": {"jitter": "uniform", **COLOURS},
    "motionformer_ssv2": {"jitter": "inverse_uniform", **RAND_20},
    "motionformer_epic_kitchens": {"jitter": "uniform", **RAND_20},
    "deit": {
        **PICTURES,
        "repeats": 3,
        "mixup": 0.8,
        "cutmix": 1.0,
        "mix_prob": 1.0,
        "switch_prob": 0.5,
    },
    "lvvit": {**PICTURES, "mix_token": 1.0},
}
BY_DATASET = ("timesformer", "motionformer")  # stand for the preset of the data set, or else of Kinetics

NEEDS = {  # a setting that nothing looks at unless one of these is on
    "resized_aspect": ("resized_crop",),
    "color_prob": ("color_jitter",),
    "rand_magnitude": ("rand_ops",),
    "rand_std": ("rand_ops",),
    "rand_prob": ("rand_ops",),
    "erase_share": ("erase_prob",),
    "mix_prob": ("mixup", "cutmix"),
    "switch_prob": ("mixup", "cutmix"),
}

LIMITS = {
    (0, 1): ("color_prob", "grayscale", "rand_prob", "erase_prob", "mix_prob", "switch_prob"),
    (0, math.inf): ("rand_ops", "rand_magnitude", "rand_std", "mixup", "cutmix", "mix_token"),
    (1, math.inf): ("repeats",),
}


@dataclass(frozen=True)
class AugmentConfig:
    preset: str = ""  # a name in PRESETS or BY_DATASET: what the settings below are where null
    jitter: str | None = None  # whole | uniform | inverse_uniform: draws of data.train_jitter
    resized_crop: list[float] | None = None  # smallest and largest share of the frame's area; []: off
    resized_aspect: list[float] | None = None  # narrowest and widest box, width over height
    color_jitter: list[float] | None = None  # of brightness, contrast, saturation, hue; []: off
    color_prob: float | None = None  # share of the clips whose colours are jittered
    grayscale: float | None = None  # share of the clips without colours
    rand_ops: int | None = None  # RandAugment: operations per clip; 0: off
    rand_magnitude: float | None = None  # 0 to 10; more is 10
    rand_std: float | None = None  # of the magnitude
    rand_prob: float | None = None  # that a drawn operation is carried out
    erase_prob: float | None = None  # share of the clips of which a box is erased
    erase_share: list[float] | None = None  # smallest and largest share of the area of that box
    repeats: int | None = None  # clips of a video from one decoding
    mixup: float | None = None  # alpha; 0: off
    cutmix: float | None = None  # alpha; 0: off
    mix_prob: float | None = None  # share of the steps that are mixed
    switch_prob: float | None = None  # share of cutmix among these, where mixup is on too
    mix_token: float | None = None  # alpha of a box of tokens from another clip; 0: off

    def __post_init__(self) -> None:
        if self.preset:
            one_of(self, "preset", (*BY_DATASET, *PRESETS))
        given = [field.name for field in fields(self) if getattr(self, field.name) is not None]
        if "jitter" in given:
            one_of(self, "jitter", ("whole", "uniform", "inverse_uniform"))
        for (low, high), names in LIMITS.items():
            within(self, low, high, *(name for name in names if name in given))
        for name in ("resized_crop", "erase_share"):
            if name not in given:
                continue
            shares = getattr(self, name)
            fits = len(shares) == 2 and 0 < shares[0] <= shares[1] <= 1
            off = name == "resized_crop" and not shares
            check(self, name, fits or off, "[smallest, largest] share of the area, above 0 and at most 1")
        if "resized_aspect" in given:
            aspects = self.resized_aspect
            fits = len(aspects) == 2 and 0 < aspects[0] <= aspects[1] < math.inf
            check(self, "resized_aspect", fits, "[narrowest, widest], width over height, above 0")
        if "color_jitter" in given:
            ranges = zip(self.color_jitter, (1, 1, 1, 0.5), strict=False)
            fits = len(self.color_jitter) in (0, 4) and all(0 <= x <= most for x, most in ranges)
            expected = "[] or [brightness, contrast, saturation, hue], each from 0 to 1, the hue to 0.5"
            check(self, "color_jitter", fits, expected)


def recipe(preset: str, dataset: str) -> dict:
    """What a preset says for a data set; {} without a preset."""
    if preset in BY_DATASET:
        own = f"{preset}_{dataset}"
        preset = own if own in PRESETS else f"{preset}_kinetics"
    return PRESETS[preset] if preset else {}


def filled(augment: AugmentConfig, said: dict) -> AugmentConfig:
    """The settings with no null left: what is given, else what the recipe said, else off."""
    values = OFF | said
    return replace(
        augment, **{name: value for name, value in values.items() if getattr(augment, name) is None}
    )


def check_augment(augment: AugmentConfig, data: DataConfig, *, batch_size: int) -> None:
    """Refuse a given setting that nothing would look at, and mixing where there is nothing to mix."""
    if data.dataset == "packed" and augment.preset in BY_DATASET:
        known = ", ".join(name for name in PRESETS if name.startswith(augment.preset))
        raise InputError(
            f"augment.preset is {augment.preset!r}, but data.dataset=packed does not say whose recipe that "
            f"is; give one of {known}"
        )
    full = filled(augment, recipe(augment.preset, data.dataset))
    if full.resized_crop and augment.jitter is not None:
        raise InputError(
            f"augment.jitter is {augment.jitter!r}, but augment.resized_crop={full.resized_crop} takes the "
            "place of the short-side jitter; leave one out (augment.resized_crop=[] switches it off)"
        )
    for name, switches in NEEDS.items():
        off = [f"augment.{switch}" for switch in switches if not is_on(full, switch)]
        unused = off if name == "switch_prob" else off == [f"augment.{switch}" for switch in switches]
        if unused and getattr(augment, name) is not None:
            raise InputError(
                f"augment.{name} is {getattr(augment, name)!r}, but {' and '.join(off)} "
                f"{'is' if len(off) == 1 else 'are'} off, so nothing would look at it; leave it out"
            )
    pixels_mixed = [f"augment.{name}" for name in ("mixup", "cutmix") if getattr(full, name)]
    patches = "augment.mix_token" if full.mix_token else "data.label_maps" if data.label_maps else ""
    if pixels_mixed and patches:
        raise InputError(
            f"{' and '.join(pixels_mixed)} mix pixels, and {patches} is for pictures that are whole; set "
            f"{' '.join(f'{name}=0' for name in pixels_mixed)}, or leave {patches} out"
        )
    if full.mix_token and batch_size < 2:
        raise InputError("augment.mix_token mixes the clips of a pass, but solver.batch_size=1 has one alone")
    if (full.mixup or full.cutmix) and batch_size < 2 * full.repeats:
        raise InputError(
            f"augment.mixup={full.mixup:g} and augment.cutmix={full.cutmix:g} mix the videos of a step, but "
            f"solver.batch_size={batch_size} is fewer than 2 videos of {full.repeats} clips each "
            "(augment.repeats); give more, or set both to 0"
        )


def is_on(full: AugmentConfig, switch: str) -> bool:
    value = getattr(full, switch)
    return any(value) if isinstance(value, list) else bool(value)
