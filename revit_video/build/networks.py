"""Networks from the settings, fresh or from a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

import revit_video
from revit_video.backbones.core import ReViT
from revit_video.backbones.costs import level_gmacs
from revit_video.build.device import build_device
from revit_video.competitors.cascade import is_head
from revit_video.competitors.zoo import CASCADES, create_model
from revit_video.config import Config, config_from_dict, config_to_dict
from revit_video.convert.own import refit, same_geometry
from revit_video.data.classes import class_lists, order_of
from revit_video.evaluate.heads import NAMES, Heads
from revit_video.routing.assigner import Assigner
from revit_video.routing.from_pixels import AssignerFromPixels, BackboneFromPixels, resizes_frames
from revit_video.routing.router import Router
from revit_video.routing.rule import cascade_rule
from revit_video.routing.stored import prices_of, router_at, rule_of
from revit_video.stages.job import Device
from revit_video.train.checkpoint import load_checkpoint, load_weights
from revit_video.types import InputError


def build_model(config: Config, num_classes: int) -> ReViT:
    """The backbone with fresh weights."""
    model, data = config.model, config.data
    settings = {
        "num_classes": num_classes,
        "token_lengths": tuple(model.token_lengths),
        "num_frames": data.num_frames,
        "crop": data.crop,
        "distill_token": model.distill_token,
        "drop_path": model.drop_path,
        "positions": model.positions,
        "norms": model.norms,
    }
    if model.patch_embed:
        settings["patch_embed"] = model.patch_embed
    for key in settings.keys() & model.options.keys():
        raise InputError(
            f"model.options holds {key!r}, which has a key of its own among model.* and data.*; set it there"
        )
    return create_model(model.name, **settings, **model.options)


def is_cascade(config: Config) -> bool:
    """Whether the model is a row of exits (competitors/cascade.py), which no assigner chooses among."""
    return config.model.name in CASCADES


def build_assigner(config: Config) -> Assigner:
    """The assigner with fresh weights."""
    tla = config.assigner
    return Assigner(
        len(config.model.token_lengths),
        width=tla.width,
        depth=tla.depth,
        image_size=tla.image_size,
        frames=tla.frames,
    )


def identity(config: Config, class_names: Sequence[str], heads: Sequence[int] = ()) -> dict:
    """What a checkpoint says of itself: enough to rebuild the model and to refuse other data."""
    return {
        "config": config_to_dict(config),
        "class_names": list(class_names),
        "heads": list(heads),
        "versions": {"revit_video": revit_video.__version__, "torch": str(torch.__version__)},
    }


def heads_of(state: dict) -> Heads:
    """How many classes each list of a checkpoint has; () for one list."""
    return tuple(state.get("heads", ()))


def start_from(
    model: ReViT, path: str, class_names: Sequence[str], heads: Sequence[int] = ()
) -> tuple[str, ...]:
    """Weights of another run of the same architecture, at whatever token lengths, frames and pixels
    (convert/own.py). Heads go by the names of the classes: in another order their rows are put in order, for
    other classes they keep their fresh weights. With several lists of classes (`heads`) that goes for the
    rows of each. Returns what the user should know of that.
    """
    state = load_checkpoint(path)
    if "model" not in state or "class_names" not in state:
        raise InputError(
            f"{path} holds {state['kind']!r}; expected a trained backbone "
            "(checkpoints/revit.pt or recognizer.pt)"
        )
    before, now = class_lists(state["class_names"], heads_of(state)), class_lists(class_names, tuple(heads))
    weights, changed = fitting_weights(model, state, path)
    fresh = model.state_dict()
    if len(before) != len(now):
        pairs = [(None, f"its head is left out, as it is for {len(before)} lists of classes, not {len(now)}")]
    else:
        pairs = [match_classes(*lists) for lists in zip(before, now, strict=True)]
    orders, notes = zip(*pairs, strict=True)
    names = [name for name in weights if is_head(name)]
    if all(order is None for order in orders):
        weights = {name: value for name, value in weights.items() if name not in names}
        weights |= {name: value for name, value in fresh.items() if is_head(name)}
    else:
        sizes = [[len(classes) for classes in lists] for lists in (before, now)]
        for name in [name for name in names if name in fresh]:
            ours, theirs = fresh[name].split(sizes[1]), weights[name].split(sizes[0])
            rows = zip(ours, theirs, orders, strict=True)
            weights[name] = torch.cat([a if order is None else b[order] for a, b, order in rows])
    load_weights(model, weights, source=path)
    called = [f"{name}s: " for name in NAMES] if len(notes) > 1 else [""]
    said = [f"{path}: {what}{note}" for what, note in zip(called, notes, strict=True)]
    return tuple([f"{path}: {changed}"] * bool(changed) + said)


def fitting_weights(model: ReViT, state: dict, path: str) -> tuple[dict[str, torch.Tensor], str]:
    """A checkpoint's weights for a model of perhaps other lengths, and what that changed; "" for nothing."""
    if not isinstance(model, ReViT):
        return dict(state["model"]), ""
    config = config_from_dict(state["config"], source=path)
    with torch.random.fork_rng(devices=[]):  # what is drawn afterwards does not depend on where one starts
        source = build_model(config, len(state["class_names"]))
    if not isinstance(source, ReViT) or same_geometry(source, model):
        return dict(state["model"]), ""
    load_weights(source, state["model"], source=path)
    return refit(source, model, origin=path)


