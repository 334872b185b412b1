"""What the models cost beside what is published: writes docs/costs.md.

    python benchmarks/costs.py docs/costs.md

Nothing is run: closed forms for our models, torch's counter on the meta device for the baselines, which come
from pytorchvideo (pip install 'revit_video[baselines]').
"""

import sys
import warnings
from copy import copy
from pathlib import Path

import torch
from length_costs import EMBEDDING_COLUMNS, PARAMETER_COLUMNS, embedding_rows, parameter_rows
from published_costs import (
    BASELINES,
    IMAGE,
    IMAGE_LENGTHS,
    RIVALS,
    VIDEO,
    VIDEO_LENGTHS,
    Baseline,
    Rival,
    Row,
)
from torch import Tensor, nn

from revit_video import command_line
from revit_video.backbones.core import ReViT
from revit_video.backbones.costs import closed_form_macs, patch_embed_macs, tokens_of
from revit_video.competitors.zoo import create_model
from revit_video.layers.trajectory import TrajectoryBlock
from revit_video.report.closed_forms import trajectory_as_published, transformer
from revit_video.report.macs import count_macs_torch, count_norm_macs
from revit_video.report.tables import markdown_table
from revit_video.types import InputError

TEXT = """# What the models cost

`tools/flops.py` shows any model at any token length; this page compares with published numbers.

```bash
.venv/bin/python benchmarks/costs.py docs/costs.md
```

All figures are GMACs per view: 1e9 multiply-adds, which papers often call GFLOPs. Matrix products,
convolutions and both products of attention count; norms, softmax, activations, pooling and resizing are
free. They come from closed forms (`revit_video/report/closed_forms.py`). The suite holds these equal, to
the last multiply-add, to fvcore's traced graph with the rules of `revit_video/report/mac_rules.py` and to
torch's FlopCounterMode / 2: every model of the zoo, every token length, with and without distillation
token.

## Video models

{video}

- `as published`: the authors' architecture at one token length. `their code` is what torch's
  FlopCounterMode / 2 says of the authors' own code on meta tensors.
- `with norms`: plus 5 for each element of a LayerNorm, as fvcore has it. Most published figures are
  fvcore's.
- `deviation`: from the published figure, of `with norms` where that figure contains them. What remains is
  its rounding. TimeSformer's paper gives TFLOPs of 3 views, without norms.
- `here`: this toolkit's model, with every token in the last block. It differs for Motionformer: the second
  step of trajectory attention is computed in an exact rewrite (`revit_video/layers/frame_mix.py`), the same
  outputs for about half of the multiply-adds. With `mode: fixed` the 16x224 model costs {fixed:.2f}.
- `class token only`: the same logits with `class_token_only=True`, as no head reads the patches of the last
  block. Motionformer's default.
- `params`: of `here`. The authors' Motionformer also holds weights that no output depends on.

## Image models

{image}

Columns as above, at 224 px. `their code` was counted by fvcore, so it compares with `with norms`; a
BatchNorm adds 2 per element. The published figures have one decimal and `deviation` is their rounding, but
for two: 1.1 is given for T2T-ViT-7's 1.156 and 13.8 for T2T-ViT-24's 13.692, where the authors' own code
agrees with ours. LV-ViT's auxiliary head reads every patch, so its last block cannot be shortened.

## Token lengths

{video_lengths}

{image_lengths}

- `their code`: the authors' model. Video: a frame of 16 px per token, counted by torch. Images: at 224 px,
  with patches or windows that make the grid, counted by fvcore, so with norms.
- `same model`: our count of that. They agree, but for DeiT at length 10: the other count is of DVT's
  patches (arXiv:2105.15075), 23 px wide, ours are of 24.
- `ReViT`: what the length costs in the zoo's model by default: with larger patches and, below the longest,
  a distillation token; Motionformer with its rewrite and the short last block.
- `of the longest, as published`: `ReViT` as a share of the authors' model at its longest length.

LV-ViT saves less than its grid promises: the convolutions of its stem run at half resolution at every
length, 1.04 GMACs of it.

## Patch embeddings

What `model.patch_embed` costs at 224 px, in GMACs of the embedding alone (`at 14`) and of the whole model,
without distillation tokens; `params` are those of all three embeddings.

{embeddings}

- `conv`: one kernel per length, 16, 24 and 32 px.
- `conv_stem`: early convolutions (arXiv:2106.14881), a stem with its own BatchNorm statistics per length: 3x3
  convolutions of stride 2 with 48, 96 and 192 channels, then patches of the 28x28 map: 2, 3 (padding 1) and
  4 wide. The convolutions cost the same at every length, so the shortest one saves least.
- `resize`: the frame is resized to 16 px per token; resizing is free in this count.
- `shared`: one kernel of 32 px, of which smaller patches take the middle 16 and 24; the cost of `conv`.
- `lv_stem`: LV-ViT's own, with patches of 8, 12 and 16 on its half resolution map.

## Parameters

What running at several lengths adds, part by part, over the same model with length 14 alone (which has no
distillation token). `shared` is all that every length uses: blocks, class token, heads.

{parameters}

DeiT-S with `conv` grows by 8.8%. The head of the distillation token, 1000 classes wide, is 1.7 points on top;
with `model.distill_token=false` there is none. DeiT-S distilled, which has such a token and head too, has
22,436,432 parameters: against it the three lengths are +8.6%. Early convolutions grow by a little more than a
tenth.
LV-ViT's own stem grows by far more, since its last convolution is a patch of 64 channels;
`model.patch_embed=conv` and `conv_stem` stay below a tenth there.

## Rivals

Models of `revit_video/competitors/` ([rivals.md](rivals.md)); the choice of tokens counts too. A row of DVT
is the cost of all exits up to that one.

{rivals}

`deviation` is `with norms` against `their code`, which fvcore counted, norms included. It is the resizing
between DVT's exits, which fvcore counts too, and rounding.

## Baselines

Networks of the papers' tables, built with pytorchvideo 0.1.5 (`pip install 'revit_video[baselines]'`) and
counted by torch's FlopCounterMode / 2 on meta tensors. Input is frames x pixels.

{baselines}

`with norms`: plus 5 for each element of a BatchNorm or LayerNorm. pytorchvideo's figures contain them, but
for SlowFast R50; PySlowFast's do not. `deviation` compares with what a figure contains, and is its
rounding. The two zoos count X3D at crops of different size.
"""

