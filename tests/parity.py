"""Official models against ours, on stored outputs: the same weights must give the same numbers.

    python tests/parity.py tests/data/parity/*.safetensors

Builds the model from the file's config, converts its state dict, runs it and prints the largest difference
per stored tensor. Exit code 1 where one is above its tolerance. What files hold: tests/data/parity/README.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from parity_rivals import FUNCTIONS, REDUCED, compare_cascade, compare_reduced
from safetensors import safe_open
from torch import Tensor

from revit_video.backbones.core import ReViT
from revit_video.convert import convert_state_dict, to_official

FLOAT32, FLOAT64, IMAGE = 1e-5, 1e-10, 2e-4  # tolerances of logits
INSIDE = 2e-5  # of features inside a video model, whose numbers are several times larger
EPIC = (97, 300)  # verbs and nouns
ATTENTION = {"divided_space_time": "divided", "joint_space_time": "joint", "space_only": "space_only"}
MOTIONFORMER = {"trajectory": "trajectory", "joint": "joint", "divided": "mf_divided"}


@dataclass(frozen=True)
class Difference:
    """The largest absolute difference of one stored tensor."""

    name: str
    largest: float
    allowed: float

    @property
    def fails(self) -> bool:
        return not self.largest <= self.allowed  # a NaN fails too


@dataclass(frozen=True)
class Fixture:
    """A stored case: the config it was made with, the official weights, everything else it holds."""

    name: str
    config: dict
    state: dict[str, Tensor]
    stored: dict[str, Tensor]


def read_fixture(path: Path) -> Fixture:
    """A file that shares its weights with another one names it under `weights`."""
    with safe_open(path, "pt") as file:
        meta = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    config = json.loads(meta["config"])
    state = {key.removeprefix("state."): value for key, value in tensors.items() if key.startswith("state.")}
    if not state and "weights" in meta:
        state = read_fixture(path.with_name(meta["weights"])).state
    stored = {key: value for key, value in tensors.items() if not key.startswith("state.")}
    return Fixture(path.stem, config, state, stored)


def family(fixture: Fixture) -> str:
    known = {"ts": "timesformer", "mf": "motionformer", "hf": "hf_timesformer", "deit": "timm_vit"}
    known |= {"lvvit": "lvvit", "t2t": "t2t_vit", "evit": "timm_vit", "tome": "timm_vit"}
    return known[fixture.name.split("_")[0]]


def settings(fixture: Fixture, *, class_token_only: bool) -> dict:
    """Arguments of a ReViT with one token length that is the official model."""
    config, clip = fixture.config, fixture.stored["input"]
    crop, kind = clip.shape[-1], family(fixture)
    patch = config.get("patch_size", 16)
    made = {
        "num_classes": sum(EPIC) if config.get("epic") else config["num_classes"],
        "token_lengths": (crop // patch,),
        "num_frames": clip.shape[2] if clip.ndim == 5 else 1,
        "crop": crop,
        "dim": config["embed_dim"],
        "depth": config["depth"],
        "heads": config["num_heads"],
        "mlp_ratio": config.get("mlp_ratio", 4),
        "qkv_bias": config.get("qkv_bias", kind not in ("lvvit", "t2t_vit")),
        "norm_eps": 1e-5 if kind in ("lvvit", "t2t_vit") else 1e-6,
        "distill_token": False,
        "class_token_only": class_token_only,
        "attention": "joint",
    }
    return (
        made
        | {
            "timesformer": lambda: {"attention": ATTENTION[config["attention_type"]]},
            "hf_timesformer": lambda: {"attention": ATTENTION[config["attention_type"]]},
            "motionformer": lambda: motionformer(config),
            "timm_vit": lambda: {"distilled": "dist_token" in fixture.state},
            "lvvit": lambda: {
                "patch_embed": "lv_stem",
                "aux_head": True,
                "residual_scale": 1 / config["skip_lam"],
                "class_token_only": False,
            },
            "t2t_vit": lambda: {
                "patch_embed": f"t2t_{config['tokens_type']}",
                "patch_embed_options": {"token_dim": config["token_dim"]},
                "pos_init": "sine_1d",
            },
        }[kind]()
    )


def motionformer(config: dict) -> dict:
    made = {"attention": MOTIONFORMER[config["attn"]], "tubelet": config["z"]}
    made["joint_positions"] = config["pos_embed"] == "joint"
    made["pre_logits"] = config.get("head_act", "tanh") if config["use_mlp"] else None
    if config["attn"] == "trajectory":
        made["attention_options"] = {"mode": "original" if config["original"] else "fixed"}
        if config.get("approx") == "orthoformer":
            made["attention_options"]["landmarks"] = config["landmarks"]
    return made


def build(fixture: Fixture, *, dtype: torch.dtype = torch.float32, class_token_only: bool = False) -> ReViT:
    """The model with the fixture's weights, in evaluation mode; tables are resized in `dtype` too."""
    model = ReViT(**settings(fixture, class_token_only=class_token_only)).to(dtype)
    resize = "nearest" if family(fixture) in ("timesformer", "hf_timesformer") else "bicubic"
    theirs = {key: value.to(dtype) for key, value in fixture.state.items()}
    state, _ = convert_state_dict(theirs, family(fixture), target=model, resize=resize)
    model.load_state_dict(state, strict=True)
    return model.eval()


