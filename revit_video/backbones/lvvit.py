"""LV-ViT (Jiang et al., "All Tokens Matter", arXiv:2104.10858) at several token lengths. Facts from the paper
and official outputs; own code.
"""

from revit_video.backbones.core import ReViT
from revit_video.backbones.image_vit import image_vit


def lvvit(*, skip_lam: float = 1.0, stem_width: int = 64, **trunk) -> ReViT:
    """A ViT on images (B, 3, 1, H, W) with a convolutional stem, scaled residuals and a head on every patch.

    Prediction adds half of the best patch's logits, class by class, to those of the class token.

    Args:
        skip_lam: every residual branch is divided by it: 1 in LV-ViT-T, 2 in S and M, 3 in L.
        stem_width: channels of the stem's convolutions: 64, and 128 in LV-ViT-L.
        trunk: arguments of `ReViT`; they win over those that make the model an LV-ViT.
    """
    own = {"mlp_ratio": 3.0, "qkv_bias": False, "norm_eps": 1e-5, "residual_scale": 1 / skip_lam}
    stem = {"patch_embed": "lv_stem", "patch_embed_options": {"width": stem_width}}
    if trunk.get("patch_embed", "lv_stem") != "lv_stem":
        stem = {}  # the width is the stem's
    return image_vit(**{**own, **stem, "aux_head": True, **trunk})
