"""What every router is worth on a test set, at every budget: from stored logits, without another pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from revit_video.evaluate.adaptive import (
    Stored,
    clip_labels,
    oracle_baseline,
    oracle_curve,
    predictor_table,
    random_baseline,
    random_hits,
    shares,
    summary,
)
from revit_video.evaluate.metrics import bootstrap_intervals, paired_difference, percent
from revit_video.routing.labels import shortest_right
from revit_video.routing.rule import KINDS, Rule
from revit_video.routing.stored import curve_budgets, held_out, rule_of, rules_at

PURE = ("assigner", "cascade")  # of which the hybrid is made
RANDOM_DRAWS = 20  # of random assignment at each budget of the curve


@dataclass(frozen=True)
class Speeds:
    """Measured milliseconds of a clip in full batches: at each level, longest first, and of the assigner's
    look at it.
    """

    levels: tuple[float, ...]
    look: float


@dataclass(frozen=True)
class Choices:
    """A test set with what the assigner wished there.

    stored: clips (or whole videos) that share their lengths. wishes: the assigner's logits (N, C, L). look:
        GMACs of the assigner for a clip. views: how many share a look.
    """

    stored: Stored
    wishes: Tensor
    look: float
    views: int = 1

    def run(self, rule: Rule) -> tuple[Tensor, float]:
        """Levels (N, C) at which clips stop under a rule, and its mean GMACs per view."""
        levels, gmacs = self.run_each(rule)
        return levels, gmacs.mean().item()

    def run_each(self, rule: Rule) -> tuple[Tensor, Tensor]:
        """The same with the GMACs per view of each clip (N, C)."""
        starts, stops = self.path(rule)
        gmacs = rule.cost(starts, stops, self.stored.costs, look=self.look / self.views)
        return stops.view(self.wishes.shape[:2]), gmacs.view(self.wishes.shape[:2])

    def path(self, rule: Rule) -> tuple[Tensor, Tensor]:
        """First and last level of every clip, (N * C,) each."""
        starts = rule.starts(self.wishes.flatten(0, 1), self.stored.costs)
        return starts, rule.stops(starts, self.stored.confidence.flatten(0, 1))

    def ms(self, rule: Rule, speeds: Speeds) -> float:
        """What a view takes on average under a rule: all its passes, and its part of the look."""
        return rule.cost(*self.path(rule), speeds.levels, look=speeds.look / self.views).mean().item()

    def summary(self, rule: Rule) -> dict[str, float]:
        levels, gmacs = self.run(rule)
        return summary(self.stored, levels, gmacs=gmacs)


def choice_tables(
    choices: Choices, state: dict, lengths: Sequence[int], *, speeds: Speeds | None = None
) -> tuple[dict, Tensor]:
    """The report's parts on choosing a length, and the levels (N, C) that the router chose.

    state: the router's, see `routing.stored`. speeds: None: nothing was timed.
    """
    stored, rule = choices.stored, rule_of(state)
    levels, _ = choices.run(rule)
    others = {
        kind: choices.summary(other)
        for kind, other in rules_at(state, state["budget"]).items()
        if kind != rule_kind(state)
    }
    share = dict(zip(map(str, lengths), shares(levels, len(lengths)), strict=True))
    report = {
        "adaptive": {
            **choices.summary(rule),
            "share": share,
            "router": rule_kind(state),
            "budget": state["budget"],
            "assigner_gmacs": state["assigner_cost"],
        },
        "baselines": {"random": random_baseline(stored, levels), "oracle": oracle_baseline(stored), **others},
        "paired": paired_rows(stored, levels, lengths),
        "curve": curves(choices, state, speeds),
        "assigner": assigner_scores(choices, state, lengths),
    }
    if state.get("choice"):
        report["router_choice"] = state["choice"]
    return report, levels


def rule_kind(state: dict) -> str:
    """The router that was asked for; a checkpoint of before knows only the assigner."""
    return state.get("kind", "assigner")


def paired_rows(stored: Stored, levels: Tensor, lengths: Sequence[int]) -> dict[str, dict[str, float]]:
    """The choice `levels` (N, C) against each fixed length and random shares, over the same videos."""
    ours = stored.hit(levels)
    rows = {f"{n}x{n}": paired_difference(ours, stored.hit(stored.fixed(i))) for i, n in enumerate(lengths)}
    return rows | {"random": paired_difference(ours, random_hits(stored, levels).double().mean(dim=0))}


def curves(choices: Choices, state: dict, speeds: Speeds | None = None) -> dict[str, list[dict]]:
    """For each router its accuracy with a 95% interval and its cost at every budget that it can meet, and by
    how much it is above random assignment at the shares of its lengths; by how much the hybrid is above the
    better one of the pure routers, at the same budget and in the same time; the random assignment at the
    assigner's shares, and the oracle.
    """
    stored = choices.stored
    points, levels = {}, {}
    for budget in curve_budgets(state):
        for kind, rule in rules_at(state, budget).items():
            levels[kind, budget], gmacs = choices.run(rule)
            points[kind, budget] = {"budget": budget, "gmacs": gmacs}
            if speeds is not None:
                points[kind, budget]["ms"] = choices.ms(rule, speeds)
    found = {at: stored.hits(chosen) for at, chosen in levels.items()}
    hits = torch.stack([found[at]["label"] for at in points]) if points else torch.empty(0, 0)
    made: dict[str, list[dict]] = {"assigner": [], "cascade": []}
    for (kind, budget), right, (low, high) in zip(points, hits, bootstrap_intervals(hits), strict=True):
        parts = {name: percent(part) for name, part in found[kind, budget].items() if name != "label"}
        row = {**points[kind, budget], "top1": percent(right), "top1_low": low, "top1_high": high, **parts}
        made.setdefault(kind, []).append(row)
    hit = {at: seen["label"] for at, seen in found.items()}
    chance, made["random"] = Chance(stored), []
    for kind in KINDS:
        for row in made.get(kind, ()):
            at = (kind, row["budget"])
            dealt, cost = chance.hits(levels[at]), stored.cost(levels[at])
            row["over_random"] = {**paired_difference(hit[at], dealt), "random_gmacs": cost}
            if kind == "assigner":
                made["random"].append({"budget": row["budget"], "gmacs": cost, "top1": percent(dealt)})
    for row in made.get("hybrid", ()):
        ours = hit["hybrid", row["budget"]]
        others = {"over_pure": {kind: row["budget"] for kind in PURE}}
        if "ms" in row:
            others["over_pure_in_time"] = {kind: budget_within(made[kind], ms=row["ms"]) for kind in PURE}
        for name, budgets in others.items():
            if pure := [hit[at] for at in budgets.items() if at in hit]:
                row[name] = paired_difference(ours, max(pure, key=Tensor.sum))
    budgets = [budget * stored.costs[0] for budget in curve_budgets(state)]
    return made | {"oracle": oracle_curve(stored, budgets)}


class Chance:
    """Random assignment, each mixture of lengths dealt once."""

    def __init__(self, stored: Stored) -> None:
        self.stored, self.dealt = stored, {}

    def hits(self, levels: Tensor) -> Tensor:
        """How often each video is right (N,) when the shares of `levels` (N, C) are dealt to random clips."""
        mixture = tuple(torch.bincount(levels.flatten(), minlength=self.stored.num_levels).tolist())
        if mixture not in self.dealt:
            drawn = random_hits(self.stored, levels, draws=RANDOM_DRAWS)
            self.dealt[mixture] = drawn.double().mean(dim=0)
        return self.dealt[mixture]


def budget_within(rows: Sequence[Mapping], *, ms: float) -> float | None:
    """The budget of the slowest point of a curve that takes at most `ms`; None: all take more."""
    fits = [row for row in rows if row["ms"] <= ms]
    return max(fits, key=lambda row: row["ms"])["budget"] if fits else None


def assigner_scores(choices: Choices, state: dict, lengths: Sequence[int]) -> dict:
    """How often the assigner's first wish is a clip's length label, next to predictors that say the same for
    all clips. `majority` says what most held-out clips are.
    """
    truth = shortest_right(clip_labels(choices.stored).flatten(0, 1))
    held = held_out(state)
    most = None
    if held is not None:
        most = torch.bincount(shortest_right(held.correct), minlength=len(lengths)).argmax().item()
    return predictor_table(choices.wishes.flatten(0, 1), truth, lengths, majority=most)