VIDEO_COLUMNS = {
    "model": ("model", ""),
    "params": ("params (M)", ".2f"),
    "official": ("as published", ".2f"),
    "authors_code": ("their code", ".2f"),
    "with_norms": ("with norms", ".2f"),
    "published": ("published", "g"),
    "deviation": ("deviation", "+.2%"),
    "here": ("here", ".2f"),
    "short": ("class token only", ".2f"),
    "source": ("published in", ""),
}
IMAGE_COLUMNS = {  # three digits; `here` is `as published`
    key: (header, ".3f" if spec == ".2f" and key != "params" else spec)
    for key, (header, spec) in VIDEO_COLUMNS.items()
    if key != "here"
}
VIDEO_LENGTH_COLUMNS = {
    "model": ("model", ""),
    "length": ("length", "d"),
    "authors_code": ("their code", ".2f"),
    "official": ("same model", ".2f"),
    "here": ("ReViT", ".2f"),
    "share": ("of the longest, as published", ".1%"),
}
IMAGE_LENGTH_COLUMNS = {
    key: (header, ".3f" if spec == ".2f" else spec) for key, (header, spec) in VIDEO_LENGTH_COLUMNS.items()
}
RIVAL_COLUMNS = {
    "model": ("model", ""),
    "params": ("params (M)", ".2f"),
    "gmacs": ("GMACs", ".3f"),
    "with_norms": ("with norms", ".3f"),
    "authors_code": ("their code", ".3f"),
    "deviation": ("deviation", "+.2%"),
    "published": ("published", "g"),
    "source": ("published in", ""),
}
BASELINE_COLUMNS = {
    "model": ("model", ""),
    "input": ("input", ""),
    "params": ("params (M)", ".2f"),
    "gmacs": ("GMACs", ".2f"),
    "with_norms": ("with norms", ".2f"),
    "published": ("published", ".2f"),
    "deviation": ("deviation", "+.2%"),
    "source": ("published in", ""),
}


def build(name: str, **changes) -> ReViT:
    """A model on the meta device: sizes without numbers."""
    with torch.device("meta"):
        return create_model(name, **changes).eval()


def clip_of(model: ReViT) -> Tensor:
    return torch.zeros(1, 3, model.num_frames, *model.crop, device="meta")


def gmacs(model: ReViT, level: int = 0) -> float:
    return closed_form_macs(model, level).total / 1e9


def official_gmacs(model: ReViT, level: int = 0) -> float:
    """As the authors compute it: without the rewrite of trajectory attention."""
    if not isinstance(model.blocks[0], TrajectoryBlock):
        return gmacs(model, level)
    macs = transformer(
        trajectory_as_published,
        tokens_of(model, level),
        depth=len(model.blocks),
        num_classes=model.num_classes,
        stem=patch_embed_macs(model, level),
        pre_logits=model.pre_logits is not None,
    )
    return macs.total / 1e9


def norm_gmacs(model: nn.Module, *inputs: object, **kwargs) -> float:
    """What fvcore adds for norms."""
    return count_norm_macs(model, *inputs, **kwargs) / 1e9


