"""Budgets: the rule of each router on held-out clips, the best router, and what a checkpoint keeps."""

import math
from itertools import product

import pytest
import torch

from revit_video.routing.budget import (
    biased_levels,
    cascade_costs,
    mean_cost,
    solve_bias,
    solve_biases,
    solve_threshold,
)
from revit_video.routing.rule import (
    ALWAYS,
    NEVER,
    Rule,
    assigner_rule,
    cascade_rule,
    pass_costs,
)
from revit_video.routing.solve import (
    HeldOut,
    Prices,
    check_reach,
    choice_lines,
    choose_kind,
    qualities,
    quality,
    rule_cost,
    run_rule,
    solve,
    threshold_of,
)
from revit_video.routing.stored import curve_budgets, held_out, router_at, router_state, rule_of, rules_at
from revit_video.types import InputError

COSTS = (1.0, 0.45, 0.2)
PRICES = Prices(COSTS, 0.02)


def draw(clips: int = 200, *, seed: int = 0, levels: int = 3, hint: float = 1.0) -> HeldOut:
    """Clips of a hidden difficulty: longer lengths are right more often and surer; the assigner's wishes show
    the difficulty through noise, the better the larger `hint`.
    """
    generator = torch.Generator().manual_seed(seed)
    hard = torch.randn(clips, 1, generator=generator)
    skill = torch.linspace(1.5, 0.3, levels)
    margin = skill - hard + 0.5 * torch.randn(clips, levels, generator=generator)
    right = torch.sigmoid(2 * margin)
    noise = torch.randn(clips, levels, generator=generator)
    wishes = hint * hard * torch.linspace(1, -1, levels) + noise
    return HeldOut(wishes, 0.1 + 0.9 * (right - 0.5).abs() * 2, -right.log(), margin > 0)


@pytest.mark.parametrize("levels", [2, 3, 4])
@pytest.mark.parametrize("kind", ["assigner", "cascade", "hybrid"])
@pytest.mark.parametrize("budget", [0.25, 0.4, 0.7, 1.0, 1.3])
@pytest.mark.parametrize("seed", range(2))
def test_every_router_keeps_its_budget_on_the_held_out_clips(kind, budget, seed, levels):
    prices = Prices((1.0, *(0.7, 0.45, 0.2)[1 - levels :]), 0.02)
    held = draw(seed=seed, levels=levels)
    rule = solve(kind, held, prices, budget=budget)
    assert rule_cost(rule, held, prices) <= budget + 1e-9
    if kind != "hybrid":
        assert rule.kind == kind


