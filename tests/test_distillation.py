"""Self-distillation on every kind of backbone: the gradients a step leaves behind against finite differences
of losses written out here, in float64, with each loss alone and all together.
"""

from functools import partial

import pytest
import torch
from conftest import randomize
from torch import Tensor

from revit_video.backbones.core import ReViT
from revit_video.backbones.outputs import Outputs
from revit_video.backbones.zoo import create_model
from revit_video.competitors.random_drop import RandomDrop
from revit_video.train import revit
from revit_video.train.losses import (
    Distillation,
    attention_loss,
    class_loss,
    distillation_loss,
    feature_loss,
)
from revit_video.train.revit import revit_step
from revit_video.types import InputError

LABELS = torch.tensor([3, 0])
SMALL = {"num_classes": 5, "token_lengths": (4, 3, 2), "dim": 16, "depth": 2, "heads": 2, "crop": 32}
BACKBONES = {
    "divided": ("timesformer_base", {"num_frames": 3}),
    "joint": ("timesformer_joint_base", {"num_frames": 3}),
    "space only": ("timesformer_space_base", {"num_frames": 2}),
    "trajectory": ("motionformer_base", {"num_frames": 4, "class_token_only": False}),
    "deit": ("deit_tiny", {}),
    "deit distilled": ("deit_tiny_distilled", {}),
    "lvvit": ("lvvit_tiny", {"crop": 64}),
    "t2t": ("t2t_vit_7", {"crop": 64}),
}
EACH = ("divided", "deit")  # a video and an image backbone that try every way; others try all together
WAYS = {
    "labels": Distillation(weight=0.0),
    "soft": Distillation(weight=0.3, temperature=2.0),
    "printed": Distillation(weight=0.3, temperature=0.9, kl_order="student_teacher"),
    "hard": Distillation(weight=0.3, hard=True),
    "features": Distillation(weight=0.0, feature_weight=0.7),
    "attention": Distillation(weight=0.0, attention_weight=0.7),
    "all": Distillation(weight=0.5, temperature=3.0, feature_weight=0.7, attention_weight=0.4),
}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def model_and_clips(kind: str, **changes) -> tuple[ReViT, Tensor]:
    name, own = BACKBONES[kind]
    model = create_model(name, **{**SMALL, **own, **changes}).double()
    model = randomize(model, seed=0).eval()
    return model, noise(2, 3, model.num_frames, *model.crop, seed=1)


def run(model: ReViT, clips: Tensor) -> list[Outputs]:
    return [model(clips, level, full_output=True, with_looks=True) for level in range(model.num_levels)]


