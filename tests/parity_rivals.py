"""The rivals against stored outputs of their official code; part of tests/parity.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from revit_video.competitors.dvt import DVT
from revit_video.competitors.early_exit import STEPS, quantile_shares, quantile_thresholds, worth
from revit_video.competitors.evit import EViT, keep_rate_at
from revit_video.competitors.tome import ToMe, match, merge
from revit_video.convert import convert_state_dict
from revit_video.convert.dvt import EXITS
from revit_video.layers.reduce import Reduction, TokenState

if TYPE_CHECKING:
    from parity import Fixture

REDUCED = ("evit", "tome")


def reduction_of(fixture: Fixture) -> Reduction:
    """What the fixture's model does with its tokens; a keep rate given at the call replaces its own."""
    config = fixture.config
    if fixture.name.startswith("tome"):
        r, inflect = config["r"] if isinstance(config["r"], list) else (config["r"], 0.0)
        return ToMe(r, inflect=inflect, proportional=config["prop_attn"])
    spec = EViT(keep=tuple(config["keep_rate"]), fuse=config["fuse_token"])
    rate = config["call"]["keep_rate"]
    return spec if rate is None else spec.at_rate(rate, config["depth"])


@dataclass(frozen=True)
class Watched:
    """A reduction that writes down what it saw and did, under the names of the fixtures."""

    reduction: Reduction
    seen: dict[str, Tensor]

    def __getattr__(self, name: str) -> object:
        return getattr(self.reduction, name)

    def per_block(self, depth: int) -> tuple:
        return tuple(self.watch(step, i) for i, step in enumerate(self.reduction.per_block(depth)))

    def watch(self, step: object, block: int):
        def reduce(x, seen, kept):
            self.seen[f"block{block}.metric"] = seen.k.mean(dim=1)
            if step is None:
                return x, kept
            out, after = step(x, seen, kept)
            if after.fused is not None or after.sizes is None:
                self.seen[f"block{block}.kept_idx"] = kept_units(kept, after)
            return out, after

        return reduce


def kept_units(before, after) -> Tensor:
    """Which of the units before are still themselves, in rising order (B, k)."""
    became = torch.full((len(before.owner), before.units), -1)
    rows = torch.arange(len(became))[:, None]
    there = before.owner.clamp_min(0)
    became[rows, there] = torch.where(before.owner < 0, became[rows, there], after.owner)
    lone = became >= 0
    if after.fused is not None:
        lone &= became != after.units - 1
    return torch.stack([row.nonzero().squeeze(1) for row in lone])


