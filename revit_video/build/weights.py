"""Weights of other projects as a checkpoint of this one, with the config and the preprocessing they need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from revit_video.backbones import zoo
from revit_video.build.networks import build_model, identity
from revit_video.config import Config, config_from_dict, override_config
from revit_video.convert.fit import fit
from revit_video.convert.preprocessing import preprocessing_of
from revit_video.convert.pretrained import guess_model, own_crop
from revit_video.convert.read import read_weights
from revit_video.convert.rename import Renamed, rename
from revit_video.convert.report import report_text
from revit_video.data.epic_kitchens import epic_classes
from revit_video.data.list_files import read_class_names
from revit_video.train.checkpoint import save_checkpoint
from revit_video.types import InputError

LISTS = {  # dataset -> data.dataset; the rest is kinetics
    "ssv2": "ssv2",
    "imagenet": "image_folders",
    "epic": "epic_kitchens",
}
EPIC_TARGETS = {(97,): "verb", (300,): "noun"}  # EPIC-KITCHENS-100's numbers of classes


def convert_file(
    path: Path,
    out: Path,
    *,
    source: str | None = None,
    model: str | None = None,
    token_lengths: Sequence[int] = (),
    dataset: str | None = None,
    class_names: Path | None = None,
    resize: str = "bicubic",
    new_head: int = 0,
    overrides: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> None:
    """Write a checkpoint of kind `revit` to `out`, which must not exist; tell what became of the weights.

    Args:
        model: a name of the zoo; None: by the sizes of the weights.
        token_lengths: of the ReViT, longest first; none: the one length the weights were trained at.
        dataset: what the weights were trained on, one of convert.preprocessing.DATASETS; None: by their kind.
        class_names: a file with a name per line, or JSON, or for EPIC-KITCHENS the folder of its lists; None:
            "class 0", "class 1", ...
        new_head: number of classes of a new head; 0: keep the head.
        overrides: settings as key=value, over those that follow from the weights.

    Raises:
        InputError: the file cannot be read or does not fit, or `out` exists.
    """
    if out.exists():
        raise InputError(f"{out} exists already; give another --to, or delete it yourself")
    file = read_weights(path)
    if file.ours:
        raise InputError(f"{path} is a checkpoint of this project already; nothing to convert")
    renamed = rename(file.state, source, origin=str(path))
    head = renamed.tensors.get("head.weight")
    if head is None and not new_head:
        raise InputError(f"{path} has no head; give --new-head K to start one with K classes")
    classes = new_head or len(head)
    name = model or guess_model(renamed)
    if name is None:
        raise InputError(
            f"{path} ({renamed.source}, dim {len(renamed.tensors['class_token'])}, depth {renamed.depth}) is "
            "no model of the zoo; give --model NAME and what differs, such as model.options.heads=4"
        )
    heads = () if new_head else renamed.heads
    dataset = dataset or usual_dataset(renamed)
    if heads and dataset != "epic":
        raise InputError(f"{path} has heads of {heads[0]} and {heads[1]} classes; give --dataset epic")
    target = {"target": epic_target(heads or (classes,), origin=str(path))} if dataset == "epic" else {}
    config = weights_config(
        renamed, name, dataset, lengths=token_lengths, named=model, overrides=overrides, **target
    )
    names = names_of(class_names, config) if class_names else numbered(classes)
    if len(names) != classes:
        raise InputError(f"{class_names} names {len(names)} classes, the weights have {classes}")
    network = build_model(config, classes)
    state, rows = fit(renamed, network, origin=str(path), resize=resize, new_head=bool(new_head))
    say(f"{path}: {renamed.source} -> {name}, token lengths {config.model.token_lengths}\n")
    say(report_text(rows))
    say(f"\n{describe(config)}")
    network.load_state_dict(state)
    made = {"kind": "revit", "model": network.state_dict(), "step": 0, **identity(config, names, heads)}
    save_checkpoint({**made, "converted_from": renamed.source}, out)


def weights_config(
    renamed: Renamed,
    name: str,
    dataset: str,
    *,
    lengths: Sequence[int] = (),
    named: str | None = None,
    overrides: Sequence[str] = (),
    target: str = "",
) -> Config:
    """The settings these weights were trained with, as far as they and the zoo tell; overrides win."""
    known = zoo.MODELS[name].keywords if name in zoo.MODELS else {}
    patch, crop, frames = own_crop(renamed, known, named=named is not None)
    made = {"model": {"name": name, "token_lengths": [1], "options": own_options(renamed, known)}}
    made["data"] = {
        "root": ".",
        "dataset": LISTS.get(dataset, "kinetics"),
        "target": target,
        "num_frames": frames,
        "crop": crop,
    }
    made["data"] |= {"train_jitter": [crop * 8 // 7, crop * 10 // 7], "flip": dataset != "ssv2"}
    source = f"the settings of {name}"
    config = override_config(config_from_dict(made, source=source), overrides)
    frames, crop = config.data.num_frames, config.data.crop
    seen = preprocessing_of(renamed.source, dataset=dataset, num_frames=frames, crop=crop)
    made["data"] |= {"mean": list(seen.mean), "std": list(seen.std), "channel_order": seen.channel_order}
    made["data"] |= {"sampling": seen.sampling, "sampling_rate": seen.sampling_rate}
    made["data"] |= {"sampling_rule": seen.sampling_rule}
    made["data"] |= {"test_short_side": seen.short_side, "crop": crop, "num_frames": frames}
    made["data"] |= {"train_jitter": [crop * 8 // 7, crop * 10 // 7]}
    made["model"]["token_lengths"] = list(lengths) or [crop // patch]
    clips = 10 if renamed.source == "motionformer" and dataset != "ssv2" else 1
    made["test"] = {"num_ensemble_views": clips, "num_spatial_crops": 3 if renamed.is_video else 1}
    return override_config(config_from_dict(made, source=source), overrides)


def own_options(renamed: Renamed, known: dict) -> dict:
    """`model.options` that follow from the weights, where the zoo's entry says otherwise."""
    options = {}
    if renamed.source == "motionformer":
        kernel = renamed.tensors["patch_embeds.0.proj.weight"]
        tubelet = kernel.shape[2] if kernel.ndim == 5 else 1
        if tubelet != known.get("tubelet", 2):
            options["tubelet"] = tubelet
        if "pre_logits.weight" not in renamed.tensors:
            options["pre_logits"] = None
        if len(renamed.tensors["pos_tables.0"]) - 1 != renamed.grid.per_frame:
            options["joint_positions"] = True
    return options


