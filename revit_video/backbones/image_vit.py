"""Image transformers (ViT, DeiT) as clips of one frame: the same core, joint attention, no time table."""

from revit_video.backbones.core import ReViT
from revit_video.types import InputError


def image_vit(
    *, num_classes: int = 1000, num_frames: int = 1, crop: int | tuple[int, int] = 224, **trunk
) -> ReViT:
    """A ViT on images (B, 3, 1, H, W); `trunk` are the arguments of `ReViT`."""
    if num_frames != 1:
        raise InputError(f"an image model takes clips of 1 frame, not {num_frames}; set data.num_frames=1")
    return ReViT(num_classes=num_classes, num_frames=1, crop=crop, **{"attention": "joint", **trunk})
