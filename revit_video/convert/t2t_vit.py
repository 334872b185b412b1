"""Names of T2T-ViT (arXiv:2101.11986), with performer or transformer between the soft splits."""

from revit_video.convert.rules import BLOCK, OUTER, State, Table

STAGES = [(f"tokens_to_token.attention{i}", f"patch_embeds.0.attention{i}") for i in (1, 2)]
SAME = ("norm1.*", "norm2.*", "kqv.*", "proj.*", "w", "attn.qkv.*", "attn.proj.*", "mlp.fc1.*", "mlp.fc2.*")
TABLE: Table = {
    **OUTER,
    **{f"{theirs}.{name}": f"{ours}.{name}" for theirs, ours in STAGES for name in SAME},
    **{f"{theirs}.mlp.0.*": f"{ours}.mlp.fc1.*" for theirs, ours in STAGES},
    **{f"{theirs}.mlp.2.*": f"{ours}.mlp.fc2.*" for theirs, ours in STAGES},
    "tokens_to_token.project.*": "patch_embeds.0.project.*",
    **BLOCK,
}


def table(state: State) -> Table:
    return TABLE
