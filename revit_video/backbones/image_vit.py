"""Image transformers (ViT, DeiT) as clips of one frame: the same core, joint attention, no time table."""

from revit_video.backbones.core import ReViT


def image_vit(*, num_classes: int = 1000, crop: int | tuple[int, int] = 224, **trunk) -> ReViT:
    """A ViT on images (B, 3, 1, H, W); `trunk` are the arguments of `ReViT`."""
    return ReViT(num_classes=num_classes, num_frames=1, crop=crop, **{"attention": "joint", **trunk})
