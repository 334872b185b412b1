"""DVT: resizing, exits, thresholds, and the comparison that varies depth; parity is in test_parity.py."""

import pytest
import torch
import torch.nn.functional as F
from conftest import randomize

from revit_video.backbones.costs import closed_form_macs
from revit_video.competitors.adaptive_depth import AdaptiveDepth
from revit_video.competitors.dvt import DVT, resize_places
from revit_video.competitors.early_exit import (
    ALWAYS,
    CRITERIA,
    NEVER,
    EarlyExit,
    Thresholds,
    measure_exits,
    solve_thresholds,
    surety,
    weights_digest,
    worth,
)
from revit_video.convert import convert_state_dict
from revit_video.report.macs import count_macs, count_macs_torch
from revit_video.train.cascade import cascade_loss
from revit_video.train.losses import class_loss
from revit_video.types import InputError, TokenGrid

SMALL = {"num_classes": 5, "crop": 32, "dim": 16, "depth": 3, "heads": 2}


def build(kind=DVT, **changes):
    lengths = {"token_lengths": (4, 3, 2) if kind is DVT else (4,)}
    return randomize(kind("deit_small", **{**SMALL, **lengths, **changes}).double(), seed=0).eval()


def pictures(batch=6):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(batch, 3, 1, 32, 32, generator=generator, dtype=torch.float64)


def thresholds(model, *values, **more):
    return Thresholds((*values, ALWAYS), weights_digest(model), **more)


# what is reused


@pytest.mark.parametrize("sides", [(7, 10), (10, 14), (7, 14), (4, 5), (5, 13), (3, 4)])
def test_places_are_resized_as_by_nearest_neighbour_to_twice_the_size_and_pooling(sides):
    (h, w), (big_h, big_w) = (sides[0], sides[0] + 1), (sides[1], sides[1] + 1)
    x = torch.randn(2, 1 + h * w, 3, dtype=torch.float64)
    maps = x[:, 1:].transpose(1, 2).unflatten(2, (h, w))
    maps = F.adaptive_avg_pool2d(F.interpolate(maps, scale_factor=2.0, mode="nearest"), (big_h, big_w))
    ours = resize_places(x, 1, TokenGrid(1, h, w), TokenGrid(1, big_h, big_w))
    torch.testing.assert_close(ours[:, 1:], maps.flatten(2).transpose(1, 2), rtol=0, atol=1e-12)
    assert ours[:, 0].equal(x[:, 0])


@pytest.mark.parametrize("reuse", [(True, False), (False, True)])
def test_gradients_of_a_later_exit_flow_into_the_ones_before(reuse):
    model = build(feature_reuse=reuse[0], relation_reuse=reuse[1])
    model(pictures(2)).square().sum().backward()
    for exit in model.exits:
        assert exit.backbone.blocks[0].attn.qkv.weight.grad.abs().max() > 0


