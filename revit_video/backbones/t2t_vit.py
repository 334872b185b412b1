"""T2T-ViT (Yuan et al., "Tokens-to-Token ViT", arXiv:2101.11986) at several token lengths. Facts from the
paper and official outputs; own code.
"""

from revit_video.backbones.core import ReViT
from revit_video.backbones.image_vit import image_vit


def t2t_vit(*, tokens: str = "performer", token_dim: int = 64, **trunk) -> ReViT:
    """A ViT on images (B, 3, 1, H, W) whose patches grow out of overlapping windows.

    Args:
        tokens: the attention between the windows, "performer" or "transformer" (the authors' t2t_vit_t_*).
        token_dim: its width.
        trunk: arguments of `ReViT`; they win over those that make the model a T2T-ViT.
    """
    own = {"qkv_bias": False, "norm_eps": 1e-5, "pos_init": "sine_1d"}
    stem = {"patch_embed": f"t2t_{tokens}", "patch_embed_options": {"token_dim": token_dim}}
    if not trunk.get("patch_embed", "t2t_").startswith("t2t_"):
        stem = {}  # the width is the stem's
    return image_vit(**{**own, **stem, **trunk})
