"""Step two of a conversion: weights of one token length made to fit a ReViT of any lengths, frames and crop.

Every parameter of the target gets its source by a rule, or the conversion fails and lists those without;
every tensor of the source is used, or is named as not needed, or the conversion fails and lists the rest.
"""

from __future__ import annotations

import torch
from torch import Tensor

from revit_video.backbones.core import ReViT
from revit_video.convert.rename import Renamed
from revit_video.convert.report import Tally
from revit_video.convert.resize import check_resize, resize_joint, resize_positions, resize_time
from revit_video.convert.rules import listed
from revit_video.convert.stems import fit_stems
from revit_video.types import InputError

HEADS = ("head", "aux_head", "head_distill")
TIME = (".time.", ".time_norm.", ".time_attn.")  # of the blocks with attention over time
OVER_TIME = (".attn.proj_q.", ".attn.proj_k.", ".attn.proj_v.")  # the second step of trajectory attention
USED, RESIZED, NEW = "used", "resized", "newly initialised"
COPIED = "used, copied to all lengths"


def fit(
    renamed: Renamed, target: ReViT, *, origin: str, resize: str = "bicubic", new_head: bool = False
) -> tuple[dict[str, Tensor], list[dict]]:
    """A state for `target.load_state_dict`, and the rows of the report. The target itself is not changed.

    Raises:
        InputError: the architectures or the numbers of classes differ, or tensors are missing or left over.
    """
    check_resize(resize)
    return _Fit(renamed, target, origin=origin, resize=resize, new_head=new_head).run()


