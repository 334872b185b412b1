"""Names to builders, in plain sight."""

import difflib
import inspect
from collections.abc import Callable
from functools import partial

from revit_video.backbones.core import ReViT
from revit_video.backbones.image_vit import image_vit
from revit_video.backbones.timesformer import timesformer
from revit_video.types import InputError

MODELS: dict[str, Callable[..., ReViT]] = {
    "timesformer_base": partial(timesformer, num_frames=8, crop=224, dim=768, depth=12, heads=12),
    "timesformer_hr": partial(
        timesformer, num_frames=16, crop=448, token_lengths=(28, 20, 14), dim=768, depth=12, heads=12
    ),
    "timesformer_tiny": partial(
        timesformer,
        num_frames=5,
        crop=112,
        dim=96,
        depth=4,
        heads=3,
        pos_init="sine",
        zero_time_init=False,
        init_scale=1.0,
        center_clips=True,
        class_token_only=True,
    ),
    "deit_tiny": partial(image_vit, dim=192, depth=12, heads=3),
    "deit_small": partial(image_vit, dim=384, depth=12, heads=6),
    "deit_base": partial(image_vit, dim=768, depth=12, heads=12),
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
