"""The rule that makes the most of a budget, from held-out clips: for each router, and the best router.

Costs are means per clip in the unit of `costs` (GMACs), the assigner's look among them where it looks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import product

import torch
from torch import Tensor

from revit_video.evaluate.metrics import paired_difference
from revit_video.routing.budget import solve_biases, solve_threshold
from revit_video.routing.rule import (
    ALWAYS,
    KINDS,
    NEVER,
    Rule,
    assigner_rule,
    cascade_rule,
    pass_costs,
    stops_of,
)
from revit_video.types import InputError

SHARES = 16  # of the budget: that may be spent in all; of the hybrid that the choice alone may spend
MIDDLE = 256  # at most so many combinations of thresholds between the shortest and the longest level
FOLDS = 5
AT_ONCE = 1 << 22  # rules times clips times levels that are looked at together


@dataclass(frozen=True)
class HeldOut:
    """What assigner and backbone made of clips that neither was trained on: (M, L) each."""

    wishes: Tensor  # logits of the assigner
    confidence: Tensor  # probability of the most probable label
    losses: Tensor  # -log of the probability of the true label
    correct: Tensor  # bool

    def __len__(self) -> int:
        return len(self.wishes)

    def part(self, rows: Tensor) -> HeldOut:
        return HeldOut(*(getattr(self, f.name)[rows] for f in fields(self)))

    def state(self) -> dict[str, Tensor]:
        """13 bytes for each clip and level, for a checkpoint."""
        kept = {f.name: getattr(self, f.name).cpu() for f in fields(self)}
        return {name: value if name == "correct" else value.float() for name, value in kept.items()}


@dataclass(frozen=True)
class Prices:
    """GMACs of a clip at each level, longest first, and of the assigner's look at it."""

    levels: tuple[float, ...]
    look: float

    def reach(self, kind: str) -> tuple[float, float]:
        """What a router costs if it takes the cheapest and the dearest way for all clips."""
        dearest = self.levels[0] if kind == "assigner" else sum(self.levels)
        look = self.look if kind != "cascade" else 0.0
        cheapest = self.levels[-1] + (look if kind == "assigner" else 0.0)  # a hybrid may be a cascade
        return cheapest, dearest + look


def check_reach(kind: str, prices: Prices, *, budget: float) -> None:
    """Refuse a budget (a share of the longest length's cost) that no rule of this router can meet.

    Raises:
        InputError: it names the range that can be met.
    """
    longest, total = prices.levels[0], budget * prices.levels[0]
    least, most = prices.reach("cascade" if kind == "auto" else kind)
    if least <= total * (1 + 1e-9) and total <= max(most, longest) * (1 + 1e-9):
        return
    what = "the shortest length and the assigner cost" if kind == "assigner" else "the shortest length costs"
    what = f"{what} {least:.4g}" if total < least else f"the dearest way costs {most:.4g}"
    low, high = math.ceil(10000 * least) / 10000, math.floor(10000 * max(most, longest)) / 10000
    raise InputError(
        f"router.budget={budget:g} of the longest length's {longest:.4g} GMACs ({total:.4g} GMACs) cannot be "
        f"met: {what}; give a budget from {math.ceil(1000 * least / longest) / 1000:g} to 1, or "
        f"router.budget_gmacs from {low:g} to {high:g}"
    )


def solve(kind: str, held: HeldOut, prices: Prices, *, budget: float) -> Rule:
    """The rule of a router for a mean cost of at most `budget` (in the unit of `prices`) on held-out clips.

    Of assigners and of cascades the best is taken, of those that spend the budget and of those that spend
    less: where the longest length is no better for the easy clips, sending them there buys nothing. A hybrid
    is the better one of the two, unless a rule between them is better by more than the standard error of
    that: of thousands of rules on some hundred clips the best one owes its lead to luck.
    """
    if kind not in KINDS:
        raise InputError(f"router.kind is {kind!r}, but must be one of: {', '.join(KINDS)}")
    least = prices.reach(kind)[0]
    budgets = [least + (budget - least) * step / SHARES for step in range(SHARES, 0, -1)]
    if kind == "assigner":
        return best_rule(assigners(held, prices, budgets=budgets), held, prices)
    if kind == "cascade":
        alike = solve_threshold(held.confidence, prices.levels, budget=budget)  # one for all levels
        rules = [cascade_rule(alike, len(prices.levels)), *cascades(held, prices, budgets=budgets)]
        return best_rule(rules, held, prices)
    cascade = solve("cascade", held, prices, budget=budget)
    if budget < prices.reach("assigner")[0]:  # the look alone is too dear
        return cascade
    pure = best_rule([solve("assigner", held, prices, budget=budget), cascade], held, prices)
    between = best_rule([pure, *hybrids(held, prices, budget=budget)], held, prices)
    lead = quality(between, held, prices) - quality(pure, held, prices)
    return between if lead.mean() > lead.std(correction=0) / math.sqrt(len(lead)) else pure


