"""ToMe: matching and merging against plain loops, proportional attention as copies of a key, tubes in
video.
"""

import pytest
import torch
from conftest import TINY

from revit_video.backbones.core import ReViT
from revit_video.backbones.reduced import through_fewer
from revit_video.competitors.tome import Merge, ToMe, match, merge
from revit_video.layers.reduce import AttentionInfo, TokenState
from revit_video.types import InputError


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain_match(features, r, prefix):
    """Who merges into whom, over all tokens of one clip, written as the paper says it."""
    unit = features / features.norm(dim=1, keepdim=True)
    ours = [i for i in range(0, len(unit), 2) if i >= prefix]
    theirs = [i for i in range(1, len(unit), 2) if i >= prefix]
    proposals = []
    for i in ours:
        mate = max(theirs, key=lambda j: (unit[i] @ unit[j]).item())
        proposals.append(((unit[i] @ unit[mate]).item(), i, mate))
    return {(i, mate) for _, i, mate in sorted(proposals, reverse=True)[:r]}


@pytest.mark.parametrize("prefix, units", [(1, 9), (1, 8), (2, 9), (2, 6)])
def test_the_best_proposals_of_one_set_to_the_other_merge(prefix, units):
    features = noise(3, prefix + units, 5)
    source, target, left = match(features[:, prefix:], 3, first=prefix % 2)
    for row in range(3):
        pairs = {
            (i + prefix, j + prefix) for i, j in zip(source[row].tolist(), target[row].tolist(), strict=True)
        }
        assert pairs == plain_match(features[row], 3, prefix)
        assert sorted([*left[row].tolist(), *source[row].tolist()]) == list(range(units))


@pytest.mark.parametrize("prefix", [1, 2])
def test_a_block_deals_the_sets_over_all_tokens_the_prefix_included(prefix):
    keys = noise(3, 1, prefix + 9, 5)
    x = noise(3, prefix + 9, 4)
    _, kept = Merge(3)(x, AttentionInfo(keys, keys), TokenState.start(x, prefix=prefix))
    for row in range(3):
        for i, j in plain_match(keys[row, 0], 3, prefix):
            assert kept.owner[row, i - prefix] == kept.owner[row, j - prefix]


@pytest.mark.parametrize("planes", [1, 3])
def test_a_token_is_the_mean_of_all_that_merged_into_it(planes):
    """Merged again and again, without anything in between."""
    x = noise(2, 1 + planes * 16, 4)
    kept, tokens = TokenState.start(x, prefix=1, planes=planes), x
    for turn in range(4):
        frames = () if planes == 1 else (planes,)
        keys = noise(2, *frames, 1, 1 + kept.units, 3, seed=turn)
        tokens, kept = Merge(5)(tokens, AttentionInfo(keys, keys), kept)
    assert kept.units == 16 - 5 - 5 - 3 - 1 and kept.sizes.sum(dim=1).tolist() == [16.0, 16.0]
    first, last = x[:, 1:].unflatten(1, (planes, 16)), tokens[:, 1:].unflatten(1, (planes, -1))
    assert tokens[:, 0].equal(x[:, 0])
    for row in range(2):
        for unit in range(kept.units):
            mine = kept.owner[row] == unit
            assert mine.sum() == kept.sizes[row, unit]
            torch.testing.assert_close(last[row, :, unit], first[row][:, mine].mean(dim=1), rtol=0, atol=1e-6)


