"""What it takes to run at several lengths, for benchmarks/costs.py: patch embeddings and parameters."""

from collections.abc import Callable, Iterator

from revit_video.backbones.core import ReViT
from revit_video.backbones.costs import level_gmacs, patch_embed_macs
from revit_video.backbones.parameters import PARTS, parameter_parts

LENGTHS = (14, 10, 7)
EMBEDDINGS = {
    "deit_small": ("conv", "conv_stem", "resize", "shared"),
    "lvvit_small": ("lv_stem", "conv_stem", "conv", "resize"),
}
SHARING = {  # arguments of ReViT, by what the table calls them
    "one patch kernel": {"patch_embed": "shared"},
    "one table, zeros around": {"positions": "shared"},
    "one table, resized": {"positions": "shared_bicubic"},
    "one row in norms": {"norms": "shared"},
}
EMBEDDING_COLUMNS = {
    "model": ("model", ""),
    "embedding": ("patch embedding", ""),
    "params": ("params (M)", ".2f"),
    **{f"own{length}": (f"at {length}", ".3f") for length in LENGTHS},
    **{f"model{length}": (f"model at {length}", ".3f") for length in LENGTHS},
}
PARAMETER_COLUMNS = {
    "model": ("model", ""),
    "what": ("what", ""),
    **{part: (part, ",d") for part in PARTS},
    "total": ("total", ",d"),
    "more": ("more than one length", "+.1%"),
    "undistilled": ("without distillation", "+.1%"),
}


def embedding_rows(build: Callable[..., ReViT]) -> Iterator[dict]:
    """A row for every patch embedding of a model of three lengths, without distillation tokens."""
    for name, kinds in EMBEDDINGS.items():
        for kind in kinds:
            model = build(name, token_lengths=LENGTHS, distill_token=False, patch_embed=kind)
            row = {"model": name, "embedding": kind}
            row["params"] = parameter_parts(model)["patch embeddings"] / 1e6
            for level, (length, gmacs) in enumerate(zip(LENGTHS, level_gmacs(model), strict=True)):
                row |= {f"own{length}": patch_embed_macs(model, level).total / 1e9, f"model{length}": gmacs}
            yield row


def parameter_rows(build: Callable[..., ReViT]) -> Iterator[dict]:
    """Of each model one length, then three with each patch embedding, then (DeiT) with what can be shared."""
    for name, kinds in EMBEDDINGS.items():
        for kind in kinds[:3]:
            one = parameter_parts(build(name, token_lengths=LENGTHS[:1], patch_embed=kind))
            plain = sum(one.values())
            yield {"model": name, "what": f"{kind}, length 14 alone", **one, "total": plain}
            three = parameter_parts(build(name, token_lengths=LENGTHS, patch_embed=kind))
            yield _grown(name, f"{kind}, 14, 10, 7", three, plain)
        if name == "deit_small":
            plain = sum(parameter_parts(build(name, token_lengths=LENGTHS[:1])).values())
            for what, shared in SHARING.items():
                counted = parameter_parts(build(name, token_lengths=LENGTHS, **shared))
                yield _grown(name, f"conv, 14, 10, 7, {what}", counted, plain)


def _grown(name: str, what: str, counted: dict[str, int], plain: int) -> dict:
    total = sum(counted.values())
    without = total - counted["distillation"]
    row = {"model": name, "what": what, **counted, "total": total}
    return row | {"more": total / plain - 1, "undistilled": without / plain - 1}