def best_rule(rules: Iterable[Rule], held: HeldOut, prices: Prices) -> Rule:
    """Of equals the first."""
    rules = list(rules)
    at_once = max(1, AT_ONCE // held.losses.numel())
    means: list[float] = []
    for first in range(0, len(rules), at_once):
        means += qualities(rules[first : first + at_once], held, prices).mean(dim=1).tolist()
    return rules[max(range(len(rules)), key=means.__getitem__)]


def quality(rule: Rule, held: HeldOut, prices: Prices) -> Tensor:
    """How probable the true label of every held-out clip is under a rule, (M,).

    Its mean is the expected accuracy. Counting right answers would say the same with more noise, and take
    what is sure of itself for better than it is once a video's clips are averaged.
    """
    return qualities([rule], held, prices)[0]


def qualities(rules: Sequence[Rule], held: HeldOut, prices: Prices) -> Tensor:
    """`quality` of each rule: (R, M)."""
    starts = {bias: Rule(bias, ()).starts(held.wishes, prices.levels) for bias in {r.bias for r in rules}}
    stops = stops_of(
        torch.stack([starts[rule.bias] for rule in rules]),
        held.confidence,
        torch.tensor([rule.thresholds for rule in rules], dtype=held.confidence.dtype),
    )
    losses = held.losses.expand(len(rules), -1, -1)
    return losses.gather(2, stops[:, :, None]).squeeze(2).double().neg().exp()


def run_rule(rule: Rule, held: HeldOut, prices: Prices) -> tuple[Tensor, Tensor]:
    """First and last level (M,) of every held-out clip."""
    starts = rule.starts(held.wishes, prices.levels)
    return starts, rule.stops(starts, held.confidence)


def rule_cost(rule: Rule, held: HeldOut, prices: Prices) -> float:
    """Mean cost of a held-out clip."""
    starts, stops = run_rule(rule, held, prices)
    return rule.cost(starts, stops, prices.levels, look=prices.look).mean().item()


def assigners(held: HeldOut, prices: Prices, *, budgets: Sequence[float]) -> list[Rule]:
    """The assigner's rule that spends each budget; it needs no labels."""
    least = prices.levels[-1]
    left = [budget - prices.look for budget in budgets]  # where it is the least, not below it by rounding
    passes = [least if math.isclose(one, least, rel_tol=1e-9) else one for one in left]
    biases = solve_biases(held.wishes, prices.levels, budgets=passes)
    return [assigner_rule(bias, len(prices.levels)) for bias in biases]


def cascades(held: HeldOut, prices: Prices, *, budgets: Sequence[float]) -> Iterator[Rule]:
    """Cascades that spend each budget, every level with a threshold of its own."""
    starts = torch.full((len(held),), len(prices.levels) - 1)
    return spending(None, starts, held, prices, budgets=budgets)


def hybrids(held: HeldOut, prices: Prices, *, budget: float) -> Iterator[Rule]:
    """Rules between assigner and cascade: the assigner's choice spends a share of the budget, from next to
    nothing to nearly all, and going on spends the rest.
    """
    left, least = budget - prices.look, prices.levels[-1]
    parts = [least + (left - least) * step / SHARES for step in range(SHARES)]
    for bias in solve_biases(held.wishes, prices.levels, budgets=parts):
        starts = Rule(bias, ()).starts(held.wishes, prices.levels)
        yield from spending(bias, starts, held, prices, budgets=[left])


def spending(
    bias: float | None, starts: Tensor, held: HeldOut, prices: Prices, *, budgets: Sequence[float]
) -> Iterator[Rule]:
    """For each combination of thresholds of the middle levels, the rule whose threshold at the shortest level
    spends what is left of each of `budgets` (without the look).

    In closed form: what a clip costs more if it goes on from the shortest level does not depend on the
    threshold there, so the least confident go on as long as the sum of that fits.
    """
    last = len(prices.levels) - 1
    at_last = starts == last
    order = (
        held.confidence[:, last].masked_fill(~at_last, math.inf).argsort(stable=True)[: int(at_last.sum())]
    )
    sorted_confidence = held.confidence[order, last]
    for middle in middle_thresholds(held.confidence, last):
        on = Rule(bias, (NEVER, *middle, ALWAYS))
        beyond = pass_costs(starts, on.stops(starts, held.confidence), prices.levels)
        more = torch.where(at_last, beyond - prices.levels[last], 0.0)
        needed, rising = (beyond - more).sum().item(), more[order].cumsum(0)
        for budget in budgets:
            left = budget * len(held) - needed
            if left < 0:
                continue  # going on from the middle levels alone costs too much
            fits = int((rising <= left * (1 + 1e-12)).sum())
            yield Rule(bias, (NEVER, *middle, threshold_of(sorted_confidence, fits)))


def threshold_of(confidence: Tensor, count: int) -> float:
    """A threshold that up to `count` of the rising confidences are below: between two of them that differ."""
    if count == len(confidence):
        return ALWAYS
    below = confidence[confidence < confidence[count]]
    return (below[-1].item() + confidence[count].item()) / 2 if len(below) else NEVER


def middle_thresholds(confidence: Tensor, last: int) -> Iterator[tuple[float, ...]]:
    """Combinations of thresholds for the levels between the longest and the shortest: at quantiles of the
    confidences there, and at the ends.
    """
    count = max(2, int(MIDDLE ** (1 / max(1, last - 1)))) if last > 2 else 17
    points = torch.linspace(0, 1, count + 1, dtype=confidence.dtype)[1:-1]
    grids = [
        [NEVER, *torch.quantile(confidence[:, level], points).tolist(), ALWAYS] for level in range(1, last)
    ]
    yield from product(*grids)


def choose_kind(held: HeldOut, prices: Prices, *, budget: float, seed: int = 0) -> dict:
    """The best router for a budget (in the unit of `prices`), by cross-validation: each fifth of the held-out
    clips is scored by rules solved on the others, as the rules were chosen to be good where they were solved.

    Returns `kind`, `top1` of each router (percent), and by how much the best leads the second: `over`,
    `difference` in points with its 95% interval `low`, `high` (paired, over clips).
    """
    kinds = [kind for kind in KINDS if prices.reach(kind)[0] <= budget]
    fold = torch.randperm(len(held), generator=torch.Generator().manual_seed(seed)) % min(FOLDS, len(held))
    right = {kind: torch.zeros(len(held), dtype=torch.bool) for kind in kinds}
    for number in fold.unique().tolist() if len(held) > 1 else ():
        here, others = (fold == number).nonzero().squeeze(1), (fold != number).nonzero().squeeze(1)
        for kind in kinds:
            part = held.part(here)
            stops = run_rule(solve(kind, held.part(others), prices, budget=budget), part, prices)[1]
            right[kind][here] = part.correct.gather(1, stops[:, None]).squeeze(1)
    ranked = sorted(kinds, key=lambda kind: -int(right[kind].sum()))  # stable: of equals the simplest
    best, *others = ranked
    seen = {"kind": best, "top1": {kind: 100.0 * right[kind].double().mean().item() for kind in kinds}}
    if others:
        seen |= {"over": others[0], **paired_difference(right[best], right[others[0]])}
    return seen


def choice_lines(seen: dict) -> list[str]:
    """What `choose_kind` found, for the log and the report."""
    scores = ", ".join(f"{kind} {top1:.1f}%" for kind, top1 in seen["top1"].items())
    lines = [f"router=auto takes {seen['kind']} (cross-validated on held-out clips: {scores})"]
    if "over" in seen:
        lines[0] += (
            f": {seen['difference']:+.2f} points over {seen['over']}, "
            f"95% interval {seen['low']:+.2f} to {seen['high']:+.2f}"
        )
        if seen["low"] <= 0:
            lines.append(
                f"WARNING: the lead of {seen['kind']} over {seen['over']} is inside its interval; "
                "the held-out clips are too few to tell them apart"
            )
    return lines
