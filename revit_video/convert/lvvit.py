"""Names of LV-ViT (arXiv:2104.10858): a convolutional stem, no qkv bias, a second head for every patch."""

from revit_video.convert.rules import BLOCK, OUTER, State, Table, linears

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
TABLE: Table = {
    **OUTER,
    "patch_embed.proj.*": "patch_embeds.0.proj.*",
    **{f"patch_embed.conv{i}.weight": f"patch_embeds.0.conv{i}.weight" for i in (1, 2, 3)},
    **{f"patch_embed.bn{i}.*": f"patch_embeds.0.bn{i}.*" for i in (1, 2, 3)},
    **{f"patch_embed.bn{i}.{name}": f"patch_embeds.0.bn{i}.{name}" for i in (1, 2, 3) for name in STATISTICS},
    **BLOCK,
    **linears("aux_head"),
}


def table(state: State) -> Table:
    return TABLE