def pooled(maps: Tensor, height: int, width: int) -> Tensor:
    """(..., h, w) averaged over the windows floor(i * h / height) to ceil((i + 1) * h / height)."""

    def windows(size: int, wanted: int) -> Tensor:
        rows = torch.zeros(wanted, size, dtype=maps.dtype)
        for i in range(wanted):
            rows[i, i * size // wanted : -(-(i + 1) * size // wanted)] = 1
        return rows / rows.sum(dim=1, keepdim=True)

    return windows(maps.shape[-2], height) @ maps @ windows(maps.shape[-1], width).T


def loss_by_hand(out: Outputs, teacher: Outputs | None, how: Distillation) -> Tensor:
    """One level's loss as docs/training.md writes it."""

    def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
        return -logits.log_softmax(-1)[torch.arange(len(labels)), labels].mean()

    labels = cross_entropy(out.logits, LABELS)
    student = out.logits if out.distill_logits is None else out.distill_logits
    if teacher is None or not how.weight:
        loss = (labels + cross_entropy(student, LABELS)) / 2
        if teacher is None:
            return loss
    else:
        ours, theirs = ((logits / how.temperature).log_softmax(-1) for logits in (student, teacher.logits))
        if how.hard:
            taught = cross_entropy(student, teacher.logits.argmax(-1))
        elif how.kl_order == "student_teacher":
            taught = how.temperature**2 * (ours.exp() * (ours - theirs)).sum(-1).mean()
        else:
            taught = how.temperature**2 * (theirs.exp() * (theirs - ours)).sum(-1).mean()
        loss = (1 - how.weight) * labels + how.weight * taught
    if how.feature_weight:
        size = out.features.shape[2:4]
        theirs = pooled(teacher.features.movedim(-1, 2), *size).movedim(2, -1)
        loss = loss + how.feature_weight * ((out.features - theirs) ** 2).mean()
    if how.attention_weight:
        ours, theirs = (
            (maps / maps.sum(dim=(2, 3, 4), keepdim=True)).flatten(2)
            for maps in (out.looks, pooled(teacher.looks, *out.looks.shape[-2:]))
        )
        loss = loss + how.attention_weight * (theirs * (theirs / ours).log()).sum(-1).mean()
    return loss


@pytest.mark.parametrize(
    ("backbone", "way"),
    [(backbone, way) for backbone in BACKBONES for way in WAYS if backbone in EACH or way == "all"],
)
@torch.no_grad()
def test_a_step_descends_the_losses_as_written_with_the_teacher_held_still(backbone, way):
    """Along a random direction of all weights, central differences; the teacher stays what it was."""
    model, clips = model_and_clips(backbone, distill_token=way != "soft")  # soft: Eq. 1, without a token
    how, levels = WAYS[way], range(3)
    with torch.enable_grad():
        sums = revit_step(model, clips, LABELS, levels=levels, distillation=how)
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    direction = [noise(*parameter.shape, seed=i) for i, parameter in enumerate(parameters)]
    slope = sum((parameter.grad * way).sum() for parameter, way in zip(parameters, direction, strict=True))
    teacher = run(model, clips)[0]

    def total(shift: float) -> Tensor:
        for parameter, way in zip(parameters, direction, strict=True):
            parameter += shift * way
        longest, *shorter = run(model, clips)
        for parameter, way in zip(parameters, direction, strict=True):
            parameter -= shift * way
        return loss_by_hand(longest, None, how) + sum(loss_by_hand(out, teacher, how) for out in shorter)

    step = 1e-8  # so small for the stems' ReLUs, whose kinks are many
    assert sums["loss"].item() * 3 / 2 == pytest.approx(total(0.0).item(), rel=1e-9)  # 3 lengths, 2 clips
    measured = (total(step) - total(-step)) / (2 * step)
    assert slope.item() == pytest.approx(measured.item(), rel=1e-4)


@pytest.mark.parametrize("way", ["features", "attention"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_no_gradient_reaches_the_teachers_pass_from_a_transfer(backbone, way):
    model, clips = model_and_clips(backbone)
    grads = []
    for levels, how in (([0], WAYS["labels"]), (range(3), WAYS[way])):
        model.zero_grad()
        revit_step(model, clips, LABELS, levels=levels, distillation=how)
        grads.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    own = [name for name in grads[0] if name.startswith(("patch_embeds.0.", "pos_tables.0"))]
    rows = [name for name in grads[0] if name.endswith((".scale", ".shift")) and "patch_embeds" not in name]
    assert own and rows
    assert all(torch.equal(grads[0][name], grads[1][name]) for name in own)
    assert all(torch.equal(grads[0][name][0], grads[1][name][0]) for name in rows)
    assert any(grads[1][name][1].abs().max() > 0 for name in rows)


@pytest.mark.parametrize("way", WAYS)
def test_a_loss_of_weight_0_is_not_computed(way, monkeypatch):
    how, called = WAYS[way], set()
    losses = {"soft": distillation_loss, "features": feature_loss, "attention": attention_loss}
    for name, loss in losses.items():

        def watched(*arguments, name=name, loss=loss, **options):
            called.add(name)
            return loss(*arguments, **options)

        monkeypatch.setattr(revit, loss.__name__, watched)
    model, clips = model_and_clips("deit", class_token_only=not how.feature_weight)
    revit_step(model, clips, LABELS, levels=range(3), distillation=how)
    weights = {"soft": how.weight, "features": how.feature_weight, "attention": how.attention_weight}
    assert called == {name for name, weight in weights.items() if weight}


def test_every_loss_has_the_gradient_of_finite_differences_and_gives_the_teacher_none():
    logits, other = noise(3, 5), noise(3, 5, seed=1)
    labels, soft = torch.tensor([1, 5, 2]), noise(3, 5, seed=2).softmax(-1)
    student, teacher = noise(2, 2, 3, 2, 4), noise(2, 2, 5, 3, 4, seed=1)
    looks, theirs = noise(2, 2, 2, 3, 2).softmax(-1), noise(2, 2, 2, 5, 3, seed=1).softmax(-1)
    cases = [
        (class_loss, logits, torch.tensor([1, 4, 2]), {"smoothing": 0.1}),
        (class_loss, logits, soft, {}),
        (class_loss, logits, labels, {"heads": (2, 3)}),
        *((distillation_loss, logits, other, {"how": WAYS[way]}) for way in ("soft", "printed", "hard")),
        (distillation_loss, logits, other, {"how": WAYS["soft"], "heads": (2, 3)}),
        (feature_loss, student, teacher, {}),
        (attention_loss, looks, theirs, {}),
    ]
    for loss, ours, given, options in cases:
        for per_clip in (False, True):
            kind = {**options, "per_clip": per_clip}
            ours = ours.clone().requires_grad_()
            assert torch.autograd.gradcheck(lambda x, f=loss, y=given, k=kind: f(x, y, **k), ours)
        if loss is not class_loss:
            teaching = given.clone().requires_grad_()
            value = loss(ours.detach(), teaching, **options)
            assert not value.requires_grad, loss.__name__


def test_losses_are_at_least_float32_and_in_16_bits_close_to_it():
    logits, other = noise(3, 5), noise(3, 5, seed=1)
    features, larger = noise(2, 1, 2, 2, 3), noise(2, 1, 4, 4, 3, seed=1)
    looks, theirs = noise(2, 2, 1, 2, 2).softmax(-1), noise(2, 2, 1, 4, 4, seed=1).softmax(-1)
    for loss, ours, given in (
        (class_loss, logits, other.softmax(-1)),
        (partial(distillation_loss, how=WAYS["soft"]), logits, other),
        (feature_loss, features, larger),
        (attention_loss, looks, theirs),
    ):
        exact, narrow = loss(ours, given), loss(ours.bfloat16(), given.bfloat16())
        assert exact.dtype == torch.float64 and narrow.dtype == torch.float32
        assert narrow.item() == pytest.approx(exact.item(), rel=0.03)


def test_transfers_from_reduced_tokens_are_refused():
    model, clips = model_and_clips("deit", reducer=RandomDrop(0.5))
    for way, line in (
        ("features", r"a token reducer thins out; set revit\.feature_transfer=0"),
        ("attention", "attention transfer compares where the class token looks on whole grids"),
    ):
        with pytest.raises(InputError, match=line):
            revit_step(model, clips, LABELS, levels=range(3), distillation=WAYS[way])


def test_a_step_of_two_class_lists_reports_each_of_them():
    model, clips = model_and_clips("deit")
    labels = torch.tensor([1, 5])  # (0, 1) and (1, 2) of 2 and 3 classes
    sums = revit_step(model, clips, labels, levels=[0, 2], distillation=WAYS["soft"], heads=(2, 3))
    for level in (0, 2):
        logits = model(clips, level, full_output=True).logits
        verb = logits[:, :2].argmax(-1) == torch.tensor([0, 1])
        noun = logits[:, 2:].argmax(-1) == torch.tensor([1, 2])
        for name, right in {"verb": verb, "noun": noun, "action": verb & noun}.items():
            assert sums[f"{name}@1/level{level}"] == 100 * right.sum()
        assert f"clip@1/level{level}" not in sums
