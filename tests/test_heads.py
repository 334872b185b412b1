"""One head over two lists of classes (verbs and nouns): losses, accuracies and confidence by list; and
losses per clip, which add up to those of the whole batch.
"""

import pytest
import torch
import torch.nn.functional as F

from revit_video.evaluate.adaptive import Stored, oracle_baseline, random_baseline, summary, tag_table
from revit_video.evaluate.heads import (
    best_labels,
    confidence,
    join_labels,
    label_losses,
    label_probabilities,
    softmax,
    split_labels,
)
from revit_video.evaluate.metrics import all_hits, average_views, percent
from revit_video.routing.router import Router
from revit_video.routing.rule import cascade_rule
from revit_video.train.losses import (
    Distillation,
    attention_loss,
    class_loss,
    correct_rows,
    distillation_loss,
    feature_loss,
    one_hot_targets,
    right_rows,
)

HEADS = (2, 3)
VERBS, NOUNS = torch.tensor([1, 0, 1, 0]), torch.tensor([2, 0, 1, 1])
PAIRS = VERBS * 3 + NOUNS


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- labels and probabilities -----------------------------------------------------------------------------


def test_a_label_is_its_parts_and_back():
    assert [part.tolist() for part in split_labels(PAIRS, HEADS)] == [VERBS.tolist(), NOUNS.tolist()]
    assert join_labels((VERBS, NOUNS), HEADS).tolist() == PAIRS.tolist()
    assert split_labels(17, (2, 3, 4)) == (1, 1, 1) and join_labels((1, 1, 1), (2, 3, 4)) == 17
    assert split_labels(PAIRS) == (PAIRS,) and join_labels((PAIRS,)) is PAIRS


def test_the_most_probable_action_is_the_best_verb_with_the_best_noun():
    logits = draw(50, 5)
    probabilities = softmax(logits, HEADS)
    torch.testing.assert_close(probabilities[:, :2], logits[:, :2].softmax(-1))
    torch.testing.assert_close(probabilities[:, 2:], logits[:, 2:].softmax(-1))
    actions = label_probabilities(probabilities, HEADS)  # (50, 6)
    torch.testing.assert_close(actions.sum(-1), torch.ones(50))
    torch.testing.assert_close(actions[:, 1 * 3 + 2], probabilities[:, 1] * probabilities[:, 2 + 2])
    assert torch.equal(actions.argmax(-1), best_labels(logits, HEADS))
    torch.testing.assert_close(actions.amax(-1), confidence(probabilities, HEADS))
    labels = torch.arange(50) % 6
    torch.testing.assert_close(label_losses(logits, labels, HEADS), -actions[range(50), labels].log())


# --- losses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_of_a_clip_is_the_mean_of_its_verbs_and_its_nouns(smoothing):
    logits = draw(4, 5)
    loss = class_loss(logits, PAIRS, smoothing=smoothing, heads=HEADS)
    parts = [
        F.cross_entropy(logits[:, :2], VERBS, label_smoothing=smoothing),
        F.cross_entropy(logits[:, 2:], NOUNS, label_smoothing=smoothing),
    ]
    assert loss.item() == pytest.approx(sum(parts).item() / 2)
    targets = one_hot_targets(PAIRS, 5, HEADS)
    assert targets[0].tolist() == [0, 1, 0, 0, 1]
    torch.testing.assert_close(class_loss(logits, targets, smoothing=smoothing, heads=HEADS), loss)


def test_mixed_targets_mix_the_losses_of_both_lists():
    logits, targets = draw(4, 5), one_hot_targets(PAIRS, 5, HEADS)
    mixed = class_loss(logits, 0.7 * targets + 0.3 * targets.flip(0), heads=HEADS)
    apart = [class_loss(logits, labels, heads=HEADS) for labels in (PAIRS, PAIRS.flip(0))]
    torch.testing.assert_close(mixed, 0.7 * apart[0] + 0.3 * apart[1])


@pytest.mark.parametrize("how", [Distillation(temperature=2.0), Distillation(hard=True)])
def test_each_list_is_distilled_by_itself(how):
    student, teacher = draw(4, 5), draw(4, 5, seed=1)
    parts = [distillation_loss(student[:, cut], teacher[:, cut], how) for cut in (slice(2), slice(2, 5))]
    loss = distillation_loss(student, teacher, how, heads=HEADS)
    torch.testing.assert_close(loss, sum(parts) / 2)
    shifted = teacher + torch.tensor([5.0, 5.0, 0.0, 0.0, 0.0])  # a softmax over both would see it
    torch.testing.assert_close(distillation_loss(student, shifted, how, heads=HEADS), loss)


def losses_per_clip() -> dict:
    """name -> (loss, student): `loss(rows, **options)` is that of some clips of a batch of six."""
    logits, teacher = draw(6, 5, seed=2).requires_grad_(), draw(6, 5, seed=3)
    features, longer = draw(6, 3, 2, 2, 4).requires_grad_(), draw(6, 3, 4, 4, 4, seed=1)
    looks, longest = draw(6, 2, 3, 2, 2).exp().requires_grad_(), draw(6, 2, 3, 4, 4, seed=1).exp()
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    soft = draw(6, 5, seed=4).softmax(-1)
    soft_pairs, pairs = softmax(draw(6, 5, seed=4), HEADS), torch.tensor([0, 5, 3, 2, 1, 4])
    found = {
        "labels": (lambda rows, **o: class_loss(logits[rows], labels[rows], smoothing=0.1, **o), logits),
        "soft": (lambda rows, **o: class_loss(logits[rows], soft[rows], **o), logits),
        "pairs": (lambda rows, **o: class_loss(logits[rows], pairs[rows], heads=HEADS, **o), logits),
        "soft pairs": (
            lambda rows, **o: class_loss(logits[rows], soft_pairs[rows], heads=HEADS, **o),
            logits,
        ),
        "features": (lambda rows, **o: feature_loss(features[rows], longer[rows], **o), features),
        "looks": (lambda rows, **o: attention_loss(looks[rows], longest[rows], **o), looks),
    }
    for heads in ((), HEADS):
        for how in (
            Distillation(temperature=3.0),
            Distillation(kl_order="student_teacher"),
            Distillation(hard=True),
        ):
            found[f"distillation {heads} {how.kl_order} {how.hard}"] = (
                lambda rows, how=how, heads=heads, **o: distillation_loss(
                    logits[rows], teacher[rows], how, heads=heads, **o
                ),
                logits,
            )
    return found


