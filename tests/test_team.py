"""Who runs what of a step."""

from itertools import combinations, pairwise, product

import pytest
import torch

from revit_video.backbones.core import ReViT
from revit_video.data.dataset import Batch, Item
from revit_video.settings import Config, DistributedConfig
from revit_video.train.crew import Crew
from revit_video.train.lengths import pieces_of
from revit_video.train.losses import Distillation
from revit_video.train.parallel import build_exchange, leaves
from revit_video.train.revit import revit_step
from revit_video.train.team import Group, Team, idle_share, roll_call, split_levels, team_lines, time_of
from revit_video.train.world import Share, World
from revit_video.types import InputError

COSTS = (1.0, 0.5, 0.2)


@pytest.mark.parametrize(
    ("costs", "size", "groups"),
    [
        (COSTS, 1, [((0, 1, 2), 1)]),
        (COSTS, 2, [((0,), 1), ((1, 2), 1)]),
        (COSTS, 3, [((0,), 2), ((1, 2), 1)]),
        ((4, 2, 1), 7, [((0,), 4), ((1, 2), 3)]),
        ((1.0, 1.0), 2, [((0,), 1), ((1,), 1)]),
        ((1.0,), 4, [((0,), 4)]),
    ],
)
def test_the_groups_of_known_costs(costs, size, groups):
    assert split_levels(costs, size) == tuple(Group(levels, ranks) for levels, ranks in groups)


@pytest.mark.parametrize("size", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("costs", [COSTS, (8, 5, 3, 1), (1, 1, 1), (100, 1, 1)])
def test_no_other_split_has_a_faster_slowest_group(costs, size):
    best = min(
        max(sum(costs[a:b]) / n for (a, b), n in zip(pairwise((0, *cuts, len(costs))), ranks, strict=True))
        for number in range(2, min(len(costs), size) + 1)
        for cuts in combinations(range(1, len(costs)), number - 1)
        for ranks in product(range(1, size + 1), repeat=number)
        if sum(ranks) == size
    )
    groups = split_levels(costs, size)
    assert max(time_of(group, costs) for group in groups) == pytest.approx(best)
    assert [level for group in groups for level in group.levels] == list(range(len(costs)))
    assert sum(group.ranks for group in groups) == size


def test_the_idle_share_is_the_time_that_the_slowest_group_is_waited_for():
    groups = (Group((0,), 2), Group((1, 2), 1))  # 0.5 on two processes, 0.7 on one
    assert idle_share(groups, COSTS) == pytest.approx(1 - (2 * 0.5 + 0.7) / (3 * 0.7))


@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_every_group_reads_the_whole_batch_once(size, even):
    team = Team.of_groups(split_levels(COSTS, size), batch_size=14, even=even)
    for levels in team.runs:
        rows = [
            row for rank, share in enumerate(team.shares) if share.levels == levels for row in team.rows(rank)
        ]
        assert rows == list(range(14))


def test_what_is_printed_says_who_runs_what():
    groups = split_levels(COSTS, 3)
    lines = team_lines(Team.of_groups(groups, batch_size=9), groups, COSTS, (14, 10, 7))
    assert lines == [
        "ranks 0 to 1: lengths 14 on up to 5 of the 9 clips of a step",
        "rank 2: lengths 10, 7 on up to 9 of the 9 clips of a step",
        "expected: 19% of the processes' time is spent waiting for the slowest group",
    ]


def test_pieces_are_as_large_as_allowed():
    assert pieces_of(range(5), 2) == [[0, 1], [2, 3], [4]]
    assert pieces_of(range(3), 0) == [[0, 1, 2]] and pieces_of([], 0) == []


def test_one_process_learns_from_what_it_could_read():
    team = Team.of_all((0, 1), World(), batch_size=3)
    rows = torch.tensor([0, 2])
    batch = Batch(torch.zeros(2, 1), rows, rows, rows, rows[:, None], (Item(7, 0, None, "broken"),))
    present = roll_call(World(), team, batch, at="step 0")
    assert (present.rows, present.weight, present.unreadable) == ((0, 2), 1.0, {7: "broken"})


def tiny(**changes) -> ReViT:
    sizes = {"num_classes": 4, "token_lengths": (4, 3, 2), "num_frames": 2, "crop": 32, "dim": 16, "depth": 1}
    return ReViT(**{**sizes, "heads": 2, **changes})


def test_the_leaves_of_a_loss_are_what_its_backward_reaches():
    model = tiny()
    loss = model(torch.randn(1, 3, 2, 32, 32), 1).sum()
    found = leaves(loss)
    loss.backward()
    assert found == {parameter for parameter in model.parameters() if parameter.grad is not None}


class TwoProcesses(World):
    """The first of two, whose partner is not there: for what needs no exchange."""

    def __init__(self) -> None:
        super().__init__(0, 2)


@pytest.mark.parametrize(
    ("changes", "transfers", "line"),
    [
        ({}, True, "sends logits from process to process, no maps; set revit.feature_transfer=0"),
        ({"patch_embed": "lv_stem", "attention": "joint", "num_frames": 1}, False, "batch normalisation"),
    ],
)
def test_what_cannot_be_parted_is_refused(changes, transfers, line):
    model = tiny(**changes)
    with pytest.raises(InputError, match=line):
        Crew(model, TwoProcesses(), batch_size=4, costs=COSTS, transfers=transfers)


@pytest.mark.parametrize(
    ("group", "line"),
    [
        ({"strategy": "fspd"}, "distributed.strategy is 'fspd', .* Did you mean fsdp"),
        ({"lengths": "both"}, "distributed.lengths is 'both'"),
        ({"timeout_s": 0}, "distributed.timeout_s is 0"),
        ({"length_costs": [1, -1, 1]}, r"distributed.length_costs is \[1, -1, 1\]"),
        ({"strategy": "fsdp", "lengths": "parallel"}, "must be ddp where distributed.lengths=parallel"),
    ],
)
def test_settings_that_make_no_sense_are_refused(group, line):
    with pytest.raises(InputError, match=line):
        DistributedConfig(**group)


def test_costs_must_fit_the_lengths():
    with pytest.raises(InputError, match=r"length_costs has 2 numbers, but model\.token_lengths 3"):
        Config(distributed=DistributedConfig(length_costs=[2.0, 1.0]))


def test_alone_an_exchange_is_the_model():
    model = tiny()
    exchange = build_exchange(model, World())
    clips, labels = torch.randn(2, 3, 2, 32, 32), torch.tensor([0, 1])
    grads = []
    for runner in (model, exchange):
        model.zero_grad()
        revit_step(runner, clips, labels, levels=(0, 1, 2), distillation=Distillation())
        grads.append(
            [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
        )
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
    assert Share((0,)).parts == 1