def test_without_reuse_the_exits_are_plain_backbones():
    model = build(feature_reuse=False, relation_reuse=False)
    with torch.inference_mode():
        for exit, logits in zip(model.exits, model(pictures(), all_exits=True), strict=True):
            torch.testing.assert_close(logits, exit.backbone(pictures()), rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", [DVT, AdaptiveDepth])
def test_a_level_is_an_exit_counted_from_the_dearest(kind):
    model = build(kind)
    with torch.inference_mode():
        every = model(pictures(), all_exits=True)
        for level in range(3):
            assert model(pictures(), level).equal(every[2 - level])
    costs = [closed_form_macs(model, level).total for level in range(3)]
    assert costs == sorted(costs, reverse=True) and len(set(costs)) == 3


def test_the_loss_is_the_sum_over_the_exits():
    model, labels = build(), torch.tensor([0, 1, 2, 3, 4, 0])
    every = model(pictures(), all_exits=True)
    wanted = sum(F.cross_entropy(logits, labels) for logits in every)
    torch.testing.assert_close(cascade_loss(every, class_loss, labels), wanted)


def test_the_last_exit_of_adaptive_depth_is_its_backbone():
    model = build(AdaptiveDepth)
    with torch.inference_mode():
        torch.testing.assert_close(model(pictures()), model.backbone(pictures()), rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", [DVT, AdaptiveDepth])
@pytest.mark.parametrize("backbone", ["deit_small", "t2t_vit_12"])
def test_three_counts_are_one_number(kind, backbone):
    model = kind(backbone, **SMALL, token_lengths=(4, 3) if kind is DVT else (4,))
    clip = torch.zeros(1, 3, 1, 32, 32)
    for level in range(model.num_levels):
        assert closed_form_macs(model, level).total == count_macs_torch(model, clip, level=level)
    assert closed_form_macs(model).total == count_macs(model, clip)


# leaving early


@pytest.mark.parametrize("kind", [DVT, AdaptiveDepth])
@pytest.mark.parametrize("criterion", ["confidence", "entropy"])
def test_every_picture_gets_what_it_would_get_alone(kind, criterion):
    model = build(kind)
    with torch.inference_mode():
        sure = torch.stack([surety(one, criterion) for one in model(pictures(), all_exits=True)])
        first = sure[0].median().item()
        second = sure[1][sure[0] < first].max().item()  # one of those that are left
        leave = EarlyExit(model, thresholds(model, first, second, criterion=criterion))
        logits, exits = leave(pictures())
        alone = [leave(picture[None]) for picture in pictures()]
    assert exits.unique().tolist() == [0, 1, 2]
    assert exits.equal(torch.cat([exit for _, exit in alone]))
    torch.testing.assert_close(logits, torch.cat([one for one, _ in alone]), rtol=0, atol=1e-10)


@pytest.mark.parametrize("limits, exit", [((ALWAYS, NEVER), 0), ((NEVER, ALWAYS), 1), ((NEVER, NEVER), 2)])
def test_thresholds_at_their_ends(limits, exit):
    model = build()
    with torch.inference_mode():
        logits, exits = EarlyExit(model, thresholds(model, *limits))(pictures())
        assert exits.eq(exit).all()
        torch.testing.assert_close(logits, model(pictures(), 2 - exit), rtol=0, atol=1e-10)


def test_an_exit_that_nobody_reaches_does_not_run():
    model = build()
    model.exits[1].register_forward_pre_hook(lambda *_: pytest.fail("exit 2 ran"))
    with torch.inference_mode():
        EarlyExit(model, thresholds(model, ALWAYS, ALWAYS))(pictures())


def test_the_lots_of_the_random_criterion_come_from_the_generator():
    model = build()
    leave = EarlyExit(model, thresholds(model, 0.5, 0.5, criterion="random"))
    draws = [leave(pictures(), generator=torch.Generator().manual_seed(seed))[1] for seed in (1, 1, 2)]
    assert draws[0].equal(draws[1]) and not draws[0].equal(draws[2])


def test_surer_is_larger_for_all_criteria():
    flat, sharp = torch.zeros(1, 8), torch.tensor([[9.0] + [0.0] * 7])
    for criterion in ("confidence", "entropy"):
        assert surety(flat, criterion) < surety(sharp, criterion) <= 1
    assert surety(flat, "entropy").item() == pytest.approx(0, abs=1e-6)


# thresholds for a budget

COSTS = (1.0, 3.0, 8.0)


def measured(samples=2000):
    """Three exits of which the later is right more often, and each is righter where it is surer."""
    generator = torch.Generator().manual_seed(5)
    sure = torch.rand(3, samples, generator=generator)
    skill = torch.tensor([[0.2], [0.35], [0.5]])
    return sure, torch.rand(3, samples, generator=generator) < (sure * 0.5 + skill)


@pytest.mark.parametrize("budget", [1.0, 1.5, 3.0, 6.0, 9.0])
def test_a_budget_is_kept_and_evolution_is_no_worse_than_quantiles(budget):
    sure, right = measured()
    found = {}
    for method in ("quantile", "evolution"):
        solved = solve_thresholds(sure, right, COSTS, budget, method=method)
        found[method], cost = worth(sure, right, solved, COSTS)
        assert cost <= budget
    assert found["evolution"] >= found["quantile"]
    if budget == 3.0:
        assert found["evolution"] > 100 * right[1].double().mean()  # better than all at the exit of that cost


def test_evolution_is_the_same_twice():
    sure, right = measured(300)
    first, second = (solve_thresholds(sure, right, COSTS, 2.0, seed=3) for _ in range(2))
    assert first.equal(second)


def test_exits_are_measured_over_all_batches():
    model = build()
    labels = torch.arange(6) % 5
    batches = [(pictures()[:4], labels[:4]), (pictures()[4:], labels[4:])]
    sure, right = measure_exits(model, batches)
    with torch.inference_mode():
        every = torch.stack(model(pictures(), all_exits=True))
    torch.testing.assert_close(sure.double(), every.float().softmax(-1).amax(-1).double())
    assert right.equal(every.argmax(-1) == labels)


def test_thresholds_go_through_a_file(tmp_path):
    model = build()
    saved = thresholds(model, 0.3, 0.7, budget=1.5)
    saved.save(tmp_path / "t.json")
    assert Thresholds.load(tmp_path / "t.json") == saved
    (tmp_path / "t.json").write_text("{}")
    with pytest.raises(InputError, match=r"t\.json holds no thresholds"):
        Thresholds.load(tmp_path / "t.json")


# what is refused


def test_thresholds_of_another_checkpoint_are_refused():
    model = build()
    limits = thresholds(model, 0.5, 0.5)
    with torch.no_grad():
        model.exits[2].backbone.head.bias[0] += 1
    with pytest.raises(InputError, match=r"were solved for weights .*; solve them again for this checkpoint"):
        EarlyExit(model, limits)


@pytest.mark.parametrize("lengths", [(2, 3, 4), (4, 4), (4,)])
def test_lengths_must_run_from_the_shortest_to_the_longest(lengths):
    with pytest.raises(InputError, match=r"token_lengths are .* the exits of DVT run from the shortest"):
        DVT("deit_small", **SMALL, token_lengths=lengths)


@pytest.mark.parametrize(
    "make, text",
    [
        (lambda: surety(torch.zeros(1, 2), "surest"), "must be one of: confidence, entropy, random"),
        (lambda: solve_thresholds(*measured(9), COSTS, 0.5), "the first exit alone costs 1; give more"),
        (lambda: solve_thresholds(*measured(9), COSTS, 2, method="grid"), "one of: quantile, evolution"),
        (lambda: solve_thresholds(*measured(9), (3, 1, 8), 2), "expected one for each, rising"),
        (lambda: build(AdaptiveDepth, token_lengths=(4, 2)), r"one token length, not \[4, 2\]"),
        (lambda: build(AdaptiveDepth, exit_blocks=(2, 1, 3)), "end with the depth, 3; give at least two"),
        (lambda: EarlyExit(m := build(), thresholds(m, 0.5)), "there are 2 thresholds for 3 exits"),
        (lambda: DVT("deit_small_distilled", **SMALL, token_lengths=(4, 2)), "a class token alone"),
        (lambda: DVT("lvvit_tiny", **SMALL, token_lengths=(4, 2)), "DVT needs an image model"),
        (lambda: DVT("timesformer_tiny", **SMALL, token_lengths=(4, 2)), "DVT needs an image model"),
    ],
)
def test_wrong_arguments_get_one_line(make, text):
    with pytest.raises(InputError, match=text):
        make()


def test_weights_that_reuse_other_things_are_refused():
    theirs = {f"less_less_token.{key}": torch.zeros(1) for key in ("cls_token", "pos_embed")}
    with pytest.raises(
        InputError, match=r"has the exits less_less_token and 0 other keys .* the model 3 exits"
    ):
        convert_state_dict(theirs, target=build())


def test_all_criteria_are_known():
    assert [len(surety(torch.randn(3, 4), name)) for name in CRITERIA] == [3, 3, 3]