@torch.inference_mode()
def reduced_outputs(model, fixture: Fixture, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Everything a fixture of EViT or ToMe may hold, under its names."""
    seen: dict[str, Tensor] = {}
    hooks = [
        block.register_forward_hook(lambda _, __, out, i=i: seen.update({f"block{i}.out": out[0]}))
        for i, block in enumerate(model.blocks)
    ]
    clip = fixture.stored["input"][:, :, None].to(dtype)
    out = model(clip, full_output=True, reducer=Watched(reduction_of(fixture), seen))
    for hook in hooks:
        hook.remove()
    kept = out.kept
    if kept.sizes is not None:  # theirs has the class token too
        ones = torch.ones(len(kept.sizes), 1)
        seen["final_size"] = torch.cat([ones, kept.sizes], dim=1)[..., None]
        owner = torch.cat([torch.zeros(len(kept.owner), 1, dtype=torch.long), kept.owner + 1], dim=1)
        seen["final_source"] = torch.nn.functional.one_hot(owner, kept.units + 1).mT.float()
    return seen | {"logits": out.prediction(), "logits_unpatched": model(clip)}


def compare_reduced(model, fixture: Fixture, difference, allowed: float) -> Iterator:
    """One difference per stored tensor; kept tokens are compared as sets, what became of tokens exactly."""
    ours = reduced_outputs(model, fixture)
    for name, theirs in fixture.stored.items():
        if name == "input":
            continue
        exact = name.endswith(("kept_idx", "final_size", "final_source"))
        found, wanted = ours[name], theirs.sort(dim=1).values if name.endswith("kept_idx") else theirs
        yield difference(
            name, (found.double() - wanted.double()).abs().max().item(), 0.0 if exact else allowed
        )


# DVT


def build_cascade(fixture: Fixture) -> DVT:
    config = fixture.config
    t2t = config["kind"] != "deit"
    options = {"token_dim": config["token_dim"]} if t2t else {"even": False}
    model = DVT(
        "t2t_vit_12" if t2t else "deit_small",
        num_classes=config["num_classes"],
        token_lengths=tuple(reversed(config["grids"])),
        crop=config["img_size"],
        dim=config["embed_dim"],
        depth=config["depth"],
        heads=config["num_heads"],
        mlp_ratio=config["mlp_ratio"],
        patch_embed_options=options,
        feature_reuse=config["feature_reuse"],
        relation_reuse=config["relation_reuse"],
    )
    state, _ = convert_state_dict(fixture.state, target=model)
    model.load_state_dict(state)
    return model.eval()


@torch.inference_mode()
def cascade_outputs(model: DVT, clip: Tensor) -> dict[str, Tensor]:
    """Everything a fixture of DVT may hold, under its names."""
    seen: dict[str, Tensor] = {}
    for i, (name, one) in enumerate(zip(EXITS, model.exits, strict=True)):
        first = one.backbone.blocks[0]
        first.norm1.register_forward_pre_hook(
            lambda _, inputs, name=name: seen.update({f"{name}.tokens_in": inputs[0]})
        )
        one.backbone.norm.register_forward_pre_hook(
            lambda _, inputs, name=name: seen.update({f"{name}.final_tokens_before_norm": inputs[0]})
        )
        if one.features is not None:
            one.features[0].register_forward_hook(
                lambda _, __, out, name=name: seen.update({f"{name}.block0.context_embedding": out})
            )
        if one.relations is not None:
            heads = first.attn.heads
            grids = [model.exits[i - 1].backbone.grids[0], one.backbone.grids[0]]
            one.relations.register_forward_hook(
                lambda module, _, out, name=name, heads=heads, grids=grids: seen.update(
                    {f"{name}.block0.reused_logits": module.enlarge(out[..., :heads], *grids)}
                )
            )
    logits = model(clip[:, :, None], all_exits=True)
    return seen | {f"logits{i}": one for i, one in enumerate(logits)}


def compare_cascade(fixture: Fixture, difference, allowed: float) -> Iterator:
    """One difference per stored tensor, of which the first entries of some axes are stored."""
    ours = cascade_outputs(build_cascade(fixture), fixture.stored["input_f16"].float())
    for name, theirs in fixture.stored.items():
        if name != "input_f16":
            found = ours[name][tuple(slice(size) for size in theirs.shape)]
            yield difference(name, (found.double() - theirs.double()).abs().max().item(), allowed)


# functions alone


def compare_thresholds(fixture: Fixture, difference) -> Iterator:
    """The quantile rule: thresholds, and what they are worth on the same samples."""
    stored = fixture.stored
    sure, said = stored["probs"].max(dim=-1)
    right, costs = said == stored["targets"], fixture.config["stage_flops"]
    found = [quantile_thresholds(sure, quantile_shares(step / 20, len(sure))) for step in STEPS]
    values = [worth(sure, right, thresholds, costs) for thresholds in found]
    ours = {"thresholds": torch.stack(found), "accuracy": torch.tensor([one for one, _ in values])}
    ours["flops"] = torch.tensor([one for _, one in values])
    for name, found in ours.items():
        exact = name == "thresholds"
        yield difference(
            name, (found.double() - stored[name].double()).abs().max().item(), 0.0 if exact else 1e-5
        )


def compare_keep_rates(fixture: Fixture, difference) -> Iterator:
    """The warm-up of EViT's keep rate."""
    config = fixture.config
    ours = [
        keep_rate_at(
            step,
            config["base_keep_rate"],
            steps_per_epoch=config["iters_per_epoch"],
            start_epoch=config["shrink_start_epoch"],
            shrink_epochs=config["shrink_epochs"],
        )
        for step in fixture.stored["iter"].tolist()
    ]
    theirs = fixture.stored["keep_rate"].double()
    yield difference("keep_rate", (torch.tensor(ours).double() - theirs).abs().max().item(), 1e-6)


def compare_matching(fixture: Fixture, difference) -> Iterator:
    """Matching and merging of ToMe, with a class token and with a distillation token too; ours needs one."""
    stored, r = fixture.stored, fixture.config["r"]
    for name, prefix in (("cls", 1), ("cls_dist", 2)):
        metric, x, size = stored["metric"], stored["x"], stored["size"][..., 0]
        kept = replace(TokenState.start(x, prefix=prefix), sizes=size[:, prefix:])
        source, target, left = match(metric[:, prefix:], r, first=prefix % 2)
        tokens, after = merge(x, kept, source, target, left)
        unmerged = tokens[:, prefix:].gather(1, after.owner[..., None].expand(-1, -1, x.shape[2]))
        ours = {"x": tokens[:, prefix:], "size": after.sizes[..., None]}
        if (
            prefix == 1
        ):  # with a distillation token the official `unmerge` forgets its own order of the tokens
            ours["unmerged"] = unmerged
        for key, found in ours.items():
            wanted = stored[f"{name}.{key}"][:, prefix:]
            yield difference(f"{name}.{key}", (found - wanted).abs().max().item(), 1e-5)


FUNCTIONS = {
    "dvt_thresholds": compare_thresholds,
    "evit_keep_schedule": compare_keep_rates,
    "tome_matching": compare_matching,
}
