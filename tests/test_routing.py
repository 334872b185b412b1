"""Who runs at which length: the router, the length labels, the assigner's look, and the budget."""

import pytest
import torch
from torch import nn

from revit_video.evaluate.metrics import average_views
from revit_video.routing.assigner import Assigner
from revit_video.routing.buckets import run_bucketed
from revit_video.routing.budget import (
    biased_levels,
    cascade_costs,
    cascade_levels,
    mean_cost,
    solve_bias,
    solve_threshold,
)
from revit_video.routing.labels import (
    DROP,
    LabelRule,
    LengthLabels,
    expected_label,
    histogram,
    near_longest,
    shortest_right,
    split_digest,
)
from revit_video.routing.router import Router, run_at_levels
from revit_video.routing.rule import ALWAYS, Rule, assigner_rule, cascade_rule
from revit_video.stages.labels import rounded
from revit_video.types import InputError

COSTS = (1.0, 0.45, 0.2)


class Recorder(nn.Module):
    """A backbone that notes the level and the size of every batch it runs."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone, self.batches = backbone, []
        self.num_classes, self.num_levels = backbone.num_classes, backbone.num_levels

    def forward(self, clips, level):
        self.batches.append((level, len(clips)))
        return self.backbone(clips, level)


class BrightnessAssigner(nn.Module):
    """Wishes for level 0, 1 or 2 by the brightness of the middle frame: below -1, below 1, above."""

    def forward(self, clips):
        bright = clips[:, :, clips.shape[2] // 2].mean(dim=(1, 2, 3))
        return nn.functional.one_hot((bright > -1).long() + (bright > 1), 3).to(clips.dtype) * 5


@pytest.fixture
def backbone(tiny):
    return tiny()


def alone(backbone, clips, levels):
    """Every clip by itself, one after the other."""
    return torch.cat(
        [backbone(clip[None], level) for clip, level in zip(clips, levels.tolist(), strict=True)]
    )


@pytest.mark.parametrize("batch_size", [0, 1, 2, 100])
@pytest.mark.parametrize("levels", [[0, 1, 2, 0, 2, 2, 1], [2, 2, 0, 0, 0], [1, 1, 1], [2]])
@torch.inference_mode()
def test_routed_clips_get_the_logits_they_get_alone_and_keep_their_order(backbone, clips, levels, batch_size):
    batch, levels = clips(len(levels)), torch.tensor(levels)
    logits = run_at_levels(backbone, batch, levels, batch_size=batch_size)
    torch.testing.assert_close(logits, alone(backbone, batch, levels), rtol=1e-10, atol=1e-10)


@torch.inference_mode()
def test_a_level_nobody_chose_is_not_run_and_no_batch_is_larger_than_asked(backbone, clips):
    recorder = Recorder(backbone)
    run_at_levels(recorder, clips(7), torch.tensor([2, 0, 2, 2, 0, 2, 2]), batch_size=3)
    assert recorder.batches == [(0, 2), (2, 3), (2, 2)]


@torch.inference_mode()
def test_no_clips_give_no_logits(backbone, clips):
    assert run_at_levels(backbone, clips(0), torch.tensor([], dtype=torch.long)).shape == (0, 5)


@torch.inference_mode()
def test_crops_of_a_clip_share_the_level_that_its_middle_crop_asks_for(backbone, clips):
    views = clips(6).unflatten(0, (2, 3))  # two clips of three crops
    views[0, 0] += 3  # alone, the crops would run at three different levels
    views[0, 2] -= 3
    views[1, 1] += 3
    router = Router(backbone, BrightnessAssigner(), costs=COSTS, rule=assigner_rule(0.0, 3), look=0.3)
    routed = router.forward_views(views)
    logits, levels = routed.logits, routed.levels
    assert levels.tolist() == [1, 2]
    assert routed.gmacs.tolist() == pytest.approx([0.45 + 0.1, 0.2 + 0.1])  # one look for three crops
    expected = torch.stack(
        [backbone(crops, level) for crops, level in zip(views, levels.tolist(), strict=True)]
    )
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)


@torch.inference_mode()
def test_the_assigner_router_runs_each_clip_where_the_assigner_sends_it(backbone, clips):
    batch = clips(5) + torch.tensor([-3.0, 0, 3, 0, -3]).view(-1, 1, 1, 1, 1)
    router = Router(backbone, BrightnessAssigner(), costs=COSTS, rule=assigner_rule(0.0, 3))
    routed = router(batch, batch_size=2)
    assert routed.levels.tolist() == routed.starts.tolist() == [0, 1, 2, 1, 0]
    torch.testing.assert_close(routed.logits, alone(backbone, batch, routed.levels), rtol=1e-10, atol=1e-10)
    router.rule = assigner_rule(100.0, 3)
    assert router(batch).levels.tolist() == [2] * 5


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_the_assigner_looks_in_parts_and_wishes_the_same(backbone, clips, batch_size):
    batch, sizes = clips(7) + torch.tensor([-3.0, -2, 0, 0, 0, 2, 3]).view(-1, 1, 1, 1, 1), []
    assigner = BrightnessAssigner()
    assigner.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    router = Router(backbone, assigner, costs=COSTS, rule=assigner_rule(0.0, 3))
    levels = router.starts(batch, batch_size=batch_size)
    assert sum(sizes) == 7 and max(sizes) == min(batch_size, 7)
    assert levels.tolist() == router.starts(batch).tolist() == [0, 0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("threshold", [0.0, 0.35, 0.45, 0.6, 1.1])
@torch.inference_mode()
def test_the_cascade_stops_where_the_stored_logits_say_and_runs_nothing_in_vain(backbone, clips, threshold):
    batch, recorder = clips(8), Recorder(backbone)
    routed = Router(recorder, None, costs=COSTS, rule=cascade_rule(threshold, 3))(batch)
    logits, levels = routed.logits, routed.levels
    stored = torch.stack([backbone(batch, level) for level in range(3)], dim=1)  # (8, 3, K)
    expected = cascade_levels(stored.float().softmax(dim=-1).amax(dim=-1), threshold)
    assert levels.tolist() == expected.tolist()
    torch.testing.assert_close(logits, stored[torch.arange(8), expected], rtol=1e-10, atol=1e-10)
    went_on = [(level, int((expected <= level).sum())) for level in (2, 1, 0)]
    assert recorder.batches == [(level, count) for level, count in went_on if count]
    passes = torch.tensor(cascade_costs(COSTS), dtype=torch.float64)
    torch.testing.assert_close(routed.gmacs, passes[expected])


RULES = {
    "assigner": assigner_rule(0.0, 3),
    "cascade, one threshold": cascade_rule(0.45, 3),
    "cascade, a threshold for each level": cascade_rule((0.0, 0.4, 0.525), 3),
    "cascade, never sure": cascade_rule(ALWAYS, 3),
    "hybrid": Rule(0.0, (0.0, 0.4, 0.525)),
    "hybrid, never sure": Rule(0.0, (0.0, ALWAYS, ALWAYS)),
}


def one_by_one(router: Router, views: torch.Tensor):
    """Every group by itself, written out: start where the assigner says, go on while unsure."""
    rows, found = [], []
    for group in views:
        rule, level = router.rule, 2
        if rule.looks:
            level = int(router.assigner(group[len(group) // 2][None]).argmax())
        cost = router.look / len(group) if rule.looks else 0.0
        start = level
        while True:
            logits = torch.cat([router.backbone(view[None], level) for view in group])
            cost += router.costs[level]
            if level == 0 or average_views(logits).max() >= rule.thresholds[level]:
                break
            level -= 1
        rows.append(logits)
        found.append((start, level, cost))
    return torch.stack(rows), found


@pytest.mark.parametrize("bucketed", [False, True])
@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
@pytest.mark.parametrize("wishes", ["0120221", "2", "1111", "00222", ""])
@pytest.mark.parametrize("name", RULES)
@torch.inference_mode()
def test_every_router_gives_each_clip_what_it_gets_alone_in_order_at_what_its_passes_cost(
    backbone, clips, name, wishes, batch_size, bucketed
):
    bright = torch.tensor([{"0": -3.0, "1": 0.0, "2": 3.0}[wish] for wish in wishes])
    views = clips(2 * len(wishes)).unflatten(0, (-1, 2)) + bright.view(-1, 1, 1, 1, 1, 1)
    views[len(wishes) // 2 :] = views[: len(wishes) - len(wishes) // 2].clone()  # repeated clips
    router = Router(backbone, BrightnessAssigner(), costs=COSTS, rule=RULES[name], look=0.04)
    if bucketed:
        parts = list(run_bucketed(router, iter(views), batch_size=batch_size))
        assert len(parts) == len(views)
        if not parts:
            return
        found = [(int(p.starts), int(p.levels), p.gmacs.item()) for p in parts]
        logits = torch.cat([part.logits for part in parts])
    else:
        routed = router.forward_views(views, batch_size=batch_size)
        found = list(zip(routed.starts.tolist(), routed.levels.tolist(), routed.gmacs.tolist(), strict=True))
        logits = routed.logits
        if not len(views):
            assert logits.shape == (0, 2, 5) and found == []
            return
    expected, told = one_by_one(router, views)
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)
    assert [row[:2] for row in found] == [row[:2] for row in told]
    assert [row[2] for row in found] == pytest.approx([row[2] for row in told])


@torch.inference_mode()
def test_the_rules_of_these_tests_start_and_stop_at_several_levels(backbone, clips):
    bright = torch.tensor([-3.0, 0, 3, -3, 3, 3, 0, 0, 0, 3]).view(-1, 1, 1, 1, 1)
    for name, rule in RULES.items():
        router = Router(backbone, BrightnessAssigner(), costs=COSTS, rule=rule)
        routed = router(clips(10) + bright)
        went_on = int((routed.levels < routed.starts).sum())
        assert (went_on > 0) == (name != "assigner"), name
        assert "never" in name or went_on < 10, name
        assert rule.kind == name.split(",")[0]


@torch.inference_mode()
def test_buckets_run_full_batches_and_keep_few_clips_waiting(backbone, clips):
    recorder, batch = (
        Recorder(backbone),
        clips(23) + 3 * torch.tensor([-1.0, 0, 1] * 7 + [1, 1]).view(-1, 1, 1, 1, 1),
    )
    asked = []

    def arriving():
        for number, clip in enumerate(batch):
            asked.append(number)
            yield clip[None]

    router = Router(recorder, BrightnessAssigner(), costs=COSTS, rule=RULES["hybrid"])
    given = 0
    for _ in run_bucketed(router, arriving(), batch_size=4):
        ran = sum(size for _, size in recorder.batches)
        assert asked[-1] + 1 - ran <= 4 * 4  # each clip ran at least once, or is one of so many that wait
        given += 1
    assert given == 23
    per_level = {level: [n for at, n in recorder.batches if at == level] for level in range(3)}
    assert all(set(sizes[:-1]) <= {4} for sizes in per_level.values())


@torch.inference_mode()
def test_all_views_of_a_video_can_share_one_choice_that_is_made_on_the_view_looked_at(backbone, clips):
    views = clips(6)[None]
    views[0, 4] += 3  # of two clips of three crops the middle crop of the second
    router = Router(backbone, BrightnessAssigner(), costs=COSTS, rule=assigner_rule(0.0, 3), look=0.6)
    routed = router.forward_views(views, look_at=4)
    assert routed.levels.tolist() == [2]
    assert routed.gmacs.tolist() == pytest.approx([0.2 + 0.1])
    torch.testing.assert_close(routed.logits[0], backbone(views[0], 2), rtol=1e-10, atol=1e-10)


def test_folded_norms_leave_the_assigners_logits_and_none_of_themselves():
    torch.manual_seed(0)
    assigner = Assigner(3, width=0.2, depth=0.5, image_size=32).double().train()
    clips = torch.randn(4, 3, 3, 32, 32, dtype=torch.float64)
    for _ in range(3):
        assigner(clips)  # running statistics that are not those of the start
    with torch.no_grad():
        for parameter in assigner.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    wanted = assigner.eval()(clips)
    assert wanted.std() > 1e-3
    folded = assigner.fold_norms()
    torch.testing.assert_close(folded(clips), wanted, rtol=1e-9, atol=1e-12)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())


def test_the_assigner_sees_the_middle_frame_and_no_other(clips):
    torch.manual_seed(0)
    assigner = Assigner(3, width=0.1, depth=0.3, image_size=32).eval()
    before = clips(2, frames=5).float()
    after = before.clone()
    after[:, :, [0, 1, 3, 4]] += 1
    with torch.inference_mode():
        assert torch.equal(assigner(before), assigner(after))
        assert torch.equal(assigner(before), assigner(before[:, :, 2:3]))  # as the training shows it
        after[:, :, 2] += 1
        assert not torch.equal(assigner(before), assigner(after))


# right at levels 0, 1, 2 (longest first) -> label with none_right longest, shortest, drop
RIGHT_TABLE = [
    ((1, 1, 1), 2, 2, 2),
    ((1, 1, 0), 1, 1, 1),
    ((1, 0, 0), 0, 0, 0),
    ((1, 0, 1), 2, 2, 2),  # right again where it is short
    ((0, 1, 0), 1, 1, 1),
    ((0, 0, 1), 2, 2, 2),
    ((0, 0, 0), 0, 2, DROP),
]


@pytest.mark.parametrize(("column", "none_right"), [(1, "longest"), (2, "shortest"), (3, "drop")])
def test_the_label_is_the_shortest_right_length(column, none_right):
    correct = torch.tensor([row[0] for row in RIGHT_TABLE], dtype=torch.bool)
    labels = shortest_right(correct, none_right=none_right)
    assert labels.tolist() == [row[column] for row in RIGHT_TABLE]


def test_an_unknown_rule_for_none_right_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="'middle', but must be one of: longest, shortest, drop"):
        shortest_right(torch.zeros(1, 3, dtype=torch.bool), none_right="middle")


LABELS = LengthLabels(
    token_lengths=(14, 10, 7),
    checkpoint_sha256="c" * 64,
    split_sha256="5" * 64,
    protocol="val list",
    indices=(0, 2),
    correct=((True, False, True), (False, False, False)),
    losses=((0.1, 2.5, 0.25), (3.0, 4.0, 5.0)),
    confidences=((0.9, 0.4, 0.8), (0.3, 0.2, 0.1)),
)


def test_length_labels_come_back_as_they_were_saved(tmp_path):
    LABELS.save(tmp_path / "labels.json")
    back = LengthLabels.load(
        tmp_path / "labels.json", checkpoint_sha256=LABELS.checkpoint_sha256, split_sha256=LABELS.split_sha256
    )
    assert back == LABELS
    assert [path.name for path in tmp_path.iterdir()] == ["labels.json"]


@pytest.mark.parametrize(
    ("ours", "message"),
    [
        ({"checkpoint_sha256": "x" * 64}, "made with another checkpoint .*run stage=labels again"),
        ({"split_sha256": "x" * 64}, "made with another video list .*run stage=labels again"),
    ],
)
def test_labels_of_another_checkpoint_or_list_are_refused(tmp_path, ours, message):
    LABELS.save(tmp_path / "labels.json")
    same = {"checkpoint_sha256": LABELS.checkpoint_sha256, "split_sha256": LABELS.split_sha256}
    with pytest.raises(InputError, match=message):
        LengthLabels.load(tmp_path / "labels.json", **{**same, **ours})


@pytest.mark.parametrize("text", ["no json", '{"token_lengths": [14]}', '{"surprise": 1}', "[1, 2]"])
def test_a_file_that_holds_no_labels_is_refused(tmp_path, text):
    (tmp_path / "labels.json").write_text(text)
    with pytest.raises(InputError, match="is no file of length labels"):
        LengthLabels.load(tmp_path / "labels.json", checkpoint_sha256="", split_sha256="")
    with pytest.raises(InputError, match="run stage=labels first"):
        LengthLabels.load(tmp_path / "none.json", checkpoint_sha256="", split_sha256="")


def test_the_digest_of_a_list_depends_on_names_labels_and_order_but_not_on_folders():
    digest = split_digest(["/a/1.mp4", "/a/2.mp4"], [0, 1])
    assert digest == split_digest(["/elsewhere/b/1.mp4", "2.mp4"], [0, 1])
    assert digest != split_digest(["/a/1.mp4", "/a/2.mp4"], [0, 2])
    assert digest != split_digest(["/a/2.mp4", "/a/1.mp4"], [1, 0])
    assert digest != split_digest(["/a/1.mp4", "/a/3.mp4"], [0, 1])


def test_confidences_next_to_one_stay_apart_in_the_label_file():
    ones = torch.ones(1, 1)
    assert rounded(ones, 8) != rounded(torch.nextafter(ones, torch.zeros(1, 1)), 8)


def test_bias_zero_is_the_argmax_and_the_cost_falls_as_the_bias_rises():
    logits = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(biased_levels(logits, COSTS, 0.0), logits.argmax(dim=-1))
    costs = [mean_cost(biased_levels(logits, COSTS, bias), COSTS) for bias in (-99, -3, -1, 0, 1, 3, 99)]
    assert costs == sorted(costs, reverse=True)
    assert (costs[0], costs[-1]) == pytest.approx((1.0, 0.2))


@pytest.mark.parametrize("sharpness", [1.0, 30.0])
@pytest.mark.parametrize("budget", [0.2, 0.3, 0.55, 0.9, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_solved_bias_meets_the_budget_and_comes_within_one_clip_of_it(seed, budget, sharpness):
    logits = sharpness * torch.randn(200, 3, generator=torch.Generator().manual_seed(seed))
    cost = mean_cost(biased_levels(logits, COSTS, solve_bias(logits, COSTS, budget=budget)), COSTS)
    assert min(budget, COSTS[0]) - (COSTS[0] - COSTS[-1]) / len(logits) <= cost + 1e-9
    assert cost <= budget + 1e-9


def test_the_bias_meets_a_budget_even_where_lengths_cost_alike_and_the_assigner_is_very_sure():
    costs = (1.0, 0.95)
    logits = 40 * torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    assert (
        mean_cost(biased_levels(logits, costs, solve_bias(logits, costs, budget=0.95)), costs) <= 0.95 + 1e-9
    )


@pytest.mark.parametrize("budget", [0.25, 0.4, 0.7, 1.1, 1.65, 3.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_solved_threshold_meets_the_budget_and_comes_within_one_clip_of_it(seed, budget):
    confidence = torch.rand(200, 3, generator=torch.Generator().manual_seed(seed))
    totals = cascade_costs(COSTS)
    threshold = solve_threshold(confidence, COSTS, budget=budget)
    cost = mean_cost(cascade_levels(confidence, threshold), totals)
    assert min(budget, totals[0]) - (totals[0] - totals[-1]) / len(confidence) <= cost + 1e-9
    assert cost <= budget + 1e-9


def test_a_budget_out_of_reach_is_refused_with_the_possible_range():
    with pytest.raises(InputError, match=r"shortest length alone costs 0\.2; give one between that and 1$"):
        solve_bias(torch.zeros(2, 3), COSTS, budget=0.19)
    with pytest.raises(InputError, match=r"first pass alone costs 0\.2; give one between that and 1\.65$"):
        solve_threshold(torch.zeros(2, 3), COSTS, budget=0.19)


def test_a_cascade_pays_for_every_pass_up_to_the_one_it_stops_at():
    assert cascade_costs([4.0, 2.0, 1.0]) == [7.0, 3.0, 1.0]


def test_a_cascade_stops_at_the_first_sure_level_and_at_the_longest_where_none_is():
    confidence = torch.tensor(
        [[0.9, 0.9, 0.9], [0.9, 0.9, 0.1], [0.9, 0.1, 0.1], [0.1, 0.1, 0.1], [0.1, 0.1, 0.5]]
    )
    assert cascade_levels(confidence, 0.5).tolist() == [2, 1, 0, 0, 2]
    assert confidence[3, 0] == 0.1  # the input is left as it was


NEAR_TABLE = [  # losses at levels 0, 1, 2 -> label with epsilon 0.1, 0.5, 0
    ((0.2, 0.25, 0.9), 1, 1, 0),
    ((0.2, 0.9, 0.29), 2, 2, 0),  # near again where it is short
    ((0.2, 0.6, 0.8), 0, 1, 0),
    ((2.0, 1.5, 1.9), 2, 2, 2),  # better than the longest, if wrong
]


@pytest.mark.parametrize(("column", "epsilon"), [(1, 0.1), (2, 0.5), (3, 0.0)])
def test_the_loss_aware_label_is_the_shortest_length_whose_loss_is_near_the_longests(column, epsilon):
    losses = torch.tensor([row[0] for row in NEAR_TABLE])
    wanted = [row[column] for row in NEAR_TABLE]
    assert near_longest(losses, epsilon=epsilon).tolist() == wanted
    rule = LabelRule("near_longest", epsilon=epsilon)
    assert rule.labels(torch.zeros(4, 3, dtype=torch.bool), losses).tolist() == wanted


def test_an_unknown_label_rule_is_refused_and_the_usual_one_reads_the_bits():
    correct, losses = torch.tensor([[True, True, False], [False] * 3]), torch.zeros(2, 3)
    assert LabelRule().labels(correct, losses).tolist() == [1, 0]
    assert LabelRule(none_right="drop").labels(correct, losses).tolist() == [1, DROP]
    with pytest.raises(InputError, match="'best', but must be one of: shortest_right, near_longest"):
        LabelRule("best").labels(correct, losses)


def test_the_histogram_of_labels_counts_what_is_left_out():
    assert histogram(torch.tensor([0, 2, 2, DROP]), (14, 10, 7)) == (
        "14: 25.0%, 10: 0.0%, 7: 50.0%, left out: 25.0%"
    )


def test_the_assigner_of_three_frames_sees_the_ends_as_differences_and_trains_on_the_same_frames(clips):
    torch.manual_seed(0)
    assigner = Assigner(3, width=0.1, depth=0.3, image_size=32, frames=3).eval()
    batch = clips(2, frames=5).float()
    with torch.inference_mode():
        assert torch.equal(assigner(batch), assigner(batch[:, :, [0, 2, 4]]))
        seen = assigner.look(batch)
        ends = torch.stack([batch[:, :, 2] - batch[:, :, 0], batch[:, :, 4] - batch[:, :, 2]], 1).mean(2)
        torch.testing.assert_close(seen, torch.cat([batch[:, :, 2], ends], dim=1))
        for frame, matters in ((0, True), (1, False), (3, False), (4, True)):
            other = batch.clone()
            other[:, :, frame] += 1
            assert torch.equal(assigner(batch), assigner(other)) != matters
        still = batch[:, :, 2:3].expand(-1, -1, 5, -1, -1)
        assert assigner.look(still)[:, 3:].abs().max() == 0


def test_soft_labels_share_out_one_by_the_chance_that_shorter_lengths_were_wrong():
    right = torch.tensor([[0.9, 0.6, 0.8], [0.5, 1.0, 0.0]])  # probability of the true class at 14, 10, 7
    soft = expected_label(-right.log())
    torch.testing.assert_close(soft, torch.tensor([[0.08, 0.12, 0.8], [0.0, 1.0, 0.0]]))


def test_soft_labels_of_a_sure_backbone_are_the_shortest_right_length():
    correct = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0]], dtype=torch.bool)
    losses = torch.where(correct, 0.0, 50.0)
    assert expected_label(losses).argmax(dim=1).tolist() == shortest_right(correct).tolist()
