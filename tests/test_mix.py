"""Mixup and cutmix: by hand, symmetric, and the same for any number of processes."""

import random
from math import sqrt

import numpy as np
import pytest
import torch

from revit_video.transform.mix import Mix, partners
from revit_video.types import InputError

CLASSES = 5


def batch(videos: int, per_video: int = 1, *, side: int = 16, seed: int = 0):
    """Clips (M, 3, 2, side, side), labels (M,) and rows (B,)."""
    generator = torch.Generator().manual_seed(seed)
    clips = torch.randn(videos * per_video, 3, 2, side, side, generator=generator)
    labels = torch.randint(0, CLASSES, (videos * per_video,), generator=generator)
    return clips, labels, torch.arange(videos)


def step_of(mix: Mix, wanted, *, side: int = 16) -> int:
    """The first step whose draw (weight, box) is as wanted."""
    return next(step for step in range(1000) if wanted(*mix.draw(step, height=side, width=side)))


def test_mixup_by_hand():
    mix = Mix(0.8, 0.0, CLASSES, seed=3)
    clips, labels, rows = batch(4)
    step = step_of(mix, lambda weight, box: 0.1 < weight < 0.4)
    rng = random.Random(f"3/mix/{step}")
    rng.random(), rng.random()
    weight = rng.betavariate(0.8, 0.8)
    mixed, targets = mix(clips, labels, step=step, rows=rows)
    one_hot = torch.eye(CLASSES)[labels]
    for here, other in ((0, 1), (1, 0), (2, 3), (3, 2)):
        torch.testing.assert_close(mixed[here], weight * clips[here] + (1 - weight) * clips[other])
        torch.testing.assert_close(targets[here], weight * one_hot[here] + (1 - weight) * one_hot[other])


