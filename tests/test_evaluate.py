"""Accuracy, its intervals, the ways to choose a length compared, and the pass over a list of videos."""

import math

import numpy as np
import pytest
import torch
from make_video import make_video

from revit_video.data import dataset as dataset_module
from revit_video.data.dataset import VideoDataset
from revit_video.data.loader import eval_batches
from revit_video.evaluate.adaptive import (
    Stored,
    oracle_baseline,
    oracle_curve,
    predictor_table,
    random_baseline,
    random_hits,
    shares,
    summary,
    tag_table,
)
from revit_video.evaluate.metrics import (
    average_views,
    bootstrap_interval,
    bootstrap_intervals,
    hits,
    paired_difference,
    percent,
)
from revit_video.evaluate.run import merge_scores, score_views
from revit_video.routing.assigner import Assigner
from revit_video.routing.budget import biased_levels
from revit_video.routing.router import Router
from revit_video.routing.rule import assigner_rule
from revit_video.stages.job import all_levels
from revit_video.transform import EvalTransform
from revit_video.types import InputError, VideoSample, View

COSTS = (4.0, 2.0, 1.0)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def right_at(*rows: str) -> Stored:
    """Videos of one view, class 0 of 2; "RWR" is one that the model has right at levels 0 and 2."""
    signs = torch.tensor([[1.0 if mark == "R" else -1.0 for mark in row] for row in rows])  # (N, L)
    logits = torch.stack([signs, -signs], dim=-1)[:, None, None]  # (N, 1, 1, L, 2)
    return Stored(logits, torch.zeros(len(rows), dtype=torch.long), COSTS)


def test_a_video_has_the_mean_of_its_views_probabilities():
    views = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]])  # 1/2 1/2 and 3/4 1/4
    torch.testing.assert_close(average_views(views), torch.tensor([0.625, 0.375]))
    torch.testing.assert_close(average_views(views + 100), average_views(views))


def test_a_hit_has_its_label_among_the_k_largest():
    scores = torch.tensor([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.5, 0.3, 0.2]])
    labels = torch.tensor([0, 1, 2])
    assert hits(scores, labels).tolist() == [True, False, False]
    assert hits(scores, labels, k=2).tolist() == [True, True, False]
    assert hits(scores, labels, k=5).tolist() == [True, True, True]
    assert percent(hits(scores, labels)) == pytest.approx(100 / 3)


@pytest.mark.parametrize(("right", "videos"), [(700, 1000), (950, 1000), (60, 200)])
def test_the_bootstrap_interval_has_the_width_of_a_bernoulli_mean(right, videos):
    hit = torch.arange(videos) < right
    low, high = bootstrap_interval(hit)
    share = right / videos
    assert low < 100 * share < high
    assert high - low == pytest.approx(2 * 1.96 * 100 * math.sqrt(share * (1 - share) / videos), rel=0.12)
    assert bootstrap_interval(hit) == (low, high)
    assert bootstrap_interval(torch.ones(50, dtype=torch.bool)) == (100.0, 100.0)


def test_a_paired_difference_is_as_sure_as_the_videos_that_differ_are_few():
    ours = torch.arange(1000) < 700
    theirs = ours.clone()
    theirs[:20] = False  # right with ours only
    theirs[990:] = True  # right with theirs only
    seen = paired_difference(ours, theirs)
    assert seen["difference"] == pytest.approx(1.0)
    deviation = math.sqrt((20 + 10) / 1000 - 0.01**2)
    assert seen["high"] - seen["low"] == pytest.approx(2 * 1.96 * 100 * deviation / math.sqrt(1000), rel=0.12)
    assert seen["low"] < 1 < seen["high"]
    assert paired_difference(theirs, ours)["difference"] == pytest.approx(-1.0)
    assert paired_difference(ours, ours) == {"difference": 0.0, "low": 0.0, "high": 0.0}


