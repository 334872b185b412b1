"""Stage 1: one optimizer step teaches every token length (Algorithm 1 of arXiv:2307.02092)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from revit_video.backbones.outputs import Outputs
from revit_video.evaluate.heads import Heads, best_labels
from revit_video.layers.reduce import Reduction
from revit_video.train.lengths import Teaching, pieces_of
from revit_video.train.losses import (
    Distillation,
    attention_loss,
    class_loss,
    correct_rows,
    distillation_loss,
    feature_loss,
    right_rows,
)
from revit_video.train.parallel import Exchange
from revit_video.train.team import Present, Team
from revit_video.train.token_labels import PatchTask
from revit_video.train.world import World
from revit_video.types import InputError


@dataclass(frozen=True)
class Together:
    """What a step of several processes has to know of the others.

    levels: of the step, over all processes. passes: how many pieces of clips every process runs at least,
    where all must run equally many. teaching: the way of the logits, where groups share the levels.
    complete: whether all processes have clips.
    """

    levels: Sequence[int]
    passes: int = 0
    teaching: Teaching | None = None
    complete: bool = True

    @classmethod
    def of(
        cls,
        world: World,
        team: Team,
        present: Present,
        exchange: Exchange,
        *,
        views: int,
        num_classes: int,
        micro_batch: int,
    ) -> Together:
        """Of a step whose clips are there: `views` of each video, logits of `num_classes`."""
        teaching, passes = None, 0
        if len(team.runs) > 1:
            teaching = Teaching(
                world, team, present, views=views, num_classes=num_classes, micro_batch=micro_batch
            )
        if exchange.even_passes:
            clips = max(len(rows) for rows in present.by_rank) * views
            passes = len(pieces_of(range(clips), micro_batch))
        return cls(team.levels, passes, teaching, present.complete)


def revit_step(
    model: nn.Module | Exchange,
    clips: Tensor,
    labels: Tensor,
    *,
    levels: Sequence[int],
    distillation: Distillation,
    targets: Tensor | None = None,
    smoothing: float = 0.0,
    heads: Heads = (),
    micro_batch: int = 0,
    weight: float = 1.0,
    reducer: Reduction | None = None,
    patches: PatchTask | None = None,
    autocast: Callable[[], AbstractContextManager] = nullcontext,
    backward: Callable[[Tensor], None] = Tensor.backward,
    together: Together | None = None,
) -> dict[str, Tensor]:
    """Backward through the same clips (B, C, T, H, W) at several levels; gradients add up, the caller steps
    once. Returns sums over the clips, to be divided by `clips`.

    `levels` falls in length: the first one is the teacher of the others, from this very pass, detached. With
    one level alone there is no teacher and the loss is plain cross-entropy on every head the level has.

    targets: distributions (B, K) in place of the labels, which then only count what is right.
    heads: the class lists that the logits consist of, see evaluate.heads.
    micro_batch: at most so many clips run forward and backward at a time; 0: all. The gradients are the same.
    weight: of the mean loss over these clips: their share of the step's clips, where other processes have
        others, times the number of processes.
    reducer: of this step, in place of the model's own.
    patches: what the patches learn; None: nothing, and an auxiliary head stays as it is.
    together: for several processes; `model` is then an `Exchange`, and the sums are this process's part.
    """
    exchange = model if isinstance(model, Exchange) else Exchange(model)
    together = together or Together(levels)
    teaching = together.teaching
    targets = labels if targets is None else targets
    options = {"full_output": True, "with_looks": distillation.attention_weight > 0}
    options |= {} if reducer is None else {"reducer": reducer}
    share_of_levels = len(levels) / len(together.levels)  # so that all processes' clips count once
    sums: dict[str, Tensor] = {"clips": torch.tensor(len(labels) * share_of_levels, device=labels.device)}
    pieces = teaching.pieces if teaching else pieces_of(range(len(labels)), micro_batch)
    passes = max(len(pieces), together.passes)
    if not passes:
        exchange.take_part(backward)
    patches, grids = patches or PatchTask(), getattr(exchange.model, "grids", ())
    for number in range(passes):
        rows = pieces[number] if number < len(pieces) else []
        some = clips[within(rows)] if rows else blank_clip(exchange.model, labels.device)
        truth, wanted = (
            (column[within(rows)] for column in (labels, targets)) if rows else (labels.new_zeros(1),) * 2
        )
        share = weight * len(rows) / max(1, len(labels))
        task, teacher = patches.rows(within(rows) if rows else []), None
        for level in levels:
            last = number == passes - 1 and level == levels[-1]
            with exchange.one_pass(last=last):
                swap = task.swap(grids[level], labels.device) if task.box else None
                with autocast():
                    out = exchange(some, level, **options, **({} if swap is None else {"swap": swap}))
                refuse_missing_features(out, distillation)
                if teaching is not None:
                    teacher = taught(teaching, number, out, teacher)
                kind = {"smoothing": smoothing, "heads": heads}
                mixed = task.clip_targets(wanted, swap, num_classes=out.logits.shape[-1], heads=heads)
                loss = level_loss(out, mixed, teacher=teacher, distillation=distillation, **kind)
                if task.weight and out.aux_logits is not None:
                    loss = loss + task.loss(out, wanted, swap, grid=grids[level], **kind)
                backward(exchange.closed(loss * share) if last else loss * share)
            if rows:
                seen = level_sums(out, loss, truth, teacher, heads)
                for name, value in seen.items():
                    key = f"{name}/level{level}"
                    sums[key] = sums.get(key, 0.0) + value
                sums["loss"] = sums.get("loss", 0.0) + seen["loss"] / len(together.levels)
            if teacher is None:
                teacher = as_teacher(out, distillation)
    if teaching is not None:
        teaching.close()
    exchange.finish(together.levels, complete=together.complete)
    return sums


def within(rows: list[int]) -> slice | list[int]:
    """Neighbours as a slice, which copies nothing."""
    return slice(rows[0], rows[-1] + 1) if rows == list(range(rows[0], rows[-1] + 1)) else rows


def blank_clip(model: nn.Module, device: torch.device) -> Tensor:
    """What a process runs, without effect, in a pass that it only takes part in."""
    return torch.zeros(1, 3, model.num_frames, *model.crop, device=device)


def taught(teaching: Teaching, number: int, out: Outputs, teacher: Outputs | None) -> Outputs | None:
    """The teacher of the pass that gave `out`, where it may be in other processes; None: `out` is of the
    teacher itself, and was sent.
    """
    if teacher is None and teaching.is_pupil:
        return Outputs(teaching.receive(number, out.logits.device), None, None)
    if teacher is None:
        teaching.send(number, out.logits)
    return teacher


def level_sums(
    out: Outputs, loss: Tensor, labels: Tensor, teacher: Outputs | None, heads: Heads = ()
) -> dict[str, Tensor]:
    """What is logged of one length, summed over its clips."""
    with torch.no_grad():
        right = right_rows(out.logits, labels, heads=heads)
        sums = {"loss": loss.detach() * len(labels)}
        sums |= {name: 100.0 * rows.float().sum() for name, rows in right.items()}
        if teacher is not None:
            same = correct_rows(out.prediction(), best_labels(teacher.logits, heads), heads=heads)
            sums["agreement"] = 100.0 * same.float().sum()
    return sums


def as_teacher(out: Outputs, distillation: Distillation) -> Outputs:
    """What the shorter lengths learn from, cut off from the graph."""
    features = out.features.detach() if distillation.feature_weight else None
    looks = out.looks.detach() if distillation.attention_weight else None
    return Outputs(out.logits.detach(), None, features, looks)


def refuse_missing_features(out: Outputs, distillation: Distillation) -> None:
    if distillation.feature_weight and out.kept is not None:
        raise InputError(
            "feature transfer compares whole grids of patches, which a token reducer thins out; "
            "set revit.feature_transfer=0 or train without the reducer"
        )
    if distillation.feature_weight and out.features is None:
        raise InputError(
            "feature transfer reads the patches of the last block, which this model leaves out; "
            "set model.options.class_token_only=false or revit.feature_transfer=0"
        )


def level_loss(
    out: Outputs,
    labels: Tensor,
    *,
    teacher: Outputs | None,
    distillation: Distillation,
    smoothing: float,
    heads: Heads = (),
) -> Tensor:
    """Loss of one length. With a distillation token, labels teach the class head and the teacher teaches the
    other; without a teacher, or with a weight of 0, labels teach both.
    """
    weight = 0.0 if teacher is None else distillation.weight
    loss = class_loss(out.logits, labels, smoothing=smoothing, heads=heads)
    if weight:
        student = out.logits if out.distill_logits is None else out.distill_logits
        loss = (1 - weight) * loss
        loss = loss + weight * distillation_loss(student, teacher.logits, distillation, heads=heads)
    elif out.distill_logits is not None:  # nobody teaches this head, and it takes part in the prediction
        loss = (loss + class_loss(out.distill_logits, labels, smoothing=smoothing, heads=heads)) / 2
    if teacher is None:
        return loss
    if distillation.feature_weight:
        loss = loss + distillation.feature_weight * feature_loss(out.features, teacher.features)
    if distillation.attention_weight:
        loss = loss + distillation.attention_weight * attention_loss(out.looks, teacher.looks)
    return loss
