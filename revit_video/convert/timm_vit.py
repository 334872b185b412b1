"""Names of timm's VisionTransformer and of DeiT, plain and distilled."""

import torch

from revit_video.convert.rules import BLOCK, OUTER, State, Table

TABLE: Table = {
    **OUTER,
    "patch_embed.proj.*": "patch_embeds.0.proj.*",
    **BLOCK,
    "pre_logits.fc.*": "pre_logits.*",  # timm's ViTs of ImageNet-21k
    "dist_token": "distill_tokens",
    "head_dist.*": "head_distill.*",
}


def prepare(state: State) -> State:
    """The distillation token carries its position (row 1 of their table) in itself here."""
    if "dist_token" not in state or "pos_embed" not in state:
        return state
    positions = state["pos_embed"]  # (1, 2 + S, D)
    return {
        **state,
        "dist_token": state["dist_token"] + positions[:, 1:2],
        "pos_embed": torch.cat([positions[:, :1], positions[:, 2:]], dim=1),
    }


def restore(state: State) -> State:
    """The way back: their table gets a row of zeros for the distillation token."""
    if "dist_token" not in state:
        return state
    positions = state["pos_embed"]
    middle = torch.zeros_like(positions[:, :1])
    return {**state, "pos_embed": torch.cat([positions[:, :1], middle, positions[:, 1:]], dim=1)}


def table(state: State) -> Table:
    return TABLE
