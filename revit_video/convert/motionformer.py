"""Names of the official Motionformer (arXiv:2106.05392): trajectory, joint and divided; EPIC's two heads.

Some of its parameters are dead, and which ones depends on the variant: with tubelets of z > 1 frames the
two-dimensional patch embedding, with z = 1 the three-dimensional one, with a table over space and time the
spatial table. The bias of the keys over time is added to all frames alike, so the softmax cancels it.
"""

import torch

from revit_video.convert.rules import BLOCK, OUTER, Dead, State, Table, norm

BIAS = Dead("the same for every frame, cancels in the softmax")
SEPARATE: Table = {"pos_embed": "pos_tables.0", "temp_embed": "time_table"}
JOINT: Table = {"pos_embed": Dead("st_embed is read instead"), "st_embed": "pos_tables.0"}
BLOCKS: Table = {
    **BLOCK,
    "blocks.N.attn.proj_q.*": "blocks.N.attn.proj_q.*",
    "blocks.N.attn.proj_kv.weight (k)": "blocks.N.attn.proj_k.weight",
    "blocks.N.attn.proj_kv.bias (k)": BIAS,
    "blocks.N.attn.proj_kv.weight (v)": "blocks.N.attn.proj_v.weight",
    "blocks.N.attn.proj_kv.bias (v)": "blocks.N.attn.proj_v.bias",
    **norm("blocks.N.norm3", "blocks.N.time_norm"),
    "blocks.N.timeattn.qkv.*": "blocks.N.time_attn.qkv.*",
    "blocks.N.timeattn.proj.*": "blocks.N.time_attn.proj.*",
}


def prepare(state: State) -> State:
    """Keys and values over time apart, and the heads of verbs and nouns as one, verbs first."""
    split = {}
    for key, tensor in state.items():
        if ".attn.proj_kv." in key:
            split[f"{key} (k)"], split[f"{key} (v)"] = tensor.chunk(2)
        else:
            split[key] = tensor
    if "head0.weight" in split and "head1.weight" in split:
        for kind in ("weight", "bias"):
            split[f"head.{kind}"] = torch.cat([split.pop(f"head{i}.{kind}") for i in (0, 1)])
    return split


def heads(state: State) -> tuple[int, ...]:
    """Numbers of verbs and nouns where there is a head for each, () where there is one head."""
    two = [f"head{i}.weight" for i in (0, 1)]
    return tuple(len(state[key]) for key in two) if all(key in state for key in two) else ()


def table(state: State) -> Table:
    kernel = state.get("patch_embed_3d.proj.weight")
    flat = kernel is None or kernel.shape[2] == 1
    read, idle = ("patch_embed", "patch_embed_3d") if flat else ("patch_embed_3d", "patch_embed")
    return {
        **OUTER,
        **(JOINT if "st_embed" in state else SEPARATE),
        f"{read}.proj.*": "patch_embeds.0.proj.*",
        f"{idle}.proj.*": Dead("tubelets of one frame" if flat else "tubelets of several frames"),
        **BLOCKS,
        "pre_logits.fc.*": "pre_logits.*",
    }


def restore(state: State, *, heads: tuple[int, int] | None = None) -> State:
    """The way back: what is dead as zeros, keys and values joined, one head or EPIC's two."""
    joined = dict(state)
    kernel = joined.get("patch_embed_3d.proj.weight", joined.get("patch_embed.proj.weight"))
    dim, channels, rows, columns = kernel.shape[0], kernel.shape[1], *kernel.shape[-2:]
    shapes = {
        "patch_embed": (dim, channels, rows, columns),
        "patch_embed_3d": (dim, channels, 1, rows, columns),
    }
    for name, shape in shapes.items():
        if f"{name}.proj.weight" not in joined:
            joined[f"{name}.proj.weight"] = kernel.new_zeros(shape)
            joined[f"{name}.proj.bias"] = kernel.new_zeros(dim)
    depth = 1 + max(int(key.split(".")[1]) for key in joined if key.startswith("blocks."))
    if any(".attn.proj_q." in key for key in joined):
        for i in range(depth):
            name = f"blocks.{i}.attn"
            for kind, shape in (("weight", (dim, dim)), ("bias", (dim,))):
                joined.setdefault(f"{name}.proj_q.{kind}", kernel.new_zeros(shape))
                halves = [joined.pop(f"{name}.proj_kv.{kind} ({half})", None) for half in "kv"]
                halves = [kernel.new_zeros(shape) if half is None else half for half in halves]
                joined[f"{name}.proj_kv.{kind}"] = torch.cat(halves)
    if heads is not None:
        for kind in ("weight", "bias"):
            for i, part in enumerate(joined.pop(f"head.{kind}").split(list(heads))):
                joined[f"head{i}.{kind}"] = part
    return joined
