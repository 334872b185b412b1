"""TimeSformer (Bertasius et al., arXiv:2102.05095) at several token lengths. Facts from the paper and
official outputs; own code.
"""

from revit_video.backbones.core import ReViT


def timesformer(
    *, num_classes: int = 400, num_frames: int = 8, crop: int | tuple[int, int] = 224, **trunk
) -> ReViT:
    """Divided space-time attention on clips (B, 3, T, H, W); `trunk` are the arguments of `ReViT`."""
    return ReViT(
        num_classes=num_classes, num_frames=num_frames, crop=crop, **{"attention": "divided", **trunk}
    )