def test_a_video_whose_clips_run_at_their_own_levels_averages_these_views():
    stored = Stored(draw(5, 2, 3, 3, 4), torch.zeros(5, dtype=torch.long), COSTS)
    levels = torch.tensor([[0, 1], [2, 2], [1, 0], [2, 0], [1, 1]])
    scores = stored.video_scores(levels)
    for video in range(5):
        views = [stored.logits[video, clip, :, levels[video, clip]] for clip in range(2)]
        torch.testing.assert_close(scores[video], average_views(torch.cat(views)))
    assert stored.cost(levels) == pytest.approx((4 + 2 + 1 + 1 + 2 + 4 + 1 + 4 + 2 + 2) / 10)
    assert stored.cost(levels, (10, 0, 0)) == 3.0
    assert torch.equal(stored.video_scores(stored.fixed(1)), stored.video_scores(torch.ones_like(levels)))
    assert shares(levels, 3) == [0.3, 0.4, 0.3]


def test_the_summary_holds_accuracy_interval_and_cost():
    stored = right_at("RWW", "RRW", "RRR", "WWW")
    row = summary(stored, stored.fixed(1), gmacs=2.5)
    assert (row["top1"], row["gmacs"]) == (50.0, 2.5)
    assert (row["top1_low"], row["top1_high"]) == bootstrap_interval(torch.tensor([0, 1, 1, 0]).bool())


def test_random_assignment_scores_what_chance_gives_at_the_same_shares():
    # 30 videos are right at level 0 alone, 50 at level 2 alone, 20 at both; 40% run at level 0, 60% at 2
    stored = right_at(*["RWW"] * 30, *["WWR"] * 50, *["RWR"] * 20)
    levels = torch.tensor([0] * 40 + [2] * 60)[:, None]
    row = random_baseline(stored, levels, draws=400)
    expected = 0.4 * 30 + 0.6 * 50 + 20
    assert row["top1"] == pytest.approx(expected, abs=4 * row["top1_std"] / math.sqrt(400))
    assert 0 < row["top1_std"] < 10
    assert row["gmacs"] == stored.cost(levels) == pytest.approx(0.4 * 4 + 0.6 * 1)
    assert random_baseline(stored, levels, draws=400) == row


def test_every_draw_of_random_assignment_keeps_the_shares():
    stored = right_at(*["RWW"] * 40)  # right exactly where level 0 is dealt
    dealt = random_hits(stored, torch.tensor([0] * 10 + [1] * 10 + [2] * 20)[:, None], draws=50)
    assert dealt.sum(dim=1).tolist() == [10] * 50
    assert len(dealt.unique(dim=0)) > 40


def test_the_oracle_takes_the_shortest_right_length_and_the_shortest_of_all_where_none_is():
    row = oracle_baseline(right_at("RRR", "RRW", "RWW", "RWR", "WWW"))
    assert row["top1"] == 80.0
    assert row["gmacs"] == pytest.approx((1 + 2 + 4 + 1 + 1) / 5)


@pytest.mark.parametrize("seed", range(5))
def test_the_oracle_is_never_below_a_fixed_length(seed):
    stored = Stored(draw(60, 2, 3, 3, 4, seed=seed), torch.arange(60) % 4, COSTS)
    best = max(percent(stored.hit(stored.fixed(level))) for level in range(3))
    assert oracle_baseline(stored)["top1"] >= best


def test_the_intervals_of_a_whole_curve_are_those_of_its_points():
    hit = torch.rand(5, 90, generator=torch.Generator().manual_seed(0)) < torch.linspace(0, 1, 5)[:, None]
    told = bootstrap_intervals(hit, seed=3)
    for row, interval in zip(hit, told, strict=True):
        assert interval == pytest.approx(bootstrap_interval(row, seed=3))
    assert bootstrap_intervals(torch.empty(0, 90)) == []