@torch.inference_mode()
def outputs(model: ReViT, clip: Tensor, *, seed: int | None) -> dict[str, Tensor]:
    """Everything a fixture may hold, under its names, in our token order."""
    seen: dict[str, Tensor] = {}

    def keep(name: str, module: torch.nn.Module | None) -> None:
        if module is not None:
            module.register_forward_hook(lambda _, __, out: seen.update({name: out}))

    keep("patch_embed_out", model.patch_embeds[0])
    keep("attention1.out", getattr(model.patch_embeds[0], "attention1", None))
    keep("block0_attn_out", model.blocks[0].attn)
    keep("block0_timeattn_out", getattr(model.blocks[0], "time_attn", None))
    for i, block in enumerate(model.blocks):
        keep(f"block{i}.out", block)
    keep("norm_out", model.norm)
    model.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.update(tokens=inputs[0]))
    model.head.register_forward_pre_hook(lambda _, inputs: seen.update(pre_head=inputs[0]))
    if seed is not None:
        torch.manual_seed(seed)
    out = model(clip if clip.ndim == 5 else clip[:, :, None], full_output=True)
    seen |= {"block0_out": seen["block0.out"], "patch_embed": seen["patch_embed_out"].transpose(2, 3)}
    seen |= {"t2t_tokens": seen["patch_embed_out"], "logits_cls": out.logits, "logits_head": out.logits}
    seen |= {"logits_aux": out.aux_logits, "logits_head_dist": out.distill_logits}
    logits = out.prediction()
    seen |= {"logits": logits, "probs": logits.softmax(-1)}
    if logits.shape[1] == sum(EPIC):
        for i, part in enumerate(logits.split(EPIC, dim=1)):
            seen |= {f"logits{i}": part, f"probs{i}": part.softmax(-1), f"pre_head{i}": seen["pre_head"]}
    return seen


def in_our_order(name: str, theirs: Tensor, model: ReViT, kind: str) -> Tensor:
    """TimeSformer's clips run place by place, time fastest; ours frame by frame."""
    grid = model.grids[0]
    whole = theirs.ndim == 3 and theirs.shape[1] == 1 + grid.frames * grid.per_frame
    if kind not in ("timesformer", "hf_timesformer") or not whole:
        return theirs
    patches = theirs[:, 1:].unflatten(1, (grid.per_frame, grid.frames)).transpose(1, 2)
    return torch.cat([theirs[:, :1], patches.flatten(1, 2)], dim=1)


