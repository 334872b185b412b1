"""Names of the official TimeSformer (arXiv:2102.05095): divided, joint and space-only.

Nothing in it is dead. Its tokens run place by place and ours frame by frame, which no parameter sees.
"""

from revit_video.convert.rules import BLOCK, OUTER, State, Table, norm

TABLE: Table = {
    **OUTER,
    "time_embed": "time_table",
    "patch_embed.proj.*": "patch_embeds.0.proj.*",
    **BLOCK,
    **norm("blocks.N.temporal_norm1", "blocks.N.time.norm"),
    "blocks.N.temporal_attn.qkv.*": "blocks.N.time.attn.qkv.*",
    "blocks.N.temporal_attn.proj.*": "blocks.N.time.attn.proj.*",
    "blocks.N.temporal_fc.*": "blocks.N.time.fc.*",
}


def table(state: State) -> Table:
    return TABLE
