"""Stage 2: what the assigner learns from, in closed form, and its place in the loop."""

import math

import pytest
import torch
import torch.nn.functional as F
from small_run import PLAIN, report_of, train

from revit_video.recognizer import Recognizer
from revit_video.routing.stored import rule_of
from revit_video.train.assigner import (
    AssignerLoss,
    assigner_step,
    expected_risk,
    fit_temperature,
    focal_loss,
)
from revit_video.train.checkpoint import load_checkpoint
from revit_video.types import InputError, Unreadable

pytest_plugins = ["run_fixtures"]


def test_an_assigner_that_diverges_is_stopped_with_what_to_try(run, demo_data, refusal):
    for product in ("recognizer.pt", "checkpoints/assigner.pt", "report.json"):
        (run / product).unlink()
    resumed = ["resume=true", "stage=assigner", "assigner.epochs=30"]
    line = refusal(train(run, demo_data, *resumed, "assigner.base_lr=1e30", "solver.max_skipped_steps=3"))
    assert line.startswith("error: 4 steps with a loss or gradient that is not finite, more than ")
    assert line.endswith("solver.max_skipped_steps=3 allows; lower assigner.base_lr\n")
    assert not (run / "checkpoints/assigner.pt").exists()


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def descend(loss_fn, targets, *, steps: int = 800) -> torch.Tensor:
    """The logits (L,), the same for all clips, that a loss is least at."""
    logits = torch.zeros(targets.shape[-1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_fn(logits.expand(len(targets), -1), targets).backward()
        optimizer.step()
    return logits.detach()


@pytest.mark.parametrize("weight", [None, torch.tensor([2.0, 0.5, 1.0], dtype=torch.float64)])
def test_the_focal_loss_is_the_cross_entropy_at_gamma_zero_and_its_formula_above(weight):
    logits, levels = draw(6, 3), torch.tensor([0, 1, 2, 2, 1, 2])
    soft = draw(6, 3, seed=1).softmax(-1)
    for targets in (levels, soft):
        ours = focal_loss(logits, targets, gamma=0.0, weight=weight)
        torch.testing.assert_close(ours, F.cross_entropy(logits, targets, weight=weight))
    right = logits.softmax(-1)[torch.arange(6), levels]
    weights = torch.ones(6, dtype=torch.float64) if weight is None else weight[levels]
    wanted = -(weights * (1 - right) ** 2 * right.log()).sum() / weights.sum()
    torch.testing.assert_close(focal_loss(logits, levels, gamma=2.0, weight=weight), wanted)


def test_the_cost_loss_is_the_mean_error_and_cost_of_the_choice_it_draws():
    errors = torch.tensor([[0.1, 0.2, 0.9]], dtype=torch.float64)
    logits = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64).log()
    risk = expected_risk(logits, errors, (1.0, 0.5, 0.25), cost_weight=0.2)
    assert risk.item() == pytest.approx(0.5 * 0.3 + 0.3 * 0.3 + 0.2 * 0.95)


@pytest.mark.parametrize(("cost_weight", "level"), [(0.0, 0), (0.4, 1), (4.0, 2)])
def test_the_cost_loss_learns_the_level_of_the_least_risk_the_middle_one_where_it_pays(cost_weight, level):
    errors = torch.tensor([[0.1, 0.2, 0.9], [0.0, 0.1, 0.6]], dtype=torch.float64)
    loss = AssignerLoss("cost", cost_weight=cost_weight, costs=(1.0, 0.5, 0.25))
    assert descend(loss, errors).argmax().item() == level


def test_regression_learns_the_mean_error_of_every_level_so_that_a_bias_weighs_it_against_the_cost():
    errors = torch.tensor([[0.1, 0.2, 0.9], [0.0, 0.1, 0.6]], dtype=torch.float64)
    logits = descend(AssignerLoss("regression"), errors)
    torch.testing.assert_close(logits, -errors.mean(dim=0), rtol=1e-4, atol=1e-5)
    costs = torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64)
    assert [(logits - bias * costs).argmax().item() for bias in (0.0, 0.4, 4.0)] == [0, 1, 2]


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_a_scale_of_the_logits(true):
    fitting = draw(500, 3)
    probabilities = fitting.softmax(-1)
    assert fit_temperature(true * fitting, probabilities) == pytest.approx(true, rel=1e-6)
    drawn = torch.multinomial(probabilities, 1, generator=torch.Generator().manual_seed(0)).squeeze(1)
    temperature = fit_temperature(true * fitting, drawn)
    losses = [
        F.cross_entropy(true * fitting / (temperature * step), drawn).item() for step in (0.98, 1, 1.02)
    ]
    assert losses[1] == min(losses)