def compare(path: Path) -> Iterator[Difference]:
    """One difference per stored tensor, and the logits once more with the short last block."""
    fixture = read_fixture(path)
    if "_load_" in fixture.name:
        yield from compare_loading(fixture)
        return
    if fixture.name in FUNCTIONS:
        yield from FUNCTIONS[fixture.name](fixture, Difference)
        return
    if fixture.name.startswith("dvt_"):
        yield from compare_cascade(fixture, Difference, IMAGE)
        return
    kind, clip = family(fixture), fixture.stored["input"]
    seed = fixture.config.get("rng_seed_before_forward")
    image = kind in ("timm_vit", "lvvit", "t2t_vit")
    model = build(fixture)
    if fixture.name.startswith(REDUCED):
        yield from compare_reduced(model, fixture, Difference, IMAGE)
        return
    ours = outputs(model, clip, seed=seed)
    exact = {}
    if any(name.endswith("_f64") for name in fixture.stored):
        exact = outputs(build(fixture, dtype=torch.float64), clip.double(), seed=seed)
    for name, theirs in fixture.stored.items():
        if name == "input":
            continue
        double = name.endswith("_f64")
        found = (exact if double else ours)[name.removesuffix("_f64")]
        theirs = in_our_order(name, theirs, model, kind)
        outside = name.startswith(("logits", "probs"))
        allowed = IMAGE if image else FLOAT64 if double else FLOAT32 if outside else INSIDE
        yield Difference(name, largest(found.reshape(theirs.shape), theirs), allowed)
    if kind != "lvvit":  # its second head reads every patch
        short = outputs(build(fixture, class_token_only=True), clip, seed=seed)
        for name in ("logits", "logits0", "logits1"):
            if name in fixture.stored:
                value = largest(short[name], fixture.stored[name])
                yield Difference(f"{name}, class token only", value, IMAGE if image else FLOAT32)


def compare_loading(fixture: Fixture) -> Iterator[Difference]:
    """The official `load_pretrained` of image weights: the model after it, tensor by tensor, exactly.

    What it left alone keeps its start: a new head, and zeros where the branch over time begins (the time
    table and `temporal_fc`). In the official run these held random numbers, so only the rule is compared.
    """
    after = {key.removeprefix("after."): value for key, value in fixture.stored.items() if "after." in key}
    src = fixture.state or {key[4:]: value for key, value in fixture.stored.items() if key[:4] == "src."}
    config = fixture.config
    target = ReViT(
        num_classes=config["num_classes"],
        token_lengths=(config["img_size"] // config["patch_size"],),
        num_frames=config["num_frames"],
        crop=config["img_size"],
        dim=config["embed_dim"],
        depth=config["depth"],
        heads=config["num_heads"],
        distill_token=False,
    )
    with torch.no_grad():
        target.head.weight.copy_(after["head.weight"])
        target.head.bias.copy_(after["head.bias"])
    state, _ = convert_state_dict(src, target=target, resize="flat_nearest", new_head=True)
    for name, ours in to_official(state, "timesformer").items():
        theirs = after.get(name)
        if "temporal_fc" in name or name == "time_embed":
            theirs = torch.zeros_like(ours)
        elif theirs is None:  # a small file: as in the image weights
            theirs = src[name.replace("temporal_attn", "attn").replace("temporal_norm1", "norm1")]
        yield Difference(name, largest(ours, theirs), 0.0)


def largest(ours: Tensor, theirs: Tensor) -> float:
    return (ours.double() - theirs.double()).abs().max().item()


def main(paths: list[str]) -> int:
    if not paths or paths[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if paths else 2
    failed = 0
    for path in map(Path, paths):
        print(path.stem)
        found = list(compare(path))
        shown = found if "_load_" not in path.stem else [max(found, key=lambda one: one.largest)]
        for one in shown:
            print(f"  {one.largest:9.2e}  of {one.allowed:.0e}  {'ABOVE  ' * one.fails}{one.name}")
        failed += sum(one.fails for one in found)
    print(f"{failed} of the tensors are above their tolerance" if failed else "all within their tolerance")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
