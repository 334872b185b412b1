"""The router's part of a joint checkpoint: its rule, its prices, and the held-out clips it was solved on.

With these clips (13 bytes each per length: 40 kB for a thousand videos) a checkpoint serves any router at any
budget within reach, each solved to the clip. Files of before hold a grid of biases and thresholds instead,
for budgets in steps of 0.05; they go on to work, for `assigner` and `cascade` at these budgets.
"""

from __future__ import annotations

from collections.abc import Callable

from revit_video.routing.rule import KINDS, Rule, assigner_rule, cascade_rule
from revit_video.routing.solve import HeldOut, Prices, check_reach, choice_lines, choose_kind, solve
from revit_video.types import InputError

CURVE_BUDGETS = tuple(
    round(0.2 + 0.05 * i, 2) for i in range(17)
)  # of the longest length's cost, 0.20 to 1.00


def router_state(
    kind: str,
    held: HeldOut,
    prices: Prices,
    *,
    budget: float,
    say: Callable[[str], None] = lambda line: None,
) -> dict:
    """What a checkpoint keeps of a router (`auto`: of the best) solved for a budget, a share of the longest
    length's cost.
    """
    total = budget * prices.levels[0]
    check_reach(kind, prices, budget=budget)
    choice = {}
    if kind == "auto":
        choice = choose_kind(held, prices, budget=total)
        kind = choice["kind"]
        for line in choice_lines(choice):
            say(line)
    rule = solve(kind, held, prices, budget=total)
    return {
        "kind": kind,
        "budget": budget,
        "bias": rule.bias,
        "thresholds": list(rule.thresholds),
        "costs": list(prices.levels),
        "assigner_cost": prices.look,
        "choice": choice,
        "heldout": held.state(),
    }


def prices_of(state: dict) -> Prices:
    return Prices(tuple(state["costs"]), state["assigner_cost"])


def held_out(state: dict) -> HeldOut | None:
    """None: a checkpoint of before."""
    return HeldOut(**state["heldout"]) if "heldout" in state else None


def rule_of(state: dict) -> Rule:
    """The rule the router was solved for."""
    if "thresholds" in state:
        return Rule(state["bias"], tuple(state["thresholds"]))
    return assigner_rule(state["bias"], len(state["costs"]))


def router_at(
    state: dict, budget: float, kind: str, *, say: Callable[[str], None] = lambda line: None
) -> dict:
    """The router's state at another budget (a share of the longest length's cost) or of another kind.

    Raises:
        InputError: the budget is out of reach, or a checkpoint of before was not solved for it.
    """
    held = held_out(state)
    if held is not None:
        same = budget == state["budget"] and kind == ("auto" if state["choice"] else state["kind"])
        return state if same else router_state(kind, held, prices_of(state), budget=budget, say=say)
    solved = {row["budget"]: row for row in [*state["curve"], state]}
    if budget not in solved or kind not in ("assigner", "cascade"):
        known = ", ".join(f"{number:g}" for number in sorted(solved))
        raise InputError(
            f"router.budget is {budget:g} and router.kind {kind}, but this checkpoint holds no held-out "
            f"clips to solve that on: it was solved for assigner and cascade at {known}; "
            "run stage=assigner again"
        )
    row = solved[budget]
    levels = len(state["costs"])
    rules = {
        "assigner": assigner_rule(row["bias"], levels),
        "cascade": cascade_rule(row["threshold"], levels),
    }
    rule = rules[kind]
    return {
        **state,
        "kind": kind,
        "budget": budget,
        "bias": rule.bias,
        "thresholds": list(rule.thresholds),
    }


def rules_at(state: dict, budget: float) -> dict[str, Rule]:
    """The rules of all routers that can meet a budget; a checkpoint of before has no hybrid."""
    prices, rules = prices_of(state), {}
    for kind in KINDS:
        least, _ = prices.reach(kind)
        if least <= budget * prices.levels[0] and ("heldout" in state or kind != "hybrid"):
            rules[kind] = rule_of(router_at(state, budget, kind))
    return rules


def curve_budgets(state: dict) -> list[float]:
    """The budgets of the accuracy-cost curve, rising: a grid, and the one that was asked for."""
    if "heldout" not in state:
        return [row["budget"] for row in state["curve"]]
    least = prices_of(state).levels[-1] / state["costs"][0]
    return sorted({*(budget for budget in CURVE_BUDGETS if budget > least), state["budget"]})
