"""What every router is worth on a test set, at every budget: from stored logits, without another pass."""

from __future__ import annotations

from collections.abc import Sequence
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
from revit_video.routing.rule import Rule
from revit_video.routing.stored import curve_budgets, held_out, rule_of, rules_at

RANDOM_DRAWS = 20  # of random assignment at each budget of the curve


@dataclass(frozen=True)
class Choices:
    """A test set with what the assigner wished there.

    stored: clips (or whole videos) that share their lengths. wishes: the assigner's logits (N, C, L). look:
        GMACs of the assigner per view.
    """

    stored: Stored
    wishes: Tensor
    look: float

    def run(self, rule: Rule) -> tuple[Tensor, float]:
        """Levels (N, C) at which clips stop under a rule, and its mean GMACs per view."""
        levels, gmacs = self.run_each(rule)
        return levels, gmacs.mean().item()

    def run_each(self, rule: Rule) -> tuple[Tensor, Tensor]:
        """The same with the GMACs per view of each clip (N, C)."""
        stored = self.stored
        starts = rule.starts(self.wishes.flatten(0, 1), stored.costs)
        stops = rule.stops(starts, stored.confidence().flatten(0, 1))
        gmacs = rule.cost(starts, stops, stored.costs, look=self.look)
        return stops.view(self.wishes.shape[:2]), gmacs.view(self.wishes.shape[:2])

    def summary(self, rule: Rule) -> dict[str, float]:
        levels, gmacs = self.run(rule)
        return summary(self.stored, levels, gmacs=gmacs)


def choice_tables(choices: Choices, state: dict, lengths: Sequence[int]) -> tuple[dict, Tensor]:
    """The report's parts on choosing a length, and the levels (N, C) that the router chose.

    state: the router's, see `routing.stored`.
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
        "curve": curves(choices, state),
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


def curves(choices: Choices, state: dict) -> dict[str, list[dict]]:
    """For each router its accuracy with a 95% interval and its cost at every budget that it can meet; random
    assignment at the shares of the assigner, by how much the assigner is above it, by how much the hybrid is
    above the better one of the pure routers, and the oracle.
    """
    stored = choices.stored
    points, levels = {}, {}
    for budget in curve_budgets(state):
        for kind, rule in rules_at(state, budget).items():
            levels[kind, budget], gmacs = choices.run(rule)
            points[kind, budget] = {"budget": budget, "gmacs": gmacs}
    found = {at: stored.hits(chosen) for at, chosen in levels.items()}
    hits = torch.stack([found[at]["label"] for at in points]) if points else torch.empty(0, 0)
    made: dict[str, list[dict]] = {"assigner": [], "cascade": []}
    for (kind, budget), hit, (low, high) in zip(points, hits, bootstrap_intervals(hits), strict=True):
        parts = {name: percent(part) for name, part in found[kind, budget].items() if name != "label"}
        row = {**points[kind, budget], "top1": percent(hit), "top1_low": low, "top1_high": high, **parts}
        made.setdefault(kind, []).append(row)
    made["random"] = []
    for row in made["assigner"]:
        at = ("assigner", row["budget"])
        dealt = random_hits(stored, levels[at], draws=RANDOM_DRAWS).double().mean(dim=0)
        row["over_random"] = paired_difference(found[at]["label"], dealt)
        cost = stored.cost(levels[at])
        made["random"].append({"budget": row["budget"], "gmacs": cost, "top1": percent(dealt)})
    for row in made.get("hybrid", ()):
        pure = [
            found[at]["label"] for kind in ("assigner", "cascade") if (at := (kind, row["budget"])) in found
        ]
        if pure:
            better = max(pure, key=lambda hit: hit.sum())
            row["over_pure"] = paired_difference(found["hybrid", row["budget"]]["label"], better)
    budgets = [budget * stored.costs[0] for budget in curve_budgets(state)]
    return made | {"oracle": oracle_curve(stored, budgets)}


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