def twins(model: ReViT, frames: int, per_frame: int, *, tubes: bool) -> torch.Tensor:
    """Tokens among which pairs are alike: whole tubes, or single tokens."""
    dim = model.class_token.numel()
    if tubes:
        places = noise(2, frames, per_frame // 2, dim).repeat_interleave(2, dim=2)
        patches = places.flatten(1, 2)
    else:
        patches = noise(2, frames * per_frame // 2, dim).repeat_interleave(2, dim=1)
    return torch.cat([noise(2, 1, dim, seed=9), patches], dim=1)


@pytest.mark.parametrize("class_token_only", [False, True])
@pytest.mark.parametrize("attention", ["joint", "divided", "trajectory"])
def test_merging_equal_tokens_changes_nothing(tiny, attention, class_token_only):
    """Copies of a token, or of a tube, are as good as one of twice the size: exact if sizes are right."""
    model = tiny(attention=attention, depth=3, class_token_only=class_token_only, token_lengths=(4,))
    grid = model.grids[0]
    x = start = twins(model, grid.frames, grid.per_frame, tubes=attention != "joint")
    units = (x.shape[1] - 1) // (1 if attention == "joint" else grid.frames)
    pairs = units // 2 - 3  # a few stay as they are, so that sizes differ
    with torch.inference_mode():
        fewer, kept = through_fewer(model, x, grid, 1, ToMe((pairs, 0, 0)))
        for block in model.blocks:
            x = block(x, grid, prefix=1)
        plain = ToMe((pairs, 0, 0), proportional=False)
        other, _ = through_fewer(model, start, grid, 1, plain)
    assert kept.units == units - pairs and kept.sizes.sort().values[0].tolist() == [1.0] * 6 + [2.0] * pairs
    torch.testing.assert_close(fewer[:, 0], x[:, 0], rtol=0, atol=1e-6)
    assert (other[:, 0] - fewer[:, 0]).abs().max() > 1e-3


def test_tubes_merge_in_all_frames_alike(tiny, clips):
    model = tiny(attention="divided", depth=2, token_lengths=(4,), reducer=ToMe(3))
    with torch.inference_mode():
        out = model(clips(), full_output=True)
    assert out.kept.planes == 3 and out.kept.units == 16 - 6 and out.features is None
    assert out.logits.isfinite().all()


@pytest.mark.parametrize(
    "tome, schedule",
    [
        (ToMe(5), (5, 5, 5, 5)),
        (ToMe(6, inflect=-1), (12, 8, 4, 0)),
        (ToMe(6, inflect=1), (0, 4, 8, 12)),
        (ToMe((4, 0, 3, 1)), (4, 0, 3, 1)),
    ],
)
def test_schedules(tome, schedule):
    assert tome.schedule(4) == schedule


def test_half_of_the_tokens_merge_at_most(tiny, clips):
    model = tiny(attention="joint", depth=4, token_lengths=(4,), reducer=ToMe(48))
    with torch.inference_mode():
        assert model(clips(), full_output=True).kept.units == 48 // 2 // 2 // 2 // 2


def test_all_weights_learn_through_merged_tokens(tiny, clips):
    model = tiny(attention="divided", reducer=ToMe(3), token_lengths=(4,))
    model(clips()).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_fused_marks_of_evit_survive_a_merge():
    x = noise(1, 5, 4)
    kept = TokenState(1, 4, torch.tensor([[0, 1, 2, 3]]), fused=torch.tensor([[False, True, False, True]]))
    order = [torch.tensor([one]) for one in ([2], [3], [0, 1, 3])]
    assert merge(x, kept, *order)[1].fused.tolist() == [[False, True, True]]


@pytest.mark.parametrize(
    "tome, text",
    [
        (ToMe(49), "ToMe's r is 49, more than the 48 tokens .* a block merges at most half of them, 24"),
        (ToMe(-1), "ToMe's r is -1, but must be a whole number of at least 0"),
        (ToMe((1, 2, 3)), "ToMe has 3 values of r for 2 blocks"),
        (ToMe(4, inflect=2), r"inflect is 2, but must be in \[-1, 1\]"),
        (ToMe((1, 1), inflect=1), "and 0 with an r per block"),
    ],
)
def test_wrong_numbers_are_refused_at_once(tome, text):
    with pytest.raises(InputError, match=text):
        ReViT(**{**TINY, "token_lengths": (4,), "attention": "joint"}, reducer=tome)


def test_the_shortest_length_has_to_have_as_many_tokens():
    with pytest.raises(InputError, match="more than the 12 tokens"):
        ReViT(**TINY, attention="joint", reducer=ToMe(13))


def test_landmarks_and_groups_of_motionformer_cannot_spare_tokens():
    options = {"attention": "trajectory", "attention_options": {"landmarks": 4}}
    for changes in (options, {"attention": "mf_divided"}):
        with pytest.raises(InputError, match="can spare no fewer tokens"):
            ReViT(**TINY, **changes, reducer=ToMe(2))
