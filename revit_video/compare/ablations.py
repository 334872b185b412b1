"""The ablations of `tools/compare.py ablation=NAME`: what of ReViT's design does what, rows of any config.

Rows say all settings of what they compare, so that those of the config do not matter, and nothing else. The
paper's own numbers stand beside them, named as DeiT-S on ImageNet-1k. Its text and tables contradict each
other in places; how they are read here is in docs/compare.md.
"""

from __future__ import annotations

from revit_video.compare.methods import METHODS
from revit_video.compare.rows import ADAPTIVE, Comparison, Published, Row

SOURCE = "ReViT, arXiv:2307.02092, table"
PAPER = "paper, DeiT-S on ImageNet-1k"


def distilled(
    *,
    weight: float = 0.5,
    temperature: float = 1.0,
    hard: bool = False,
    order: str = "teacher_student",
    token: bool = True,
    features: float = 0.0,
    attention: float = 0.0,
) -> tuple[str, ...]:
    """Self-distillation, whole. Feature transfer reads all patches of the last block, so it computes them."""
    return (
        f"revit.distill_weight={weight}",
        f"revit.temperature={temperature}",
        f"revit.hard={str(hard).lower()}",
        f"revit.kl_order={order}",
        f"revit.feature_transfer={features}",
        f"revit.attention_transfer={attention}",
        f"model.distill_token={str(token).lower()}",
        *(("model.options.class_token_only=false",) if features else ()),
    )


def shared(*, patches: str = "conv", positions: str = "separate", norms: str = "separate") -> tuple[str, ...]:
    """What the lengths have in common."""
    return f"model.patch_embed={patches}", f"model.positions={positions}", f"model.norms={norms}"


def labelled(
    *,
    split: str = "train",
    folds: int = 0,
    rule: str = "shortest_right",
    none: str = "longest",
    soft: bool = False,
) -> tuple[str, ...]:
    """What a video's length label is."""
    return (
        f"labels.split={split}",
        f"labels.folds={folds}",
        f"labels.rule={rule}",
        f"labels.none_right={none}",
        f"assigner.soft_labels={str(soft).lower()}",
    )


def published(table: int, row: str, **top1: float) -> tuple[Published, ...]:
    """A row of a table of the paper: its top-1 by length, `at14=79.83`. It gives no costs."""
    return tuple(
        Published(f"{PAPER}: {row}, {size}x{size}", value, None, f"{SOURCE} {table}")
        for size, value in ((name.removeprefix("at"), value) for name, value in top1.items())
    )


def other_labels(name: str, **labels: str | int | bool) -> Row:
    """Other labels for the backbone that `shortest_right` has trained, and an assigner that learns them."""
    return Row(name, labelled(**labels), reads=ADAPTIVE, starts_from="shortest_right", train=False)


ABLATIONS: dict[str, Comparison] = {
    "table2": Comparison(
        (
            METHODS["longest"],
            METHODS["middle"],
            METHODS["shortest"],
            Row("revit_no_distillation", distilled(weight=0.0, token=False)),
            Row("revit_tau_0.5", distilled(temperature=0.5)),
            Row("revit_tau_0.9", distilled(temperature=0.9)),
        ),
        (
            *published(2, "each length alone", at14=79.85, at10=74.68, at7=72.41),
            *published(2, "no self-distillation", at14=80.12, at10=74.24, at7=70.15),
            *published(2, "tau .5", at14=79.92, at10=76.16, at7=71.33),
            *published(2, "tau .9", at14=79.83, at10=76.86, at7=74.21),
        ),
    ),
    "table3": Comparison(
        (
            Row("separate", shared()),
            Row("shared_patches", shared(patches="shared")),
            Row("shared_positions", shared(positions="shared")),
            Row("shared_patches_and_positions", shared(patches="shared", positions="shared")),
            Row("shared_positions_bicubic", shared(positions="shared_bicubic")),
            Row("shared_norms", shared(norms="shared")),
        ),
        (
            *published(3, "patch embedding shared", at14=65.14),
            *published(3, "position table shared", at14=75.24),
            *published(3, "both separate", at14=79.83, at10=76.85, at7=74.21),
        ),
    ),
    "losses": Comparison(
        (
            Row("labels_only", distilled(weight=0.0, token=False)),
            Row("soft", distilled()),
            Row("hard", distilled(hard=True)),
            Row("printed_order", distilled(order="student_teacher")),
            Row("no_token", distilled(token=False)),
            Row("feature_transfer", distilled(features=0.1)),
            Row("attention_transfer", distilled(attention=0.1)),
            Row("soft_and_transfers", distilled(features=0.1, attention=0.1)),
            *(
                Row(f"weight_{weight}_tau_{tau}", distilled(weight=weight, temperature=tau))
                for weight in (0.5, 0.9)
                for tau in (0.9, 1.0, 3.0)
                if (weight, tau) != (0.5, 1.0)  # which is `soft`
            ),
        ),
    ),
    "stems": Comparison(
        tuple(Row(stem, (f"model.patch_embed={stem}",)) for stem in ("conv", "conv_stem", "resize"))
    ),
    "labels": Comparison(
        (
            Row("shortest_right", labelled(), reads=ADAPTIVE),
            other_labels("none_right_shortest", none="shortest"),
            other_labels("none_right_dropped", none="drop"),
            other_labels("near_longest", rule="near_longest"),
            other_labels("soft", soft=True),
            other_labels("held_out", split="val"),
            other_labels("folds_3", folds=3),
        )
    ),
}