def model_row(row: Row) -> dict:
    plain = {"token_lengths": (14,), "distill_token": False, "class_token_only": False, **row.changes}
    model = build(row.name, **plain)
    official, norms = official_gmacs(model), norm_gmacs(model, clip_of(model))
    compared = official + norms * row.norms
    return {
        "model": row.label,
        "params": params(model),
        "official": official,
        "authors_code": row.authors_code,
        "with_norms": official + norms,
        "published": row.published,
        "deviation": compared / row.published - 1 if row.published else None,
        "here": gmacs(model),
        "short": None if model.aux_head else gmacs(build(row.name, **{**plain, "class_token_only": True})),
        "source": row.source or None,
    }


def length_rows(name: str, authors_code: dict[int, float]) -> list[dict]:
    lengths = tuple(authors_code)
    revit = build(name, token_lengths=lengths)
    image = revit.num_frames == 1
    resized = {} if image else {"patch_embed": "resize"}
    plain = {"token_lengths": lengths, "distill_token": False, "class_token_only": False, **resized}
    model = build(name, **plain)
    rows = []
    for level, length in enumerate(lengths):
        norms = norm_gmacs(model, clip_of(model), level=level) if image else 0.0
        row = {"model": name, "length": length, "authors_code": authors_code[length]}
        row |= {"official": official_gmacs(model, level) + norms, "here": gmacs(revit, level)}
        rows.append(row | {"share": row["here"] / official_gmacs(model)})
    return rows


def rival_row(row: Rival) -> dict:
    model = build(row.name, **row.changes)
    norms = norm_gmacs(model, clip_of(model), level=row.level)
    with_norms = gmacs(model, row.level) + norms
    return {
        "model": row.label,
        "params": params(model),
        "gmacs": gmacs(model, row.level),
        "with_norms": with_norms,
        "authors_code": row.authors_code,
        "deviation": with_norms / row.authors_code - 1,
        "published": row.published,
        "source": row.source or None,
    }


def baseline_row(row: Baseline) -> dict:
    model = build_baseline(row.name).to("meta").eval()
    clip = torch.zeros(1, 3, row.frames, row.crop, row.crop, device="meta")
    paths = [clip[:, :, :: row.alpha], clip] if row.alpha else clip
    products = count_macs_torch(model, copy(paths)) / 1e9  # SlowFast writes into the list it is given
    norms = norm_gmacs(model, copy(paths), batch_norm=5)  # as in training, which these figures have
    compared = products + norms * row.norms
    return {
        "model": row.label,
        "input": f"{row.frames}x{row.crop}",
        "params": params(model),
        "gmacs": products,
        "with_norms": products + norms,
        "published": row.published,
        "deviation": compared / row.published - 1,
        "source": row.source,
    }


def build_baseline(name: str, **options) -> nn.Module:
    """A model of pytorchvideo with random weights, on the CPU: MViT cannot be made on the meta device."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its import uses deprecated parts of torch.jit
        try:
            from pytorchvideo.models import hub
        except ModuleNotFoundError:
            raise InputError(
                "the baselines need pytorchvideo, which is not installed; try "
                "pip install 'revit_video[baselines]'"
            ) from None
        return getattr(hub, name)(pretrained=False, **options)


def params(model: nn.Module) -> float:
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


def lengths_table(names: dict, columns: dict) -> str:
    return markdown_table([row for name in names for row in length_rows(name, names[name])], columns)


def page() -> str:
    """The text of docs/costs.md."""
    plain = {"token_lengths": (14,), "distill_token": False, "class_token_only": False}
    return TEXT.format(
        video=markdown_table([model_row(row) for row in VIDEO], VIDEO_COLUMNS),
        image=markdown_table([model_row(row) for row in IMAGE], IMAGE_COLUMNS),
        video_lengths=lengths_table(VIDEO_LENGTHS, VIDEO_LENGTH_COLUMNS),
        image_lengths=lengths_table(IMAGE_LENGTHS, IMAGE_LENGTH_COLUMNS),
        embeddings=markdown_table(list(embedding_rows(build)), EMBEDDING_COLUMNS),
        parameters=markdown_table(list(parameter_rows(build)), PARAMETER_COLUMNS),
        rivals=markdown_table([rival_row(row) for row in RIVALS], RIVAL_COLUMNS),
        baselines=markdown_table([baseline_row(row) for row in BASELINES], BASELINE_COLUMNS),
        fixed=gmacs(build("motionformer_base", attention_options={"mode": "fixed"}, **plain)),
    )


def main() -> int:
    made = command_line.parser(__doc__)
    made.add_argument("out", metavar="FILE", help="docs/costs.md")

    def command(args) -> None:
        Path(args.out).write_text(page())

    return command_line.run(command, made)


if __name__ == "__main__":
    sys.exit(main())