def usual_dataset(renamed: Renamed) -> str:
    """What weights of this kind are mostly trained on."""
    if renamed.heads:
        return "epic"
    return "kinetics400" if renamed.is_video else "imagenet"


def epic_target(heads: Sequence[int], *, origin: str) -> str:
    """`data.target` of a model of EPIC-KITCHENS with so many classes."""
    target = "both" if len(heads) > 1 else EPIC_TARGETS.get(tuple(heads))
    if target is None:
        raise InputError(
            f"{origin} has one head of {heads[0]} classes; of EPIC-KITCHENS are heads of 97 verbs, of 300 "
            "nouns, or both; give another --dataset"
        )
    return target


def names_of(source: Path, config: Config) -> tuple[str, ...]:
    """The names of the classes from a file, or from the folder of EPIC-KITCHENS' lists."""
    if not (source.is_dir() and config.data.dataset == "epic_kitchens"):
        return tuple(read_class_names(source))
    verbs, nouns = epic_classes(source)
    return {"verb": verbs, "noun": nouns, "both": verbs + nouns}[config.data.target]


def numbered(classes: int) -> tuple[str, ...]:
    """The names that a Kinetics list without names has."""
    return tuple(f"class {i}" for i in range(classes))


def describe(config: Config) -> str:
    """How clips must look for these weights, in one line."""
    data = config.data
    stride = f" every {data.sampling_rate} frames" if data.sampling == "dense" else ""
    rule = f"{data.sampling}{stride}, rule {data.sampling_rule}"
    order = data.channel_order.upper()
    return (
        f"{data.num_frames} frames ({rule}) of {data.crop} px, {order}, mean {data.mean}, "
        f"std {data.std}: taken from the weights' family and data set; change it by data.*=..."
    )
