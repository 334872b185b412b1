"""Token-length self-distillation: the losses by hand, the step against losses of one level at a time."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from revit_video.train.assigner import assigner_step, class_weights
from revit_video.train.losses import (
    Distillation,
    attention_loss,
    class_loss,
    correct_rows,
    distillation_loss,
    feature_loss,
)
from revit_video.train.meter import means
from revit_video.train.revit import revit_step
from revit_video.types import InputError

LABELS = torch.tensor([3, 0])


def step(model, batch: Tensor, *, levels=range(3), labels: Tensor = LABELS, **options) -> tuple[dict, dict]:
    """What `revit_step` reports, and the gradients it leaves behind."""
    model.zero_grad()
    how = options.pop("distillation", Distillation())
    report = means(revit_step(model, batch, labels, levels=levels, distillation=how, **options))
    return report, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def kl(source: Tensor, target: Tensor, temperature: float) -> Tensor:
    """KL(source || target), summed over classes, mean over the batch, times temperature squared."""
    p, q = (torch.softmax(logits / temperature, -1) for logits in (source, target))
    return temperature**2 * (p * (p.log() - q.log())).sum(-1).mean()


def separate_losses(
    model, batch: Tensor, *, weight: float, temperature: float, printed: bool
) -> list[Tensor]:
    """One loss per level, each from a pass of its own."""
    outs = [model(batch, level, full_output=True) for level in range(model.num_levels)]
    teacher = outs[0].logits.detach()
    losses = [F.cross_entropy(outs[0].logits, LABELS)]
    for out in outs[1:]:
        student = out.logits if out.distill_logits is None else out.distill_logits
        pair = (student, teacher) if printed else (teacher, student)
        losses.append((1 - weight) * F.cross_entropy(out.logits, LABELS) + weight * kl(*pair, temperature))
    return losses


@pytest.mark.parametrize("order", ["teacher_student", "student_teacher"])
@pytest.mark.parametrize("distill_token", [True, False])
def test_a_step_leaves_the_sum_of_the_gradients_of_every_levels_own_loss(tiny, clips, distill_token, order):
    model, batch = tiny(distill_token=distill_token), clips()
    how = Distillation(weight=0.3, temperature=2.0, kl_order=order)
    report, grads = step(model, batch, distillation=how)
    losses = separate_losses(model, batch, weight=0.3, temperature=2.0, printed=order == "student_teacher")
    names, parameters = zip(*model.named_parameters(), strict=True)
    expected = torch.autograd.grad(sum(losses), parameters)
    assert list(grads) == list(names)
    for name, grad in zip(names, expected, strict=True):
        torch.testing.assert_close(grads[name], grad, rtol=1e-4, atol=1e-6, msg=name)  # losses are float32
    for level, loss in enumerate(losses):
        assert report[f"loss/level{level}"] == pytest.approx(loss.item(), rel=1e-5)
    assert report["loss"] == pytest.approx(sum(losses).item() / 3, rel=1e-5)


def test_students_teach_the_teacher_nothing(tiny, clips):
    model, batch = tiny(), clips()
    _, alone = step(model, batch, levels=[0])
    _, together = step(model, batch, distillation=Distillation(weight=1.0, feature_weight=0.5))
    for name in ("patch_embeds.0.proj.weight", "pos_tables.0"):
        assert torch.equal(alone[name], together[name])
    assert torch.equal(alone["norm.scale"][0], together["norm.scale"][0])
    assert together["norm.scale"][1].abs().max() > 0


def test_the_teacher_alone_teaches_the_distillation_head_and_labels_alone_teach_both_heads(tiny, clips):
    model, batch = tiny(), clips()
    _, labels = step(model, batch, distillation=Distillation(weight=0.0))
    _, teacher = step(model, batch, distillation=Distillation(weight=1.0))
    _, longest = step(model, batch, levels=[0])
    torch.testing.assert_close(teacher["head.weight"], longest["head.weight"])
    out = model(batch, 1, full_output=True).distill_logits, model(batch, 2, full_output=True).distill_logits
    weight = model.head_distill.weight
    for grads, target in ((labels, LABELS), (teacher, model(batch).softmax(-1).detach())):
        loss = sum(F.cross_entropy(logits, target) for logits in out) / (2 if grads is labels else 1)
        torch.testing.assert_close(
            grads["head_distill.weight"], torch.autograd.grad(loss, weight, retain_graph=True)[0]
        )


def test_one_length_alone_learns_the_labels_on_every_head_it_has(tiny, clips):
    model, batch = tiny(), clips()
    report, grads = step(model, batch, levels=[2], distillation=Distillation(weight=0.9, feature_weight=1.0))
    out = model(batch, 2, full_output=True)
    loss = (F.cross_entropy(out.logits, LABELS) + F.cross_entropy(out.distill_logits, LABELS)) / 2
    assert report["loss"] == report["loss/level2"] == pytest.approx(loss.item(), rel=1e-5)
    used = {name: p for name, p in model.named_parameters() if name in grads}
    for (name, _), grad in zip(used.items(), torch.autograd.grad(loss, used.values()), strict=True):
        torch.testing.assert_close(grads[name], grad, rtol=1e-4, atol=1e-6, msg=name)


def test_the_step_reports_the_accuracy_of_each_length(tiny, clips):
    model, batch = tiny(), clips(batch=4)
    labels = model(batch, 0).argmax(-1)
    labels[0] = (labels[0] + 1) % 5
    assert step(model, batch, labels=labels)[0]["clip@1/level0"] == 75.0
    assert correct_rows(torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([1, 1])).tolist() == [
        True,
        False,
    ]


def test_the_loss_against_a_teachers_probabilities_by_hand():
    student = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]]))
    teacher = torch.log(torch.tensor([[0.25, 0.5, 0.25], [0.2, 0.2, 0.6]]))
    half = math.log(2) / 2 * (0.5 - 0.25) * 2  # of the first clip: .25 log(1/2) + .5 log 2; the second agrees
    for order in ("teacher_student", "student_teacher"):
        loss = distillation_loss(student, teacher, Distillation(kl_order=order))
        assert loss.item() == pytest.approx(half / 2, abs=1e-6)  # symmetric numbers, batch of two
    student = torch.log(torch.tensor([[0.8, 0.2]]))
    teacher = torch.log(torch.tensor([[0.5, 0.5]]))
    usual, printed = (
        0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2),
        0.8 * math.log(1.6) + 0.2 * math.log(0.4),
    )
    assert distillation_loss(student, teacher, Distillation()).item() == pytest.approx(usual, abs=1e-6)
    how = Distillation(kl_order="student_teacher")
    assert distillation_loss(student, teacher, how).item() == pytest.approx(printed, abs=1e-6)
    warm = 4 * (0.5 * math.log(0.5 / (2 / 3)) + 0.5 * math.log(0.5 / (1 / 3)))  # tau = 2: roots of 4 to 1
    assert distillation_loss(student, teacher, Distillation(temperature=2.0)).item() == pytest.approx(
        warm, abs=1e-6
    )


def test_a_hard_teacher_gives_its_class_alone():
    student = torch.log(torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]]))
    teacher = torch.tensor([[0.0, 9.0, 1.0], [5.0, 4.0, 4.0]])
    loss = distillation_loss(student, teacher, Distillation(hard=True, temperature=3.0))
    assert loss.item() == pytest.approx(-(math.log(0.3) + math.log(0.1)) / 2)


def test_feature_maps_are_compared_on_the_students_grid_and_the_teacher_learns_nothing():
    teacher = torch.arange(16.0).view(1, 1, 4, 4, 1).repeat(1, 2, 1, 1, 3).requires_grad_()
    student = (
        torch.tensor([[2.5, 4.5], [10.5, 12.5]]).view(1, 1, 2, 2, 1).repeat(1, 2, 1, 1, 3).requires_grad_()
    )
    assert feature_loss(student, teacher).item() == 0  # the means of 2x2 blocks
    loss = feature_loss(student + 0.5, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(0.25)
    assert teacher.grad is None and student.grad.abs().min() > 0
    ragged = feature_loss(torch.zeros(1, 1, 3, 3, 1), torch.ones(1, 1, 4, 4, 1))  # 3 does not divide 4
    assert ragged.item() == pytest.approx(1.0)


def test_feature_transfer_adds_its_share_to_every_shorter_length(tiny, clips):
    model, batch = tiny(), clips()
    plain, _ = step(model, batch)
    both, _ = step(model, batch, distillation=Distillation(feature_weight=0.7))
    teacher, *students = [model(batch, level, full_output=True).features for level in range(3)]
    assert both["loss/level0"] == plain["loss/level0"]
    for level, features in enumerate(students, start=1):
        share = 0.7 * feature_loss(features, teacher).item()
        assert both[f"loss/level{level}"] - plain[f"loss/level{level}"] == pytest.approx(share, rel=1e-4) != 0


def test_maps_of_attention_are_compared_on_the_students_grid_as_shares_of_the_clip():
    teacher = torch.tensor([[1.0, 3.0], [0.0, 0.0]]).repeat_interleave(2, 0).repeat_interleave(2, 1)  # 4x4
    teacher = torch.stack([teacher, 3 * teacher])[None, None].requires_grad_()  # (1, 1, T=2, 4, 4)
    student = torch.full((1, 1, 2, 2, 2), 0.01).requires_grad_()
    shares = torch.tensor([1, 3, 3, 9]) / 16
    loss = attention_loss(student, teacher)
    loss.backward()
    assert loss.item() == pytest.approx((shares * (shares * 8).log()).sum().item(), rel=1e-5)
    assert teacher.grad is None and student.grad.abs().min() > 0
    same = F.adaptive_avg_pool2d(teacher.detach()[0], 2)[None]
    assert attention_loss(5 * same, teacher).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("class_token_only", [False, True])
@pytest.mark.parametrize("attention", ["divided", "joint"])
def test_the_looks_are_the_class_tokens_row_of_the_last_attention(tiny, clips, attention, class_token_only):
    model = tiny(attention=attention, class_token_only=class_token_only, crop=(32, 48))
    seen = []
    last = model.blocks[-1].attn
    last.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    out = model(clips(width=48), 1, full_output=True, with_looks=True)
    q, k, _ = last.qkv(seen[0]).unflatten(-1, (3, 2, 8)).unbind(-3)  # (..., N, A, d)
    rows = torch.einsum("...ad,...nad->...an", q[..., 0, :, :], k).div(8**0.5).softmax(-1)[..., 2:]
    assert out.looks.shape == (2, 2, 3, 3, 4)
    if attention == "divided":
        rows = rows.transpose(1, 2)  # (B, A, T, S)
    torch.testing.assert_close(out.looks.flatten(2), rows.flatten(2))
    assert model(clips(width=48), 1, full_output=True).looks is None


def test_attention_transfer_adds_its_share_to_every_shorter_length(tiny, clips):
    model, batch = tiny(class_token_only=True), clips()
    plain, _ = step(model, batch)
    both, grads = step(model, batch, distillation=Distillation(attention_weight=0.7))
    teacher, *students = [model(batch, i, full_output=True, with_looks=True).looks for i in range(3)]
    assert both["loss/level0"] == plain["loss/level0"]
    for level, looks in enumerate(students, start=1):
        share = 0.7 * attention_loss(looks, teacher).item()
        assert both[f"loss/level{level}"] - plain[f"loss/level{level}"] == pytest.approx(share, rel=1e-4) != 0
    _, longest = step(model, batch, levels=[0])
    assert torch.equal(grads["pos_tables.0"], longest["pos_tables.0"])


def test_feature_transfer_from_a_model_without_last_patches_is_refused_at_the_first_step(tiny, clips):
    with pytest.raises(
        InputError, match=r"set model\.options\.class_token_only=false or revit\.feature_transfer=0"
    ):
        how = Distillation(feature_weight=1.0)
        step(tiny(class_token_only=True), clips(), levels=[2], distillation=how)


def test_an_unknown_order_of_the_divergence_is_refused():
    with pytest.raises(InputError, match="kl_order is 'ts', but must be teacher_student or student_teacher"):
        Distillation(kl_order="ts")


def test_smoothing_and_soft_labels_by_hand():
    logits = torch.log(torch.tensor([[0.7, 0.2, 0.1]]))
    smoothed = -(0.8 * math.log(0.7) + 0.1 * math.log(0.2) + 0.1 * math.log(0.1))
    assert class_loss(logits, torch.tensor([0]), smoothing=0.3).item() == pytest.approx(smoothed)
    soft = torch.tensor([[0.8, 0.1, 0.1]])
    assert class_loss(logits.bfloat16(), soft).dtype == torch.float32
    assert class_loss(logits, soft).item() == pytest.approx(smoothed)


def test_smoothing_acts_on_labels_and_not_on_the_teacher(tiny, clips):
    model, batch = tiny(), clips()
    for weight, same in ((1.0, True), (0.5, False)):
        how = Distillation(weight=weight)
        plain, smooth = (step(model, batch, distillation=how, smoothing=s)[0] for s in (0.0, 0.2))
        assert (plain["loss/level2"] == smooth["loss/level2"]) == same
        assert plain["loss/level0"] != smooth["loss/level0"]


def test_rare_length_labels_weigh_more_and_the_mean_weight_is_one():
    lengths = torch.tensor([0] + [2] * 9)
    assert class_weights(lengths, num_levels=3, kind="none") is None
    for kind, ratio in (("sqrt", 3.0), ("balanced", 9.0)):
        weights = class_weights(lengths, num_levels=3, kind=kind)
        assert weights[1] == 0
        assert (weights[0] / weights[2]).item() == pytest.approx(ratio)
        assert weights[lengths].mean().item() == pytest.approx(1.0)
    with pytest.raises(
        InputError, match=r"assigner\.class_weight is 'root', but must be one of: none, sqrt, balanced"
    ):
        class_weights(lengths, num_levels=3, kind="root")


def test_the_assigners_step_is_weighted_cross_entropy():
    model = torch.nn.Linear(4, 3)
    x, lengths, weight = torch.randn(5, 4), torch.tensor([0, 2, 2, 1, 2]), torch.tensor([3.0, 1.0, 0.5])
    report = means(assigner_step(model, x, lengths, class_weight=weight))
    chosen = -torch.log_softmax(model(x), -1)[torch.arange(5), lengths]
    loss = (weight[lengths] * chosen).sum() / weight[lengths].sum()
    assert report["loss"] == pytest.approx(loss.item())
    torch.testing.assert_close(model.weight.grad, torch.autograd.grad(loss, model.weight)[0])
