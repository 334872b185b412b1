"""A model of the zoo with weights of anybody's file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from revit_video.backbones import zoo
from revit_video.backbones.core import ReViT
from revit_video.competitors import zoo as competitors
from revit_video.competitors.cascade import is_head
from revit_video.convert.convert import convert_state_dict
from revit_video.convert.fit import fit
from revit_video.convert.read import WeightsFile, read_weights
from revit_video.convert.rename import Renamed, rename
from revit_video.convert.report import report_text
from revit_video.train.checkpoint import load_weights
from revit_video.types import InputError


def create_model(
    name: str,
    *,
    weights: str | Path | None = None,
    source: str | None = None,
    resize: str = "bicubic",
    new_head: bool = False,
    say: Callable[[str], None] | None = print,
    **changes,
) -> ReViT:
    """create_model("timesformer_base", weights="TimeSformer_divST_8x32_224_K400.pyth")

    Args:
        name: a model of competitors.zoo, which has all of backbones.zoo. `changes` are arguments of `ReViT`:
            token_lengths, num_frames, ...
        weights: a file of any family of convert.families, of any geometry, or a checkpoint of this project of
            the same architecture. `num_classes` is the file's unless it is given.
        source: the family; None: by the names in the file.
        resize: how position tables change their grid, see convert.resize.
        new_head: start a new head instead of the file's.
        say: gets the table of what was used, resized, newly initialised and dropped; None: nobody.

    Raises:
        InputError: the file cannot be read or does not fit; the message names it, its keys and the remedy.
    """
    if weights is None:
        return competitors.create_model(name, **changes)
    file = read_weights(weights)
    if file.ours:
        return _own_checkpoint(name, file, new_head=new_head, changes=changes)
    origin = str(file.path)
    if name in competitors.CASCADES:
        model = competitors.create_model(name, **changes)
        state, rows = convert_state_dict(file.state, target=model, new_head=new_head, origin=origin)
        return _loaded(model, state, rows, say)
    renamed = rename(file.state, source, origin=origin)
    if "num_classes" not in changes:
        if new_head:
            raise InputError("new_head is asked for, but not how many classes it has; give num_classes")
        if "head.weight" not in renamed.tensors:
            raise InputError(
                f"{origin} has no head; give num_classes and new_head (--new-head K) to start one"
            )
        changes = {**changes, "num_classes": len(renamed.tensors["head.weight"])}
    model = competitors.create_model(name, **changes)
    return _loaded(model, *fit(renamed, model, origin=origin, resize=resize, new_head=new_head), say)


def _loaded(model: ReViT, state: dict, rows: list[dict], say: Callable[[str], None] | None) -> ReViT:
    model.load_state_dict(state)
    if say is not None:
        say(report_text(rows))
    return model


def _own_checkpoint(name: str, file: WeightsFile, *, new_head: bool, changes: dict) -> ReViT:
    """Strict: one of this project's checkpoints fits the architecture it was trained with, or not at all."""
    state = dict(file.state)
    if "num_classes" not in changes:
        changes = {**changes, "num_classes": len(next(state[key] for key in state if is_head(key)))}
    if "token_lengths" not in changes and "token_lengths" in (trained := file.ours["config"]["model"]):
        changes = {**changes, "token_lengths": tuple(trained["token_lengths"])}
    model = competitors.create_model(name, **changes)
    if new_head:
        state |= {key: value for key, value in model.state_dict().items() if is_head(key)}
    load_weights(model, state, source=file.path)
    return model


def guess_model(renamed: Renamed) -> str | None:
    """The zoo's name for weights of these sizes, if there is one: the number of heads is in no tensor."""
    source, tensors = renamed.source, renamed.tensors
    wanted = {"dim": len(tensors["class_token"]), "depth": renamed.depth}
    wanted["attention"] = attention_kind(renamed)
    wanted["distilled"] = "distill_tokens" in tensors
    wanted["tokens"] = (
        "transformer" if "patch_embeds.0.attention1.attn.qkv.weight" in tensors else "performer"
    )
    for name, builder in zoo.MODELS.items():
        given = {**DEFAULTS[source], **builder.keywords}
        if name.startswith(PREFIXES[source]) and all(
            given.get(key) == value for key, value in wanted.items()
        ):
            return name
    return None


PREFIXES = {
    "timesformer": "timesformer_",
    "hf_timesformer": "timesformer_",
    "motionformer": "motionformer_",
    "timm_vit": "deit_",
    "lvvit": "lvvit_",
    "t2t_vit": "t2t_vit_",
}
USUAL = {"distilled": False, "tokens": "performer"}
DEFAULTS = {  # what the entries of the zoo leave unsaid
    "timesformer": {**USUAL, "attention": "divided"},
    "hf_timesformer": {**USUAL, "attention": "divided"},
    "motionformer": {**USUAL, "attention": "trajectory"},
    "timm_vit": {**USUAL, "attention": "joint"},
    "lvvit": {**USUAL, "attention": "joint"},
    "t2t_vit": {**USUAL, "attention": "joint"},
}


def attention_kind(renamed: Renamed) -> str:
    """A key of layers.blocks.BLOCKS, by the names of the parameters."""
    tensors, video = renamed.tensors, renamed.source in ("timesformer", "hf_timesformer")
    for part, kind in ((".time.", "divided"), (".time_attn.", "mf_divided"), (".attn.proj_q.", "trajectory")):
        if any(part in key for key in tensors):
            return kind
    return "space_only" if video and "time_table" not in tensors else "joint"


def own_crop(renamed: Renamed, known: dict, *, named: bool) -> tuple[int, int, int]:
    """Pixels of a patch, pixels of a frame and frames of a clip that the weights were trained on.

    The official Motionformer keeps the position table of 224 px whatever its crop, so where its model was
    named (`named`), the zoo's entry (`known`) says the crop. A model without a time table (space-only) says
    nothing of its frames.
    """
    kernel = renamed.tensors.get("patch_embeds.0.proj.weight")
    patch = 16 if kernel is None else kernel.shape[-1]  # T2T-ViT: 4 x 2 x 2
    if renamed.source == "lvvit":
        patch *= 2  # the stem halves the picture
    crop = patch * renamed.grid.height
    if renamed.source == "motionformer" and named:
        crop = known.get("crop", crop)
    tubelet = kernel.shape[2] if kernel is not None and kernel.ndim == 5 else 1
    if not renamed.is_video:
        return patch, crop, 1
    silent = "time_table" not in renamed.tensors and renamed.grid.frames == 1
    return patch, crop, known.get("num_frames", 8) if silent else tubelet * renamed.grid.frames
