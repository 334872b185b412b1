"""Names of TimesformerForVideoClassification and TimesformerModel of Hugging Face's transformers."""

from revit_video.convert.rules import State, Table, norm

LAYER, BLOCK = "encoder.layer.N", "blocks.N"
TABLE: Table = {
    "embeddings.cls_token": "class_token",
    "embeddings.position_embeddings": "pos_tables.0",
    "embeddings.time_embeddings": "time_table",
    "embeddings.patch_embeddings.projection.*": "patch_embeds.0.proj.*",
    **norm(f"{LAYER}.layernorm_before", f"{BLOCK}.norm1"),
    f"{LAYER}.attention.attention.qkv.*": f"{BLOCK}.attn.qkv.*",
    f"{LAYER}.attention.output.dense.*": f"{BLOCK}.attn.proj.*",
    **norm(f"{LAYER}.layernorm_after", f"{BLOCK}.norm2"),
    f"{LAYER}.intermediate.dense.*": f"{BLOCK}.mlp.fc1.*",
    f"{LAYER}.output.dense.*": f"{BLOCK}.mlp.fc2.*",
    **norm(f"{LAYER}.temporal_layernorm", f"{BLOCK}.time.norm"),
    f"{LAYER}.temporal_attention.attention.qkv.*": f"{BLOCK}.time.attn.qkv.*",
    f"{LAYER}.temporal_attention.output.dense.*": f"{BLOCK}.time.attn.proj.*",
    f"{LAYER}.temporal_dense.*": f"{BLOCK}.time.fc.*",
    **norm("layernorm", "norm"),
    "classifier.*": "head.*",
}


def prepare(state: State) -> State:
    """The trunk is called `timesformer.` inside the classifier and has no prefix on its own."""
    return {key.removeprefix("timesformer."): tensor for key, tensor in state.items()}


def table(state: State) -> Table:
    return TABLE