def test_the_oracles_curve_buys_the_cheapest_hits_first_and_ends_at_the_oracle():
    stored = right_at("RRR", "WWR", "RWW", "WRW", "RRW", "WWW")  # costs 4, 2, 1
    rows = oracle_curve(stored, [0.9, 1.0, 7 / 6, 8 / 6, 9 / 6, 11 / 6, 99])
    assert [row["top1"] for row in rows] == pytest.approx([100 / 3, 50, 400 / 6, 400 / 6, 500 / 6, 500 / 6])
    assert [row["gmacs"] for row in rows] == pytest.approx([1, 7 / 6, 8 / 6, 8 / 6, 11 / 6, 11 / 6])
    oracle = oracle_baseline(stored)
    assert (rows[-1]["top1"], rows[-1]["gmacs"]) == pytest.approx((oracle["top1"], oracle["gmacs"]))


@pytest.mark.parametrize("seed", range(3))
def test_no_assignment_of_lengths_beats_the_oracles_curve(seed):
    stored = Stored(draw(40, 1, 1, 3, 4, seed=seed), torch.arange(40) % 4, COSTS)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(20):
        levels = torch.randint(3, (40, 1), generator=generator)
        (best,) = oracle_curve(stored, [stored.cost(levels)])
        assert percent(stored.hit(levels)) <= best["top1"] + 1e-9


def test_an_assigner_is_compared_with_those_that_always_say_the_same():
    wishes = torch.nn.functional.one_hot(torch.tensor([2, 2, 0, 1, 2, 2, 2, 2]), 3).float()
    truth = torch.tensor([2, 2, 0, 0, 2, 2, 1, 2])
    seen = predictor_table(wishes, truth, (14, 10, 7), majority=2)
    assert seen["accuracy"] == 75.0
    assert seen["balanced"] == pytest.approx((100 + 0 + 50) / 3)
    assert seen["constant"] == {"14": 25.0, "10": 12.5, "7": 62.5}
    assert seen["majority"] == 62.5


def test_the_tags_add_up_to_the_whole():
    stored = Stored(draw(50, 2, 1, 3, 4), torch.arange(50) % 4, COSTS)
    levels = torch.randint(3, (50, 2), generator=torch.Generator().manual_seed(1))
    tags = ["easy" if i % 3 else "hard" for i in range(50)]
    table = tag_table(stored, levels, tags)
    assert {tag: row["num_videos"] for tag, row in table.items()} == {"easy": 33, "hard": 17}

    def mean(pick):
        return sum(row["num_videos"] * pick(row) for row in table.values()) / 50

    assert mean(lambda row: row["top1"]) == pytest.approx(percent(stored.hit(levels)))
    for level in range(3):
        fixed = percent(stored.hit(stored.fixed(level)))
        assert mean(lambda row, level=level: row["top1_fixed"][level]) == pytest.approx(fixed)
        assert mean(lambda row, level=level: row["share"][level]) == pytest.approx(shares(levels, 3)[level])


@torch.inference_mode()
def test_accuracy_and_cost_from_stored_logits_are_those_of_really_routing_the_clips(tiny, clips):
    videos, num_clips, crops = 12, 2, 3
    backbone = tiny()
    torch.manual_seed(0)
    assigner = Assigner(3, width=0.1, depth=0.3, image_size=32).double().eval()
    views = clips(videos * num_clips * crops)
    scores = all_levels(backbone, assigner)(views)
    labels = torch.arange(videos) % 5
    stored = Stored(scores["logits"].unflatten(0, (videos, num_clips, crops)), labels, COSTS)
    wishes = scores["assigner"].float().unflatten(0, (videos, num_clips, crops))[:, :, 1]
    spread = (wishes[..., 0] - wishes[..., 2]).median().item()
    bias = -spread / (1 - COSTS[2] / COSTS[0])  # in the middle of the wishes: several levels are taken
    levels = biased_levels(wishes, COSTS, bias)
    assert len(levels.unique()) > 1

    router = Router(backbone, assigner, costs=COSTS, rule=assigner_rule(bias, 3))
    routed = router.forward_views(views.unflatten(0, (-1, crops)), batch_size=5)
    logits, ran = routed.logits, routed.levels
    assert torch.equal(ran.view(videos, num_clips), levels)
    really = average_views(logits.view(videos, num_clips * crops, 5))
    torch.testing.assert_close(stored.video_scores(levels), really, rtol=1e-5, atol=1e-6)
    assert torch.equal(stored.hit(levels), hits(really, labels))
    assert stored.cost(levels) == pytest.approx(sum(COSTS[level] for level in ran.tolist()) / len(ran))


