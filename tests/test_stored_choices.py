"""The adaptive numbers of the test come from stored logits: they are those of a router that really runs."""

from dataclasses import replace

import pytest
import torch

from revit_video import build
from revit_video.routing.rule import Rule
from revit_video.routing.stored import rules_at
from revit_video.stages.choices import Speeds, budget_within, curves
from revit_video.stages.job import all_levels
from revit_video.stages.test import choices_of, evaluate_scores, router_of, stored_of
from revit_video.train.log import RunLog

pytest_plugins = ["run_fixtures"]


def between(values: torch.Tensor) -> float:
    """A number in the middle of the values that none of them is equal to, by more than rounding."""
    rising = values.flatten().double().sort().values
    gaps = rising[1:] - rising[:-1]
    inner = range(len(gaps) // 4, max(len(gaps) // 4 + 1, 3 * len(gaps) // 4))
    place = max(inner, key=lambda i: gaps[i].item())
    return ((rising[place] + rising[place + 1]) / 2).item()


@pytest.fixture(scope="module")
def scored(small_run):
    overrides = ["test.num_spatial_crops=3", "dtype=float32"]
    config = build.checkpoint_config(small_run / "recognizer.pt", overrides)
    job = build.test_job(config, small_run / "recognizer.pt", build.build_device(config))
    job = replace(job, throughput=False)
    return job, job.evaluation.score(all_levels(job.model, job.assigner), RunLog(), title="test")


@pytest.mark.parametrize("share", ["clip", "video"])
@pytest.mark.parametrize("kind", ["assigner", "cascade", "hybrid"])
@torch.inference_mode()
def test_stored_accuracy_shares_and_cost_are_those_of_the_router_on_batches_as_they_arrive(
    scored, share, kind
):
    job, scores = scored
    job = replace(job, share=share)
    choices = choices_of(job, stored_of(job, scores), scores)
    confidence, wishes = choices.stored.confidence, choices.wishes.log_softmax(dim=-1)
    lead = (wishes[..., 0] - wishes[..., 2]) / (1 - job.costs[2] / job.costs[0])
    bias = None if kind == "cascade" else between(lead)
    thresholds = (0.0, *(0.0 if kind == "assigner" else between(confidence[..., i]) for i in (1, 2)))
    assert Rule(bias, thresholds).kind == kind
    job.router = job.router | {"kind": kind, "bias": bias, "thresholds": list(thresholds), "choice": {}}
    told = evaluate_scores(job, scores, RunLog()).report["adaptive"]

    router, clips, crops = router_of(job), job.num_clips, job.num_crops
    right, gmacs, levels = [], [], []
    for first in range(0, len(job.evaluation.dataset), 4):  # batches in the order of the list
        items = [job.evaluation.dataset[(0, i)] for i in range(first, min(first + 4, len(scores.labels)))]
        views = job.evaluation.run.to_clips(torch.cat([item.clips for item in items]))
        if share == "clip":
            routed = router.forward_views(views.unflatten(0, (-1, crops)), batch_size=5)
        else:
            look_at = clips // 2 * crops + crops // 2
            whole = views.unflatten(0, (-1, clips * crops))
            routed = router.forward_views(whole, look_at=look_at, batch_size=5)
        probabilities = routed.logits.flatten(0, 1).softmax(dim=-1).unflatten(0, (len(items), -1)).mean(dim=1)
        right += (probabilities.argmax(dim=-1) == torch.tensor([item.label for item in items])).tolist()
        gmacs.append(routed.gmacs)
        levels.append(routed.levels)
    assert len(torch.cat(levels).unique()) > 1, "a choice that is none would agree with anything"
    assert told["top1"] == pytest.approx(100 * sum(right) / len(right))
    assert told["gmacs"] == pytest.approx(torch.cat(gmacs).mean().item())
    counts = torch.bincount(torch.cat(levels), minlength=3) / len(torch.cat(levels))
    assert list(told["share"].values()) == pytest.approx(counts.tolist())


@pytest.mark.parametrize("share", ["clip", "video"])
def test_time_is_counted_pass_by_pass_as_multiply_adds_are(scored, share):
    """Were a millisecond a GMAC, every point would take as many of one as of the other."""
    job, scores = scored
    job = replace(job, share=share)
    choices = choices_of(job, stored_of(job, scores), scores)
    speeds = Speeds(tuple(job.costs), job.router["assigner_cost"])
    made = curves(choices, job.router, speeds)
    for kind in ("assigner", "cascade", "hybrid"):
        assert made[kind]
        for row in made[kind]:
            assert row["ms"] == pytest.approx(row["gmacs"])
    double = curves(choices, job.router, Speeds(tuple(2 * cost for cost in job.costs), 0.0))
    for row, twice in zip(made["cascade"], double["cascade"], strict=True):  # it does not look
        assert twice["ms"] == pytest.approx(2 * row["ms"])
    assert all("ms" not in row for row in curves(choices, job.router)["hybrid"])


def test_the_hybrid_is_paired_in_time_with_the_better_of_what_the_others_manage_by_then(scored):
    job, scores = scored
    choices = choices_of(job, stored_of(job, scores), scores)
    made = curves(choices, job.router, Speeds((9.0, 3.0, 1.0), 0.5))
    top1 = {(kind, row["budget"]): row["top1"] for kind in ("assigner", "cascade") for row in made[kind]}
    for row in made["hybrid"]:
        within = {kind: budget_within(made[kind], ms=row["ms"]) for kind in ("assigner", "cascade")}
        pure = [top1[at] for at in within.items() if at in top1]
        assert row["over_pure_in_time"]["difference"] == pytest.approx(row["top1"] - max(pure))
    points = [{"ms": 1.0, "budget": 0.3}, {"ms": 3.0, "budget": 0.4}, {"ms": 2.0, "budget": 0.5}]
    assert [budget_within(points, ms=ms) for ms in (0.9, 1.9, 2.0, 9.0)] == [None, 0.3, 0.5, 0.4]


def test_every_router_is_paired_with_its_own_shares_dealt_by_lot_which_run_once_and_without_a_look(scored):
    job, scores = scored
    choices = choices_of(job, stored_of(job, scores), scores)
    made = curves(choices, job.router)
    for kind in ("assigner", "cascade", "hybrid"):
        for row in made[kind]:
            levels, gmacs = choices.run(rules_at(job.router, row["budget"])[kind])
            cost = choices.stored.cost(levels)
            assert row["over_random"]["random_gmacs"] == pytest.approx(cost) and cost <= gmacs + 1e-9
