"""Names to builders, in plain sight."""

import difflib
import inspect
from collections.abc import Callable
from functools import partial

from revit_video.backbones.core import ReViT
from revit_video.backbones.image_vit import image_vit
from revit_video.backbones.lvvit import lvvit
from revit_video.backbones.motionformer import motionformer
from revit_video.backbones.t2t_vit import t2t_vit
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
    "motionformer_base": partial(motionformer, num_frames=16, crop=224, **BASE),
    "motionformer_hr": partial(motionformer, num_frames=16, crop=336, token_lengths=(21, 14, 11), **BASE),
    "motionformer_large": partial(motionformer, num_frames=32, crop=224, **BASE),  # "L": more frames
    "motionformer_joint_base": partial(motionformer, num_frames=16, crop=224, attention="joint", **BASE),
    "motionformer_divided_base": partial(
        motionformer, num_frames=16, crop=224, attention="mf_divided", **BASE
    ),
    "deit_tiny": partial(image_vit, **TINY),
    "deit_small": partial(image_vit, **SMALL),
    "deit_base": partial(image_vit, **BASE),
    "deit_tiny_distilled": partial(image_vit, distilled=True, **TINY),
    "deit_small_distilled": partial(image_vit, distilled=True, **SMALL),
    "deit_base_distilled": partial(image_vit, distilled=True, **BASE),
    "lvvit_tiny": partial(lvvit, dim=240, depth=12, heads=4),
    "lvvit_small": partial(lvvit, skip_lam=2.0, dim=384, depth=16, heads=6),
    "lvvit_medium": partial(lvvit, skip_lam=2.0, dim=512, depth=20, heads=8),
    "t2t_vit_7": partial(t2t_vit, dim=256, depth=7, heads=4, mlp_ratio=2.0),
    "t2t_vit_10": partial(t2t_vit, dim=256, depth=10, heads=4, mlp_ratio=2.0),
    "t2t_vit_12": partial(t2t_vit, dim=256, depth=12, heads=4, mlp_ratio=2.0),
    "t2t_vit_14": partial(t2t_vit, dim=384, depth=14, heads=6, mlp_ratio=3.0),
    "t2t_vit_19": partial(t2t_vit, dim=448, depth=19, heads=7, mlp_ratio=3.0),
    "t2t_vit_24": partial(t2t_vit, dim=512, depth=24, heads=8, mlp_ratio=3.0),
    "t2t_vit_t_14": partial(t2t_vit, tokens="transformer", dim=384, depth=14, heads=6, mlp_ratio=3.0),
    "t2t_vit_t_19": partial(t2t_vit, tokens="transformer", dim=448, depth=19, heads=7, mlp_ratio=3.0),
    "t2t_vit_t_24": partial(t2t_vit, tokens="transformer", dim=512, depth=24, heads=8, mlp_ratio=3.0),
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
