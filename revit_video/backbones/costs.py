"""What a backbone costs at each of its token lengths."""

import torch

from revit_video.backbones.core import ReViT
from revit_video.backbones.zoo import create_model
from revit_video.report.macs import count_macs

COLUMNS = {  # of `cost_rows`, for report.tables
    "length": ("length", "d"),
    "frames": ("frames", "d"),
    "crop": ("crop", ""),
    "tokens": ("tokens", "d"),
    "patch_embed_gmacs": ("of it patch embedding", ".3f"),
    "distill_token_gmacs": ("distillation token", ".3f"),
    "gmacs": ("GMACs", ".2f"),
    "params": ("parameters", ",d"),
}


def level_gmacs(model: ReViT) -> list[float]:
    """GMACs per view of each level, counted on a clip of zeros where the model lies."""
    parameter = next(model.parameters())
    clip = torch.zeros(1, 3, model.num_frames, *model.crop, dtype=parameter.dtype, device=parameter.device)
    return [count_macs(model, clip, level=level) / 1e9 for level in range(model.num_levels)]


def cost_rows(name: str, **changes) -> list[dict]:
    """One row per token length of the model `name`: model, length, tokens per clip, gmacs per view (and the
    parts of it that a plain model of patch size 16 at that grid has not), params.

    `params` counts what lies in memory: all lengths' parts together.
    """
    model = create_model(name, **changes).eval()
    bare = level_gmacs(create_model(name, **{**changes, "distill_token": False}).eval())
    params = sum(parameter.numel() for parameter in model.parameters())
    return [
        {
            "model": name,
            "length": length,
            "tokens": grid.frames * grid.per_frame,
            "frames": grid.frames,
            "crop": f"{model.crop[0]}x{model.crop[1]}",
            "patch_embed_gmacs": patch_embed_gmacs(model, grid.level),
            "distill_token_gmacs": gmacs - bare[grid.level],
            "gmacs": gmacs,
            "params": params,
        }
        for length, grid, gmacs in zip(model.token_lengths, model.grids, level_gmacs(model), strict=True)
    ]


def patch_embed_gmacs(model: ReViT, level: int) -> float:
    """GMACs of a level's patch embedding alone: the part that differs from a model of patch size 16 at that
    grid.
    """
    clip = torch.zeros(1, 3, model.num_frames, *model.crop)
    return count_macs(model.patch_embeds[level], clip) / 1e9
