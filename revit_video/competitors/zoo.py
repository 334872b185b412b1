"""Names of the rivals, in plain sight: of ways to reduce tokens, and of cascades beside the zoo of backbones.

create_model("deit_small", reducer={"name": "evit", "keep": 0.7})
create_model("deit_small", reducer="tome")
create_model("dvt_t2t_vit_12", num_classes=10)
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from revit_video.backbones import zoo
from revit_video.backbones.core import ReViT
from revit_video.competitors.adaptive_depth import AdaptiveDepth
from revit_video.competitors.dvt import DVT
from revit_video.competitors.evit import EViT
from revit_video.competitors.random_drop import RandomDrop
from revit_video.competitors.tome import ToMe
from revit_video.layers.reduce import Reduction
from revit_video.types import InputError

REDUCERS: dict[str, Callable[..., Reduction]] = {"evit": EViT, "tome": ToMe, "random_drop": RandomDrop}
ODD_PATCHES = {"patch_embed_options": {"even": False}}  # DVT's 10x10 tokens have patches of 23 px
CASCADES: dict[str, Callable[..., nn.Module]] = {
    "dvt": DVT,  # of any image model: create_model("dvt", backbone="deit_tiny")
    "depth": AdaptiveDepth,
    "dvt_deit_small": partial(DVT, "deit_small", **ODD_PATCHES),
    "dvt_t2t_vit_12": partial(DVT, "t2t_vit_12"),
    "dvt_t2t_vit_14": partial(DVT, "t2t_vit_14"),
    "depth_deit_small": partial(AdaptiveDepth, "deit_small"),
    "depth_t2t_vit_12": partial(AdaptiveDepth, "t2t_vit_12"),
    "depth_t2t_vit_14": partial(AdaptiveDepth, "t2t_vit_14"),
}
MODELS: dict[str, Callable[..., nn.Module]] = {**zoo.MODELS, **CASCADES}


def create_model(name: str, *, reducer: Reduction | Mapping | str | None = None, **changes) -> nn.Module:
    """A model of the zoo or a cascade; arguments are those of `ReViT`, `DVT` or `AdaptiveDepth`.

    reducer: a key of REDUCERS, a mapping with that as `name` and its own fields, or an object.
    """
    if name not in CASCADES:
        if name not in MODELS:
            near = ", ".join(difflib.get_close_matches(name, MODELS, n=3)) or ", ".join(MODELS)
            raise InputError(f"no model named {name!r}. Nearest: {near}")
        made = {} if reducer is None else {"reducer": build_reducer(reducer)}
        return zoo.create_model(name, **made, **changes)
    if reducer is not None:
        raise InputError(f"{name} is a cascade and takes no reducer; leave it out, or choose one backbone")
    cascade, hidden = CASCADES[name], {"trunk", "reducer"}
    if isinstance(cascade, partial):  # a name with a backbone of its own
        cascade, hidden = cascade.func, hidden | {"backbone"}
    known = {**inspect.signature(ReViT).parameters, **inspect.signature(cascade).parameters}
    known = {key: value for key, value in known.items() if key not in hidden}
    for key in changes:
        if key not in known:
            near = ", ".join(difflib.get_close_matches(key, known, n=3)) or ", ".join(known)
            raise InputError(f"model {name} has no argument {key!r}. Nearest: {near}")
    return CASCADES[name](**changes)


def build_reducer(wanted: Reduction | Mapping | str) -> Reduction:
    """The object that is meant by a name, or by a mapping such as {"name": "evit", "keep": 0.7}.

    Raises:
        InputError: the name or one of the fields is not known; the message names the nearest.
    """
    if isinstance(wanted, str):
        wanted = {"name": wanted}
    if not isinstance(wanted, Mapping):
        return wanted
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in wanted.items()}
    name = options.pop("name", None)
    if name not in REDUCERS:
        raise InputError(f"reducer is {name!r}, but must be one of: {', '.join(REDUCERS)}")
    known = [field.name for field in fields(REDUCERS[name])]
    for key in options:
        if key not in known:
            raise InputError(f"reducer {name} has no option {key!r}; it has: {', '.join(known)}")
    return REDUCERS[name](**options)


def parse_reducer(name: str, *pairs: str) -> Reduction:
    """Words of a command line, such as "evit", "keep=0.7", "fuse=false"; values are YAML."""
    try:
        options = OmegaConf.to_container(OmegaConf.from_dotlist(list(pairs)))
    except OmegaConfBaseException as error:
        raise InputError(f"--reducer got {' '.join(pairs)!r} ({error}); expected NAME key=value") from None
    for pair in pairs:
        if "=" not in pair:
            raise InputError(f"--reducer got {pair!r}; expected key=value after the name, such as keep=0.7")
    return build_reducer({"name": name, **options})