def test_cutmix_by_hand_with_the_weight_of_the_area_that_is_left():
    mix = Mix(0.0, 1.0, CLASSES, seed=3)
    clips, labels, rows = batch(2)
    step = step_of(mix, lambda weight, box: box[0] == 0 < box[2] and box[1] < 16)  # cut off at the top
    weight, (top, bottom, left, right) = mix.draw(step, height=16, width=16)
    rng = random.Random(f"3/mix/{step}")
    rng.random(), rng.random()
    length = int(16 * sqrt(1 - rng.betavariate(1.0, 1.0)))
    row, column = rng.randrange(16), rng.randrange(16)
    assert top == max(row - length // 2, 0) == 0 and bottom == min(row - length // 2 + length, 16)
    assert left == max(column - length // 2, 0) and right == min(column - length // 2 + length, 16)
    assert weight == 1 - (bottom - top) * (right - left) / 256
    mixed, targets = mix(clips, labels, step=step, rows=rows)
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[top:bottom, left:right] = True
    assert torch.equal(mixed[0], torch.where(inside, clips[1], clips[0]))  # in all channels and frames
    assert torch.equal(mixed[1], torch.where(inside, clips[0], clips[1]))
    one_hot = torch.eye(CLASSES)[labels]
    torch.testing.assert_close(targets[0], weight * one_hot[0] + (1 - weight) * one_hot[1])


@pytest.mark.parametrize("kinds", [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_processes_with_slices_of_the_batch_make_the_rows_of_one_process(kinds):
    mix = Mix(*kinds, CLASSES)
    clips, labels, rows = batch(10, per_video=3)
    for step in range(12):
        whole, targets = mix(clips, labels, step=step, rows=rows)
        for begin, end in ((0, 4), (4, 6), (6, 10)):
            part, part_targets = mix(
                clips[begin * 3 : end * 3],
                labels[begin * 3 : end * 3],
                step=step,
                rows=torch.arange(begin, end),
            )
            assert torch.equal(part, whole[begin * 3 : end * 3])
            assert torch.equal(part_targets, targets[begin * 3 : end * 3])


def test_the_order_of_the_rows_does_not_matter():
    mix, (clips, labels, rows) = Mix(0.8, 1.0, CLASSES), batch(6)
    order = torch.tensor([4, 0, 3, 5, 2, 1])
    for step in range(6):
        whole, targets = mix(clips, labels, step=step, rows=rows)
        turned, turned_targets = mix(clips[order], labels[order], step=step, rows=rows[order])
        assert torch.equal(turned, whole[order]) and torch.equal(turned_targets, targets[order])


def test_a_clip_mixes_with_the_same_clip_of_its_partner_and_stays_whole_without_one():
    assert partners(torch.tensor([0, 1, 4, 7, 6]), per_video=2).tolist() == [2, 3, 0, 1, 4, 5, 8, 9, 6, 7]
    clips, labels, rows = batch(5, per_video=2)  # row 4 has no row 5
    for kinds in ((0.8, 0.0), (0.0, 1.0)):
        mix = Mix(*kinds, CLASSES)
        step = step_of(mix, lambda weight, box: 0.2 < weight < 0.8)
        mixed, targets = mix(clips, labels, step=step, rows=rows)
        assert torch.equal(mixed[8:], clips[8:])
        assert torch.equal(targets[8:], torch.eye(CLASSES)[labels[8:]])
        changed = (mixed != clips).flatten(1).any(1)
        assert changed.tolist() == [True] * 8 + [False] * 2
        without_row_1 = [0, 1, *range(4, 10)]  # an unreadable video
        mixed, _ = mix(clips[without_row_1], labels[without_row_1], step=step, rows=rows[[0, 2, 3, 4]])
        changed = (mixed != clips[without_row_1]).flatten(1).any(1)
        assert changed.tolist() == [False] * 2 + [True] * 4 + [False] * 2


def test_targets_are_distributions_and_keep_the_sum_of_the_batch():
    mix, (clips, labels, rows) = Mix(0.8, 1.0, CLASSES), batch(8)
    plain = torch.eye(CLASSES)[labels]
    for step in range(20):
        mixed, targets = mix(clips, labels, step=step, rows=rows)
        torch.testing.assert_close(targets.sum(1), torch.ones(8))
        torch.testing.assert_close(targets.sum(0), plain.sum(0))  # what one gives, the other gets
        torch.testing.assert_close(mixed.sum(0), clips.sum(0), atol=1e-5, rtol=1e-5)


def test_what_is_drawn_has_the_distribution_of_its_settings():
    mix = Mix(0.8, 1.0, CLASSES, prob=0.6, switch_prob=0.25)
    draws = [mix.draw(step, height=200, width=200) for step in range(8000)]
    boxes = [box for _, box in draws if box is not None]
    weights = np.array([weight for weight, box in draws if box is None and weight < 1])
    assert abs(len(boxes) - 8000 * 0.6 * 0.25) < 160
    assert abs(len(weights) - 8000 * 0.6 * 0.75) < 220
    assert abs(weights.mean() - 0.5) < 0.02
    assert abs(weights.var() - 1 / (4 * (2 * 0.8 + 1))) < 0.004  # of Beta(0.8, 0.8)
    assert all(0 <= weight <= 1 for weight, _ in draws)


@pytest.mark.parametrize(
    ("kinds", "prob", "switch_prob", "boxes"),
    [((0.8, 0.0), 1.0, 1.0, {False}), ((0.0, 1.0), 1.0, 0.0, {True}), ((0.8, 1.0), 1.0, 0.5, {False, True})],
)
def test_a_kind_that_is_off_is_never_drawn(kinds, prob, switch_prob, boxes):
    mix = Mix(*kinds, CLASSES, prob=prob, switch_prob=switch_prob)
    draws = [mix.draw(step, height=50, width=50) for step in range(40)]
    assert {box is not None for _, box in draws} == boxes


def test_a_step_that_is_not_mixed_hands_on_the_same_clips():
    clips, labels, rows = batch(4)
    for mix in (Mix(0.8, 1.0, CLASSES, prob=0.0), Mix(0.0, 0.0, CLASSES)):
        mixed, targets = mix(clips, labels, step=0, rows=rows)
        assert mixed is clips and torch.equal(targets, torch.eye(CLASSES)[labels])


def test_the_given_clips_stay_as_they_are_and_bfloat16_stays_bfloat16():
    clips, labels, rows = batch(4)
    before = clips.clone()
    for step in range(8):
        mixed, targets = Mix(0.8, 1.0, CLASSES)(clips.bfloat16(), labels, step=step, rows=rows)
        Mix(0.8, 1.0, CLASSES)(clips, labels, step=step, rows=rows)
        assert mixed.dtype == torch.bfloat16 and targets.dtype == torch.float32
    assert torch.equal(clips, before)


def test_targets_can_be_made_by_another_rule():
    """Two heads side by side: verbs 0 to 2 and nouns 0 to 3, labels verb * 4 + noun."""

    def both(labels):
        verbs, nouns = torch.eye(3)[labels // 4], torch.eye(4)[labels % 4]
        return torch.cat([verbs, nouns], dim=1)

    clips, _, rows = batch(2)
    mix = Mix(0.8, 0.0, 7, targets_of=both)
    weight, _ = mix.draw(1, height=16, width=16)
    _, targets = mix(clips, torch.tensor([2 * 4 + 3, 1 * 4 + 3]), step=1, rows=rows)
    torch.testing.assert_close(targets[0], torch.tensor([0, 1 - weight, weight, 0, 0, 0, 1.0]))


def test_no_clips_give_no_targets_and_clips_that_do_not_fit_the_rows_are_refused():
    clips, labels, rows = batch(3)
    mix = Mix(0.8, 1.0, CLASSES)
    mixed, targets = mix(clips[:0], labels[:0], step=0, rows=rows[:0])
    assert len(mixed) == 0 and targets.shape == (0, CLASSES)
    for wrong in ((clips, labels, rows[:2]), (clips, labels[:2], rows), (clips, labels, rows[:0])):
        with pytest.raises(InputError, match="equally many clips of every video"):
            mix(wrong[0], wrong[1], step=0, rows=wrong[2])