def match_classes(before: Sequence[str], now: Sequence[str]) -> tuple[list[int] | None, str]:
    """For each class of now its place before, None where they are other classes; and that in words.

    Classes without names ("class 0", ...) are taken to be the same in the same order if they are as many.
    """
    if list(before) == list(now):
        return list(range(len(now))), "its head is kept, for the same classes"
    order = order_of(now, before)
    if order is not None:
        return order, "its head is kept, its classes put into the order of the data"
    if len(before) == len(now) and (is_numbered(before) or is_numbered(now)):
        return list(range(len(now))), "its head is kept; without class names its classes cannot be compared"
    return None, f"its head is left out, as it is for {len(before)} other classes"


def is_numbered(names: Sequence[str]) -> bool:
    """Whether these are the names of classes without names: "class 0", "class 1", ..."""
    first = names[0].removeprefix("class ")
    return first.isdecimal() and list(names) == [f"class {int(first) + i}" for i in range(len(names))]


def trained_model(state: dict, *, source: Path, run: Device) -> tuple[ReViT, Config]:
    """The backbone of a checkpoint, in evaluation mode on the device, and the config it was trained by."""
    config = config_from_dict(state["config"], source=str(source))
    model = build_model(config, len(state["class_names"]))
    load_weights(model, state["model"], source=source)
    return model.eval().to(run.device, run.dtype), config


def trained_assigner(config: Config, state: dict, *, source: Path, run: Device) -> Assigner:
    """The assigner of a joint checkpoint, in evaluation mode. It stays in float32: its depthwise convolutions
    gain nothing.
    """
    assigner = build_assigner(config)
    load_weights(assigner, state["assigner"], source=source)
    return assigner.fold_norms().to(run.device)


def as_decoded(
    model: ReViT, assigner: Assigner | None, run: Device
) -> tuple[nn.Module, nn.Module | None, Device]:
    """The same to be handed clips as they are decoded, where the lengths of a model need different pixels of
    them (`patch_embed=resize`); else as they are.
    """
    if not resizes_frames(model):
        return model, assigner, run
    to_clips = partial(run.to_clips, dtype=run.dtype)
    looking = None if assigner is None else AssignerFromPixels(assigner, to_clips)
    return BackboneFromPixels(model, to_clips), looking, replace(run, to_clips=as_they_are)


def as_they_are(clips: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """In place of `Device.to_clips`, where the networks do that."""
    return clips


def recognizer_state(checkpoint: Path) -> dict:
    """A checkpoint that can predict: a `recognizer`, or a `revit`, which is a backbone alone."""
    state = load_checkpoint(checkpoint)
    if state["kind"] not in ("recognizer", "revit"):
        raise InputError(
            f"{checkpoint} holds {state['kind']!r}; expected recognizer.pt or checkpoints/revit.pt of a run"
        )
    return state


def recognizer_parts(
    checkpoint: Path, *, device: str, dtype: str, budget: float | None = None, kind: str | None = None
) -> dict:
    """The fields of a `Recognizer` from a joint checkpoint or a backbone's; None: budget and router of the
    checkpoint.
    """
    state = recognizer_state(checkpoint)
    run = build_device(
        replace(config_from_dict(state["config"], source=str(checkpoint)), device=device, dtype=dtype)
    )
    model, config = trained_model(state, source=checkpoint, run=run)
    whole = state["kind"] == "recognizer"
    costs, look, rule = level_gmacs(model), 0.0, cascade_rule(0.0, model.num_levels)
    if whole:
        solved = state["router"]
        if budget is not None or kind is not None:
            asked = solved["budget"] if budget is None else budget
            solved = router_at(solved, asked, kind or solved.get("kind", "assigner"))
        (costs, look), rule = (prices_of(solved).levels, prices_of(solved).look), rule_of(solved)
    assigner = trained_assigner(config, state, source=checkpoint, run=run) if whole else None
    model, assigner, run = as_decoded(model, assigner, run)
    return {
        "router": Router(model, assigner, costs=costs, rule=rule, look=look, heads=heads_of(state)),
        "config": config,
        "class_names": tuple(state["class_names"]),
        "heads": heads_of(state),
        "run": run,
        "source": str(checkpoint),
        "has_assigner": whole,
        "share": config.router.share,
    }