GREYS = (40, 80, 120, 160, 200)


@pytest.fixture
def grey_videos(tmp_path):
    """Five videos of one grey each, in the order of their brightness; the label is the position."""
    samples = []
    for label, grey in enumerate(GREYS):
        path = make_video(tmp_path / f"{label}.mp4", np.full((12, 32, 48, 3), grey, np.uint8))
        samples.append(VideoSample(path, label))
    return samples


def six_views(num_frames, rng, fps):
    """Two clips of two frames, three crops each."""
    return [View((4 * clip, 4 * clip + 1), clip, crop) for clip in range(2) for crop in range(3)]


def brightness(samples, *, videos_per_batch=2, views_per_forward=4):
    """`score_views` of the mean brightness of each view."""
    dataset = VideoDataset(samples, pick_views=six_views, transform=EvalTransform(32))
    seen = score_views(
        lambda clips: {"grey": clips.mean(dim=(1, 2, 3, 4))},
        eval_batches(dataset, videos_per_batch=videos_per_batch),
        to_clips=lambda clips: clips.float().transpose(1, 2),
        views_per_forward=views_per_forward,
    )
    return merge_scores([seen])


@pytest.mark.parametrize(("videos_per_batch", "views_per_forward"), [(1, 100), (2, 4), (3, 1), (100, 7)])
def test_every_video_is_scored_once_and_the_order_of_the_list_is_kept(
    grey_videos, videos_per_batch, views_per_forward
):
    seen = brightness(grey_videos, videos_per_batch=videos_per_batch, views_per_forward=views_per_forward)
    assert seen.indices.tolist() == seen.labels.tolist() == [0, 1, 2, 3, 4]
    assert seen.values["grey"].shape == (5, 6)
    assert (seen.values["grey"] - torch.tensor(GREYS)[:, None]).abs().max() < 4
    assert seen.unreadable == {}


def test_an_unreadable_video_is_reported_and_the_others_keep_their_places(grey_videos, tmp_path):
    (tmp_path / "text.mp4").write_text("no video at all")
    broken = [VideoSample(str(tmp_path / "text.mp4"), 7), VideoSample(str(tmp_path / "missing.mp4"), 7)]
    seen = brightness([broken[0], *grey_videos[:3], broken[1], *grey_videos[3:]])
    assert seen.indices.tolist() == [1, 2, 3, 5, 6]
    assert seen.labels.tolist() == [0, 1, 2, 3, 4]
    assert (seen.values["grey"].mean(dim=1) - torch.tensor(GREYS)).abs().max() < 4
    assert sorted(seen.unreadable) == [0, 4]
    assert "text.mp4" in seen.unreadable[0] and "no such file" in seen.unreadable[4]


def test_a_list_without_a_readable_video_is_refused(tmp_path):
    samples = [VideoSample(str(tmp_path / f"{i}.mp4"), 0) for i in range(3)]
    with pytest.raises(InputError, match=r"none of the 3 videos of the list can be read; first: .*0\.mp4"):
        brightness(samples)


def test_a_video_is_opened_once_for_all_its_views(grey_videos, monkeypatch):
    opened = []
    real = dataset_module.open_video

    def counting(path, **options):
        opened.append(path)
        return real(path, **options)

    monkeypatch.setattr(dataset_module, "open_video", counting)
    brightness(grey_videos)
    assert opened == [sample.path for sample in grey_videos]