@pytest.mark.parametrize("budget", [0.22, 0.3, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("hint", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_hybrid_is_at_least_as_good_as_the_better_of_the_two_where_it_was_solved(seed, hint, budget):
    held = draw(seed=seed, hint=hint)
    scores = {
        kind: quality(solve(kind, held, PRICES, budget=budget), held, PRICES).mean()
        for kind in ("assigner", "cascade", "hybrid")
    }
    assert scores["hybrid"] >= max(scores.values())


def test_a_rule_is_worth_how_probable_the_true_labels_are_where_its_clips_stop():
    held = draw(5)
    rule = cascade_rule((0.0, 0.5, 0.6), 3)
    stops = run_rule(rule, held, PRICES)[1].tolist()
    probable = [float(torch.exp(-held.losses[clip, level])) for clip, level in enumerate(stops)]
    assert quality(rule, held, PRICES).tolist() == pytest.approx(probable)


def test_the_hybrid_is_a_mixture_only_where_that_leads_by_more_than_its_standard_error():
    mixed, pure = 0, 0
    for seed, hint, budget in product(range(6), (0.0, 4.0), (0.3, 0.5)):
        held = draw(60, seed=seed, hint=hint)
        rules = {kind: solve(kind, held, PRICES, budget=budget) for kind in ("assigner", "cascade", "hybrid")}
        if rules["hybrid"] in (rules["assigner"], rules["cascade"]):
            pure += 1
            continue
        mixed += 1
        for kind in ("assigner", "cascade"):
            lead = quality(rules["hybrid"], held, PRICES) - quality(rules[kind], held, PRICES)
            assert lead.mean() > lead.std() / 60**0.5 * 0.99
    assert mixed and pure


def two_kinds(*, easy: tuple[float, ...]) -> HeldOut:
    """400 clips whose labels the backbone gives these probabilities: easy ones, and hard ones that need the
    longest length. Assigner and confidence know which is which.
    """
    generator = torch.Generator().manual_seed(1)
    right = torch.tensor([easy] * 200 + [(0.9, 0.5, 0.3)] * 200)
    hard = (torch.arange(400) >= 200).float()[:, None] + 0.2 * torch.rand(400, 1, generator=generator)
    confidence = (0.95 - 0.5 * hard + 0.01 * torch.arange(3).flip(0)).clamp(0, 1)
    return HeldOut(3 * hard * torch.tensor([1.0, 0.0, -1.0]), confidence, -right.log(), right > 0.5)


@pytest.mark.parametrize("kind", ["assigner", "cascade", "hybrid"])
def test_a_budget_is_not_spent_where_the_longest_length_is_worse_for_the_easy_clips(kind):
    held = two_kinds(easy=(0.85, 0.9, 0.95))
    rule = solve(kind, held, PRICES, budget=1.4)
    stops = run_rule(rule, held, PRICES)[1]
    assert (stops[200:] == 0).all() and (stops[:200] > 0).float().mean() > 0.9
    assert rule_cost(rule, held, PRICES) < 1.1


@pytest.mark.parametrize("kind", ["assigner", "cascade"])
@pytest.mark.parametrize("seed", range(3))
def test_a_larger_budget_is_never_worse_where_it_was_solved_and_is_spent_where_that_helps(kind, seed):
    """Budgets each a share of the next, so that the next one has tried it."""
    held, least = draw(seed=seed), PRICES.reach(kind)[0]
    budgets = [least + 0.5 * step for step in (0.25, 0.5, 1.0, 2.0)]
    rules = [solve(kind, held, PRICES, budget=budget) for budget in budgets]
    worth = [quality(rule, held, PRICES).mean().item() for rule in rules]
    assert worth == sorted(worth)
    assert rule_cost(rules[1], held, PRICES) > 0.95 * budgets[1]


def test_biases_of_several_budgets_are_those_of_each():
    held, budgets = draw(), [0.2, 0.31, 0.5, 0.99, 1.0]
    together = solve_biases(held.wishes, COSTS, budgets=budgets)
    assert together == [solve_bias(held.wishes, COSTS, budget=budget) for budget in budgets]
    for bias, budget in zip(together, budgets, strict=True):
        cost = mean_cost(biased_levels(held.wishes, COSTS, bias), COSTS)
        cheaper = mean_cost(biased_levels(held.wishes, COSTS, bias - 1e-4), COSTS)
        assert cost <= budget and (cheaper > budget or cost == 1.0)


def test_rules_are_worth_together_what_each_is_worth():
    held = draw()
    rules = [
        assigner_rule(0.4, 3),
        cascade_rule((0.0, 0.7, 0.5), 3),
        Rule(0.1, (0.0, 0.6, 0.7)),
        Rule(9, (0,) * 3),
    ]
    together = qualities(rules, held, PRICES)
    for row, rule in zip(together, rules, strict=True):
        stops = run_rule(rule, held, PRICES)[1]
        assert torch.equal(row, torch.exp(-held.losses[torch.arange(200), stops].double()))


@pytest.mark.parametrize("kind", ["assigner", "cascade", "hybrid"])
def test_the_least_budget_that_is_said_to_be_in_reach_can_be_met(kind):
    for look in (0.009, 0.141, 0.145):  # 0.2 + 0.141 - 0.141 is below 0.2
        prices = Prices((1.0, 0.45, 0.2), look)
        least = prices.reach(kind)[0]
        assert rule_cost(solve(kind, draw(), prices, budget=least), draw(), prices) == pytest.approx(least)


def test_a_hybrid_that_never_goes_on_is_the_assigner_and_one_that_starts_short_is_the_cascade():
    held = draw()
    assert Rule(0.3, (NEVER,) * 3) == assigner_rule(0.3, 3)
    assert Rule(None, (0.0, 0.6, 0.7)) == cascade_rule((0.0, 0.6, 0.7), 3)
    starts, stops = run_rule(Rule(0.3, (ALWAYS, NEVER, NEVER)), held, PRICES)
    assert torch.equal(starts, stops)
    short = run_rule(Rule(1e6, (0.0, 0.6, 0.7)), held, PRICES)
    cascade = run_rule(cascade_rule((0.0, 0.6, 0.7), 3), held, PRICES)
    assert all(torch.equal(a, b) for a, b in zip(short, cascade, strict=True))
    looked, unlooked = (
        rule_cost(r, held, PRICES) for r in (Rule(1e6, (0, 0.6, 0.7)), Rule(None, (0, 0.6, 0.7)))
    )
    assert looked - unlooked == pytest.approx(0.02)


def test_thresholds_of_their_own_are_never_behind_one_for_all_and_sometimes_ahead():
    ahead = 0
    for seed in range(6):
        held = draw(seed=seed)
        held.confidence[:, 2] = held.confidence[:, 2] ** 0.3  # the shortest length is too sure of itself
        alike = cascade_rule(solve_threshold(held.confidence, COSTS, budget=0.5), 3)
        ours, theirs = (
            quality(rule, held, PRICES).mean() for rule in (solve("cascade", held, PRICES, budget=0.5), alike)
        )
        assert ours >= theirs
        ahead += ours > theirs + 0.005
    assert ahead > 0


def test_on_a_few_clips_the_cascade_is_the_best_of_all_thresholds_that_go_on_as_far_as_the_budget_lets_them():
    held = draw(12, seed=4)
    points = [[NEVER, *(held.confidence[:, level] + 1e-6).tolist()] for level in (1, 2)]
    best = 0.0
    for middle, short in product(*points):
        rule = cascade_rule((NEVER, middle, short), 3)
        if rule_cost(rule, held, PRICES) <= 0.6 + 1e-9:
            best = max(best, quality(rule, held, PRICES).mean().item())
    ours = quality(solve("cascade", held, PRICES, budget=0.6), held, PRICES).mean().item()
    assert (
        best - 0.02 <= ours <= best + 1e-9
    )  # it spends the budget, and tries the middle threshold at quantiles


def test_a_threshold_parts_confidences_and_never_clips_that_are_equally_sure():
    sure = torch.tensor([0.2, 0.5, 0.5, 0.5, 0.9])
    below = [int((sure < threshold_of(sure, count)).sum()) for count in range(6)]
    assert below == [0, 1, 1, 1, 4, 5]


def test_passes_are_paid_from_the_first_to_the_last():
    starts, stops = torch.tensor([2, 2, 2, 1, 0]), torch.tensor([2, 1, 0, 0, 0])
    assert pass_costs(starts, stops, COSTS).tolist() == pytest.approx([0.2, 0.65, 1.65, 1.45, 1.0])
    cascade = pass_costs(torch.tensor([2, 2, 2]), torch.tensor([0, 1, 2]), COSTS)
    assert cascade.tolist() == pytest.approx(cascade_costs(COSTS))


@pytest.mark.parametrize(
    ("kind", "budget", "message"),
    [
        (
            "assigner",
            0.21,
            r"budget=0\.21 .*assigner cost 0\.22; give a budget from 0\.22 to 1, or .* 0\.22 to 1\.02",
        ),
        (
            "cascade",
            0.19,
            r"the shortest length costs 0\.2; give a budget from 0\.2 to 1, or .* from 0\.2 to 1\.65",
        ),
        ("hybrid", 3.0, r"\(3 GMACs\) cannot be met: the dearest way costs 1\.67; .* from 0\.2 to 1\.67"),
        ("auto", 0.1, r"the shortest length costs 0\.2"),
    ],
)
def test_a_budget_out_of_reach_names_the_possible_range_of_the_router(kind, budget, message):
    with pytest.raises(InputError, match=message):
        check_reach(kind, PRICES, budget=budget)
    low, high = PRICES.reach("cascade" if kind == "auto" else kind)
    for there in (low, 1.0, high):
        check_reach(kind, PRICES, budget=there)


def test_an_unknown_router_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="'best', but must be one of: assigner, cascade, hybrid"):
        solve("best", draw(), PRICES, budget=0.5)


def test_auto_takes_the_router_that_is_ahead_on_clips_it_was_not_solved_on():
    knowing, blind = draw(600, hint=0.0), draw(600, hint=0.0)
    sure = torch.rand(600, 3, generator=torch.Generator().manual_seed(5))
    need = 2 - knowing.correct.flip(1).to(torch.uint8).argmax(dim=1)
    oracle = HeldOut(5 * torch.nn.functional.one_hot(need, 3).float(), sure, knowing.losses, knowing.correct)
    seen = choose_kind(oracle, PRICES, budget=0.5)
    assert seen["kind"] == "assigner" and seen["top1"]["assigner"] > seen["top1"]["cascade"] + 5
    seen = choose_kind(blind, PRICES, budget=0.5)  # wishes of noise; the confidences tell
    assert seen["kind"] in ("cascade", "hybrid") and seen["top1"]["cascade"] > seen["top1"]["assigner"]
    assert seen["difference"] == pytest.approx(seen["top1"][seen["kind"]] - seen["top1"][seen["over"]])
    assert choose_kind(blind, PRICES, budget=0.5) == seen


def test_auto_says_by_how_much_and_warns_where_the_lead_is_inside_its_interval():
    close = {"kind": "hybrid", "top1": {"cascade": 80.0, "hybrid": 80.4}, "over": "cascade"}
    close |= {"difference": 0.4, "low": -0.6, "high": 1.4}
    said = choice_lines(close)
    assert "hybrid" in said[0] and "+0.40 points over cascade, 95% interval -0.60 to +1.40" in said[0]
    assert said[1].startswith("WARNING: the lead of hybrid over cascade is inside its interval")
    assert len(choice_lines({**close, "low": 0.1})) == 1


def test_auto_with_a_budget_that_the_look_breaks_has_the_cascade_left():
    prices = Prices(COSTS, 0.3)
    state = router_state("auto", draw(), prices, budget=0.3)
    assert state["kind"] in ("cascade", "hybrid") and state["bias"] is None
    assert "assigner" not in state["choice"]["top1"]


@pytest.mark.parametrize("kind", ["assigner", "cascade", "hybrid", "auto"])
def test_a_checkpoint_serves_any_budget_as_if_it_had_been_solved_for_it(kind, tmp_path):
    state = router_state(kind, draw(), PRICES, budget=0.5)
    torch.save(state, tmp_path / "router.pt")
    back = torch.load(tmp_path / "router.pt", weights_only=True)
    assert rule_of(back) == rule_of(state)
    for budget in (0.237, 0.5, 0.91):
        moved, fresh = (
            f(budget)
            for f in (
                lambda b: router_at(back, b, kind),
                lambda b: router_state(kind, draw(), PRICES, budget=b),
            )
        )
        assert rule_of(moved) == rule_of(fresh) and moved["budget"] == budget
        assert rule_cost(rule_of(moved), held_out(back), PRICES) <= budget + 1e-6
    assert {r.kind for r in rules_at(back, 0.5).values()} >= {"assigner", "cascade"}
    assert list(rules_at(back, 0.21)) == ["cascade", "hybrid"]  # the look alone is too dear for the assigner
    assert 0.5 in curve_budgets(back) and min(curve_budgets(back)) > 0.2


OLD = {"budget": 0.44, "bias": 0.8, "threshold": 0.9, "costs": list(COSTS), "assigner_cost": 0.02}
OLD |= {
    "curve": [
        {"budget": 0.3, "bias": 2.0, "threshold": 0.5},
        {"budget": 0.55, "bias": 0.1, "threshold": 0.95},
    ]
}


def test_a_checkpoint_of_before_goes_on_to_work_at_the_budgets_it_was_solved_for():
    assert rule_of(OLD) == assigner_rule(0.8, 3)
    assert rule_of(router_at(OLD, 0.44, "assigner")) == assigner_rule(0.8, 3)
    assert rule_of(router_at(OLD, 0.55, "assigner")) == assigner_rule(0.1, 3)
    assert rule_of(router_at(OLD, 0.3, "cascade")) == cascade_rule(0.5, 3)
    assert list(rules_at(OLD, 0.55)) == ["assigner", "cascade"]
    assert curve_budgets(OLD) == [0.3, 0.55]
    for budget, kind in ((0.5, "assigner"), (0.44, "hybrid"), (0.44, "auto")):
        with pytest.raises(
            InputError, match=r"holds no held-out clips .* at 0\.3, 0\.44, 0\.55; run stage=assigner"
        ):
            router_at(OLD, budget, kind)


def test_the_held_out_clips_take_thirteen_bytes_for_each_length():
    state = draw(1000).state()
    assert sum(math.prod(value.shape) * value.element_size() for value in state.values()) == 13 * 3 * 1000