def test_a_step_learns_by_the_loss_it_is_given_and_tells_how_often_the_least_wrong_level_is_wished():
    clips, errors = draw(2, 1, 1, 2, 2), torch.tensor([[0.1, 0.9], [0.8, 0.3]], dtype=torch.float64)
    assigner = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2).double())
    with torch.no_grad():
        assigner[1].weight.zero_()
        assigner[1].bias.copy_(torch.tensor([-0.2, -0.4]))
    told = assigner_step(assigner, clips, errors, loss_fn=AssignerLoss("regression"))
    assert told["loss"].item() == pytest.approx(2 * (0.01 + 0.25 + 0.36 + 0.01) / 4)
    assert told["length@1"].item() == 100.0  # of one of two clips
    assert assigner[1].bias.grad.abs().min() > 0
    assert math.isclose(assigner[1].bias.grad[0].item(), 2 * (-(0.2 - 0.1) - (0.2 - 0.8)) / 4, rel_tol=1e-6)


def test_an_unknown_loss_is_refused_with_the_known_ones():
    with pytest.raises(
        InputError, match="'hinge', but must be one of: cross_entropy, focal, cost, regression"
    ):
        AssignerLoss("hinge")(draw(1, 3), torch.tensor([0]))


@pytest.mark.parametrize(
    "options",
    [
        ["assigner.loss=regression", "assigner.frames=3", "router.kind=hybrid"],
        ["assigner.loss=cost", "router.kind=cascade", "labels.rule=near_longest"],
        ["assigner.loss=focal", "assigner.calibrate=true", "router.kind=auto", "router.share=video"],
    ],
)
def test_every_loss_and_router_goes_through_training_test_and_prediction(options, run, demo_data):
    for product in ("recognizer.pt", "checkpoints/assigner.pt", "report.json"):
        (run / product).unlink()
    for stage in ("assigner", "test"):
        assert train(run, demo_data, "resume=true", f"stage={stage}", *options, *PLAIN) == 0
    report = report_of(run)
    kind = report["adaptive"]["router"]
    assert f"router.kind={kind}" in options or report["router_choice"]["kind"] == kind
    assert set(report["baselines"]) == {"random", "oracle", "assigner", "cascade", "hybrid"} - {kind}
    video = str(next((demo_data / "videos").rglob("*.mp4")))
    recognizer = Recognizer.load(run / "recognizer.pt")
    assert recognizer.router.rule == rule_of(load_checkpoint(run / "recognizer.pt")["router"])
    told = recognizer.predict(video)
    files = sorted((demo_data / "videos").rglob("*.mp4"))[:7]
    alone, together = [recognizer.predict(file) for file in files], list(recognizer.predict_all(files))
    for one, other in zip(alone, together, strict=True):
        assert (one.path, one.token_lengths) == (other.path, other.token_lengths)
        assert one.gmacs_per_view == pytest.approx(other.gmacs_per_view)
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
    broken = [run / "broken.mp4", run / "gone.mp4"]
    broken[0].write_bytes(b"no video")
    given = [broken[0], *files[:3], broken[1], files[3], broken[0]]
    mixed = list(recognizer.predict_all(given))
    assert [one.path for one in mixed] == [str(path) for path in given]
    for at in (0, 4, 6):
        assert isinstance(mixed[at], Unreadable) and given[at].name in mixed[at].error
    rest = [mixed[at].token_lengths for at in (1, 2, 3, 5)]
    assert rest == [one.token_lengths for one in alone[:4]]
    if "router.share=video" in options:
        assert len(set(told.token_lengths)) == 1
    cheap = Recognizer.load(run / "recognizer.pt", router="cascade", budget=0.2050)
    assert cheap.predict(video).gmacs_per_view <= told.gmacs_per_view
