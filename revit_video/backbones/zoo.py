"""Names to builders, in plain sight."""

import difflib
import inspect
from collections.abc import Callable
from functools import partial

from revit_video.backbones.core import ReViT
from revit_video.backbones.image_vit import image_vit
from revit_video.backbones.timesformer import timesformer
from revit_video.types import InputError

BASE = {"dim": 768, "depth": 12, "heads": 12}  # the trunk of ViT-B
LARGE = {"dim": 1024, "depth": 24, "heads": 16}  # of ViT-L
SMALL = {"dim": 384, "depth": 12, "heads": 6}
TINY = {"dim": 192, "depth": 12, "heads": 3}
FROM_SCRATCH = {"pos_init": "sine", "zero_time_init": False, "init_scale": 1.0, "center_clips": True}

MODELS: dict[str, Callable[..., ReViT]] = {
    "timesformer_base": partial(timesformer, num_frames=8, crop=224, **BASE),
    "timesformer_hr": partial(timesformer, num_frames=16, crop=448, token_lengths=(28, 20, 14), **BASE),
    "timesformer_large": partial(timesformer, num_frames=96, crop=224, **BASE),  # "L": more frames
    "timesformer_vit_large": partial(timesformer, num_frames=64, crop=224, **LARGE),
    "timesformer_joint_base": partial(timesformer, num_frames=8, crop=224, attention="joint", **BASE),
    "timesformer_space_base": partial(timesformer, num_frames=8, crop=224, attention="space_only", **BASE),
    "timesformer_tiny": partial(
        timesformer,
        num_frames=5,
        crop=112,
        dim=96,
        depth=4,
        heads=3,
        class_token_only=True,
        **FROM_SCRATCH,
    ),
    "deit_tiny": partial(image_vit, **TINY),
    "deit_small": partial(image_vit, **SMALL),
    "deit_base": partial(image_vit, **BASE),
    "deit_tiny_distilled": partial(image_vit, distilled=True, **TINY),
    "deit_small_distilled": partial(image_vit, distilled=True, **SMALL),
    "deit_base_distilled": partial(image_vit, distilled=True, **BASE),
}


def create_model(name: str, **changes) -> ReViT:
    """create_model("timesformer_base", num_classes=400, token_lengths=(14, 10, 7)); arguments are those of
    `ReViT`.
    """
    if name not in MODELS:
        near = ", ".join(difflib.get_close_matches(name, MODELS, n=3)) or ", ".join(MODELS)
        raise InputError(f"no model named {name!r}. Nearest: {near}")
    known = inspect.signature(ReViT).parameters
    for key in changes:
        if key not in known:
            near = ", ".join(difflib.get_close_matches(key, known, n=3)) or ", ".join(known)
            raise InputError(f"model {name} has no argument {key!r}. Nearest: {near}")
    return MODELS[name](**changes)