@pytest.mark.parametrize("name", losses_per_clip())
def test_a_batch_in_pieces_has_the_loss_and_the_gradient_of_the_whole(name):
    loss, student = losses_per_clip()[name]
    every = torch.arange(6)
    whole = loss(every)
    (expected,) = torch.autograd.grad(whole, student)
    apart = loss(every, per_clip=True)
    assert apart.shape == (6,) and apart.std() > 1e-3
    torch.testing.assert_close(apart.mean(), whole)
    torch.testing.assert_close(torch.autograd.grad(loss(every, per_clip=True).mean(), student)[0], expected)
    pieces = sum(len(rows) / 6 * loss(rows) for rows in every.split([1, 3, 2]))
    torch.testing.assert_close(pieces, whole)
    torch.testing.assert_close(torch.autograd.grad(pieces, student)[0], expected)
    alone = torch.stack([loss(row) for row in every.split(1)])
    torch.testing.assert_close(apart, alone)


# --- accuracies -------------------------------------------------------------------------------------------


def test_an_action_is_right_where_its_verb_and_its_noun_are():
    logits = torch.tensor([[0, 9, 0, 1, 5], [9, 0, 0, 1, 5], [9, 0, 0, 5, 1], [9, 0, 0, 5, 1]]).float()
    right = all_hits(average_views(logits[:, None], HEADS), PAIRS, heads=HEADS)
    assert right["verb"].tolist() == [True, True, False, True]
    assert right["noun"].tolist() == [True, False, True, True]
    assert right["label"].tolist() == [True, False, False, True]
    assert correct_rows(logits, PAIRS, heads=HEADS).tolist() == right["label"].tolist()
    shown = {"action@1": "label", "verb@1": "verb", "noun@1": "noun"}
    named = right_rows(logits, PAIRS, heads=HEADS)
    assert {name: rows.tolist() for name, rows in named.items()} == {
        name: right[part].tolist() for name, part in shown.items()
    }
    assert right_rows(logits, NOUNS).keys() == {"clip@1"}
    second = all_hits(average_views(logits[:, None], HEADS), PAIRS, heads=HEADS, k=2)
    assert second["noun"].tolist() == second["label"].tolist() == [True, False, True, True]


def test_each_list_has_its_own_softmax():
    logits = torch.tensor([[[1.0, 0, 0, 0, 30], [0, 0.5, 0, 9, 0]]])  # two views of one video
    assert all_hits(average_views(logits, HEADS), torch.tensor([0]), heads=HEADS)["verb"].item()
    assert all_hits(average_views(logits), torch.tensor([4]))["label"].item()


def test_every_table_of_a_test_holds_verb_noun_and_action():
    stored = Stored(draw(60, 2, 1, 3, 5), torch.arange(60) % 6, (4.0, 2.0, 1.0), HEADS)
    levels = torch.randint(3, (60, 2), generator=torch.Generator().manual_seed(1))
    scores = stored.video_scores(levels)
    action = label_probabilities(scores, HEADS).argmax(-1) == stored.labels
    verb = scores[:, :2].argmax(-1) == stored.labels // 3
    row = summary(stored, levels, gmacs=1.0)
    assert (row["top1"], row["verb"]) == (percent(action), percent(verb))
    assert row["top1"] < min(row["verb"], row["noun"])
    assert torch.equal(stored.hit(levels), action)
    for other in (random_baseline(stored, levels, draws=5), oracle_baseline(stored)):
        assert other["top1"] < min(other["verb"], other["noun"])
    tags = tag_table(stored, levels, ["a"] * 20 + ["b"] * 40)
    assert (tags["a"]["verb"] + 2 * tags["b"]["verb"]) / 3 == pytest.approx(row["verb"])
    torch.testing.assert_close(stored.confidence, confidence(stored.clip_scores, HEADS))
    for part in stored.clip_scores.split(HEADS, dim=-1):
        torch.testing.assert_close(part.sum(dim=-1), torch.ones(60, 2, 3))
    assert summary(Stored(stored.logits, stored.labels % 5, stored.costs), levels, gmacs=1.0).keys() == {
        "top1",
        "top1_low",
        "top1_high",
        "gmacs",
    }


@torch.inference_mode()
def test_the_cascade_is_as_sure_as_of_the_whole_action(tiny, clips):
    backbone, batch = tiny(), clips(20)
    sure = confidence(softmax(backbone(batch, 2), HEADS), HEADS)
    threshold = sure.median().item()
    router = Router(backbone, None, costs=(4.0, 2.0, 1.0), rule=cascade_rule(threshold, 3), heads=HEADS)
    levels = router(batch).levels
    assert ((levels == 2) == (sure >= threshold)).all() and 0 < (levels == 2).sum() < 20