class _Fit:
    def __init__(self, renamed: Renamed, target: ReViT, *, origin: str, resize: str, new_head: bool) -> None:
        self.renamed, self.target, self.origin = renamed, target, origin
        self.resize, self.new_head = resize, new_head
        self.source = dict(renamed.tensors)
        self.fresh = target.state_dict()
        self.state: dict[str, Tensor] = {}
        self.used: set[str] = set()
        self.missing: list[str] = []
        self.tally = Tally()

    def run(self) -> tuple[dict[str, Tensor], list[dict]]:
        self.check_architecture()
        stems, became, used = fit_stems(self.source, self.target, origin=self.origin)
        self.used |= used
        tables_first = sorted(self.fresh, key=lambda key: not key.startswith("pos_tables."))
        for key in tables_first:
            fresh = self.fresh[key]
            if key in stems:
                self.take(key, stems[key], became[key])
            elif key.startswith("pos_tables."):
                self.positions(key)
            elif key.split(".")[0] in HEADS:
                self.head(key)
            elif key == "time_table":
                self.time_table(fresh)
            elif key == "distill_tokens":
                self.distill_tokens(fresh)
            else:
                self.plain(key, fresh)
        self.check_all_used()
        for name, (why, tensor) in self.renamed.dropped.items():
            self.tally.add(f"theirs: {name}", f"dropped: {why}", tensor)
        return {key: self.state[key] for key in self.fresh}, self.tally.rows()

    def take(self, key: str, tensor: Tensor, became: str, *sources: str) -> None:
        self.state[key] = tensor.detach().to(self.fresh[key].dtype).clone()
        self.used.update(sources)
        self.tally.add(key, became, self.fresh[key])

    def check_architecture(self) -> None:
        """Depth and width first: every other difference would be buried under their many keys."""
        ours, theirs = self.target, self.renamed
        pairs = {"dim": (len(theirs.tensors["class_token"]), len(ours.class_token))}
        pairs["depth"] = (theirs.depth, len(ours.blocks))
        hidden = "blocks.0.mlp.fc1.weight"
        if hidden in theirs.tensors and theirs.depth:
            pairs["MLP width"] = (len(theirs.tensors[hidden]), len(self.fresh[hidden]))
        other = [f"{name} {a} (model: {b})" for name, (a, b) in pairs.items() if a != b]
        if other:
            raise InputError(
                f"{self.origin} has {', '.join(other)}; choose the model it was trained as, or give "
                "dim, depth, heads and mlp_ratio"
            )

    def positions(self, key: str) -> None:
        name, grid = "pos_tables.0", self.target.pos_tables.grids[int(key.split(".")[1])]
        table, own = self.source[name], self.renamed.grid
        padded = self.target.pos_tables.sharing == "shared"
        if padded and (own.height, own.width) != (grid.height, grid.width):
            raise InputError(
                f"{self.origin} has positions of {own.height}x{own.width} patches, which a shared table of "
                f"{grid.height}x{grid.width} with zeros around it cannot hold; set positions "
                "(model.positions) to separate or shared_bicubic"
            )
        if self.target.pos_init == "sine_1d" and len(table) != len(self.fresh[key]):
            self.take(key, self.fresh[key], "computed for the length", name)
            return
        theirs_joint = len(table) - 1 != own.per_frame
        ours_joint = len(self.fresh[key]) - 1 != grid.per_frame
        if theirs_joint and not ours_joint:
            raise InputError(
                f"{self.origin} has one position table over space and time, the model one for each; set "
                "joint_positions=True"
            )
        if theirs_joint:
            fitted = resize_joint(table, own, grid, resize=self.resize)
        else:
            fitted = resize_positions(table, own, grid, resize=self.resize)
        if ours_joint and not theirs_joint:
            fitted = self.over_time(fitted, grid.frames)
        same = len(table) == len(fitted) and (own.height, own.width) == (grid.height, grid.width)
        self.take(key, fitted, USED if same else RESIZED, name)

    def over_time(self, table: Tensor, frames: int) -> Tensor:
        """One table over space and time that says what separate ones said."""
        places = table[None, 1:].expand(frames, -1, -1)
        if "time_table" in self.source:
            times = resize_time(self.source["time_table"], frames, resize=self.resize)
            self.used.add("time_table")
            places = places + times[:, None]
        return torch.cat([table[:1], places.flatten(0, 1)])

    def time_table(self, fresh: Tensor) -> None:
        if "time_table" in self.source:
            table = resize_time(self.source["time_table"], len(fresh), resize=self.resize)
            same = len(table) == len(self.source["time_table"])
            self.take("time_table", table, USED if same else RESIZED, "time_table")
        elif self.renamed.is_video:
            self.missing.append("time_table")
        else:
            self.take("time_table", torch.zeros_like(fresh), f"{NEW}: zero")

    def distill_tokens(self, fresh: Tensor) -> None:
        """Theirs for every length, or each length's class token: so a shorter length works from the start."""
        if "distill_tokens" in self.source:
            if self.target.first_distilled > 0:
                raise InputError(
                    f"{self.origin} is of a distilled model: it has a distillation token at its own length; "
                    "set distilled=True, or choose the model of that kind (deit_*_distilled)"
                )
            rows = self.source["distill_tokens"].expand_as(fresh)
            self.take("distill_tokens", rows, COPIED if len(fresh) > 1 else USED, "distill_tokens")
            return
        first = self.target.first_distilled
        levels = range(first, self.target.num_levels)
        tables = [self.state[f"pos_tables.{self.target.pos_tables.index(level)}"] for level in levels]
        rows = [self.source["class_token"] + table[0] for table in tables]
        self.take("distill_tokens", torch.stack(rows), "copied from the class token")

    def head(self, key: str) -> None:
        name, kind = key.split(".")
        if self.new_head:
            self.take(key, self.fresh[key], NEW, key)
            return
        origin = key if key in self.source or name != "head_distill" else f"head.{kind}"
        if origin not in self.source:
            self.missing.append(key)
            return
        classes = len(self.source[origin])
        if classes != len(self.fresh[key]):
            raise InputError(
                f"{self.origin} has {classes} classes, the model {len(self.fresh[key])}; give "
                f"num_classes={classes}, or new_head (--new-head K) to start a new head"
            )
        self.take(
            key, self.source[origin], USED if origin == key else "copied from the class token's", origin
        )

    def plain(self, key: str, fresh: Tensor) -> None:
        """Of the blocks and the norms: the tensor of the same name, or for attention over time a start."""
        if key in self.source:
            tensor = self.source[key]
            per_level = key.endswith((".scale", ".shift")) and len(fresh) > 1
            if tensor.shape[1 if per_level else 0 :] != fresh.shape[1 if per_level else 0 :]:
                self.missing.append(f"{key} {tuple(fresh.shape)} (the file's: {tuple(tensor.shape)})")
                return
            self.take(key, tensor.expand_as(fresh), COPIED if per_level else USED, key)
        elif any(part in key for part in TIME) and not self.has(*TIME) and not self.renamed.is_video:
            self.from_space(key, fresh)
        elif (
            any(part in key for part in OVER_TIME) and not self.has(*OVER_TIME) and not self.renamed.is_video
        ) or (key.startswith("pre_logits.") and not self.has("pre_logits.") and not self.renamed.is_video):
            self.take(key, fresh, NEW)
        else:
            self.missing.append(key)

    def from_space(self, key: str, fresh: Tensor) -> None:
        """Attention over time starts as the one over space, and adds nothing: the clip model computes of each
        frame what the image model did. What ends the branch is zero: `time.fc`, or in Motionformer's divided
        blocks, which have none, `time_attn.proj`.
        """
        if ".time.fc." in key or ".time_attn.proj." in key:
            self.take(key, torch.zeros_like(fresh), f"{NEW}: zero")
            return
        origin = key
        for ours, space in (
            ("time.norm", "norm1"),
            ("time_norm", "norm1"),
            ("time.attn", "attn"),
            ("time_attn", "attn"),
        ):
            origin = origin.replace(f".{ours}.", f".{space}.")
        if origin in self.source:
            self.take(key, self.source[origin].expand_as(fresh), "copied from the attention over space")
        else:
            self.missing.append(key)

    def has(self, *parts: str) -> bool:
        return any(part in key for part in parts for key in self.source)

    def not_needed(self, key: str) -> str:
        """Why the target can do without a tensor of the source, or nothing."""
        if not any(part in key for part in OVER_TIME):
            return "head" if self.new_head and key.split(".")[0] in HEADS else ""
        block = self.target.blocks[int(key.split(".")[1])]
        trajectory = any(".attn.proj_q." in name for name in self.fresh) or block.prefix_only
        if trajectory and block.prefix_only:
            return "the last block computes the class token alone"
        return "attention mode original" if trajectory and ".attn.proj_v." in key else ""

    def check_all_used(self) -> None:
        extra = []
        for key in self.source.keys() - self.used:
            why = self.not_needed(key)
            if why:
                self.tally.add(f"theirs: {self.renamed.theirs[key]}", f"dropped: {why}", self.source[key])
            else:
                extra.append(key)
        if not self.missing and not extra:
            return
        order = list(self.source)
        parts = []
        if self.missing:
            parts.append(
                f"{len(self.missing)} parameters of the model are not in it ({listed(self.missing)})"
            )
        if extra:
            theirs = [self.renamed.theirs[key] for key in sorted(extra, key=order.index)]
            parts.append(f"the model has no place for {len(theirs)} of its tensors ({listed(theirs)})")
        raise InputError(
            f"{self.origin} ({self.renamed.source}) does not fit the model: {'; '.join(parts)}. Choose the "
            "model and the attention it was trained with"
        )
