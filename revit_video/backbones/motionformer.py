"""Motionformer (Patrick et al., arXiv:2106.05392) at several token lengths. Facts from the paper and official
outputs; own code.
"""

from revit_video.backbones.core import ReViT


def motionformer(
    *,
    num_classes: int = 400,
    num_frames: int = 16,
    crop: int | tuple[int, int] = 224,
    class_token_only: bool = True,
    **trunk,
) -> ReViT:
    """Trajectory attention on tubelets of two frames; `trunk` are the arguments of `ReViT`.

    The last block computes the class token only, as nobody reads its patches.
    """
    defaults = {"attention": "trajectory", "tubelet": 2, "pre_logits": "tanh"}
    return ReViT(
        num_classes=num_classes,
        num_frames=num_frames,
        crop=crop,
        class_token_only=class_token_only,
        **{**defaults, **trunk},
    )
