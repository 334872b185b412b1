"""EViT: against the paper's equations written out, its warm-up, LV-ViT's token labels, what it refuses."""

import math
from itertools import pairwise

import pytest
import torch
from conftest import TINY

from revit_video.backbones.core import ReViT
from revit_video.competitors.evit import (
    EViT,
    KeepAttentive,
    keep_rate_at,
    usual_blocks,
)
from revit_video.layers.reduce import AttentionInfo, TokenState
from revit_video.train.token_labels import patch_loss, surviving_labels
from revit_video.types import InputError

JOINT = {"attention": "joint", "depth": 4}
KEEP = (1.0, 0.6, 0.5, 0.7)


def plain_evit(model: ReViT, clip: torch.Tensor, level: int, *, fuse: bool) -> torch.Tensor:
    """The logits of one clip (1, C, T, H, W), token by token."""
    x, prefix = model.embed(clip, model.grids[level])
    x = x[0]
    for block, keep in zip(model.blocks, KEEP, strict=True):
        q, k, v = block.attn.project(block.norm1(x, level))  # (A, N, d)
        weights = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(dim=-1)
        x = x + block.attn.proj((weights @ v).transpose(0, 1).flatten(1))
        score = weights[:, 0].mean(dim=0)
        patches = sorted(range(prefix, len(x)), key=lambda i: -score[i].item())
        number = math.ceil(keep * len(patches))
        rows = [x[i] for i in [*range(prefix), *patches[:number]]]
        if fuse and number < len(patches):
            rows.append(sum(score[i] * x[i] for i in patches[number:]))
        x = torch.stack(rows)
        x = x + block.mlp(block.norm2(x, level))
    return model.read(
        model.norm(x, level)[None], prefix, model.grids[level], TokenState.start(x[None], prefix=prefix)
    )


@pytest.mark.parametrize("level", [0, 1])  # level 1 has a distillation token, which is never dropped
@pytest.mark.parametrize("fuse", [True, False])
def test_it_is_the_papers_equations(tiny, clips, fuse, level):
    model = tiny(**JOINT, reducer=EViT(KEEP, fuse=fuse))
    batch = clips()
    with torch.inference_mode():
        plain = [plain_evit(model, clip[None], level, fuse=fuse).prediction() for clip in batch]
        torch.testing.assert_close(model(batch, level), torch.cat(plain), rtol=0, atol=1e-10)


def test_a_keep_rate_of_one_changes_nothing_and_a_call_can_ask_for_another_reducer(tiny, clips):
    model = tiny(**JOINT)
    with torch.inference_mode():
        plain = model(clips())
        assert model(clips(), reducer=EViT(1.0)).equal(plain)
        assert not model(clips(), reducer=EViT(0.5)).allclose(plain)


def test_every_place_is_kept_or_in_a_fused_token(tiny, clips):
    model = tiny(**JOINT)
    with torch.inference_mode():
        kept = model(clips(), full_output=True, reducer=EViT(KEEP)).kept
        lost = model(clips(), full_output=True, reducer=EViT(KEEP, fuse=False)).kept
    places = kept.places()
    assert kept.owner.shape == (2, 48) and kept.owner.min() >= 0
    assert places.eq(-1).equal(kept.fused) and kept.fused[:, -1].all()
    for owner, row, fused in zip(kept.owner, places, kept.fused, strict=True):
        assert all(owner[place] == unit for unit, place in enumerate(row.tolist()) if not fused[unit])
    assert lost.fused is None and lost.places().min() >= 0
    assert (lost.owner < 0).sum(dim=1).tolist() == [48 - lost.units] * 2


def test_the_fused_token_is_the_unnormalised_sum_of_what_the_class_token_looked_at_less():
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, 3, 6, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    x = torch.randn(2, 6, 8, generator=generator, dtype=torch.float64)
    info = AttentionInfo(q, k)
    out, kept = KeepAttentive(0.4)(x, info, TokenState.start(x, prefix=1))
    score = (q[:, :, :1] @ k.transpose(2, 3) / 2).softmax(-1)[:, :, 0, 1:].mean(1)
    order = score.argsort(dim=1, descending=True)
    for row in range(2):
        dropped = order[row, 2:]
        wanted = (score[row, dropped, None] * x[row, 1 + dropped]).sum(dim=0)
        torch.testing.assert_close(out[row, -1], wanted, rtol=0, atol=1e-12)
        assert kept.owner[row, dropped].eq(2).all() and kept.units == 3


@pytest.mark.parametrize("depth, blocks", [(12, (3, 6, 9)), (16, (4, 8, 12)), (1, (0,))])
def test_tokens_go_at_the_papers_blocks(depth, blocks):
    assert usual_blocks(depth) == blocks
    assert [i for i, step in enumerate(EViT(0.7).per_block(depth)) if step] == list(blocks)


def test_the_warm_up_starts_at_one_ends_at_the_rate_and_moves_reduced_blocks_alone():
    rates = [keep_rate_at(step, 0.7, steps_per_epoch=5, start_epoch=2, shrink_epochs=4) for step in range(40)]
    assert rates[:11] == [1.0] * 11 and rates[30:] == [0.7] * 10
    assert all(a > b for a, b in pairwise(rates[10:31]))
    assert rates[20] == pytest.approx(0.85)  # half way
    assert EViT(0.7, blocks=(1,)).at_rate(0.9, 3).rates(3) == (1.0, 0.9, 1.0)


def test_all_weights_learn_through_reduced_tokens(tiny, clips):
    model = tiny(**JOINT, reducer=EViT(KEEP), token_lengths=(4,))
    model(clips()).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


# LV-ViT's head on every patch


def test_a_fused_token_takes_no_part_in_the_prediction_and_has_no_label(tiny, clips):
    model = tiny(**JOINT, aux_head=True, reducer=EViT(KEEP))
    with torch.inference_mode():
        out = model(clips(), full_output=True)
    kept = out.kept
    alone = [row[~fused].amax(dim=0) for row, fused in zip(out.aux_logits, kept.fused, strict=True)]
    torch.testing.assert_close(out.prediction(), out.logits + 0.5 * torch.stack(alone))
    labels = torch.rand(2, 48, 5, dtype=torch.float64)
    mine, there = surviving_labels(labels, kept)
    assert there.equal(~kept.fused)
    for row in range(2):
        for unit in range(kept.units):
            if there[row, unit]:
                assert mine[row, unit].equal(labels[row, kept.owner[row].eq(unit).nonzero()[0, 0]])
    losses = -(mine * out.aux_logits.log_softmax(-1)).sum(-1)[there]
    torch.testing.assert_close(patch_loss(out.aux_logits, labels, kept), losses.mean())
    with torch.inference_mode():
        whole = model(clips(), full_output=True, reducer=EViT(1.0))
    every = -(labels * whole.aux_logits.log_softmax(-1)).sum(-1)
    torch.testing.assert_close(patch_loss(whole.aux_logits, labels), every.mean())


# what it refuses


@pytest.mark.parametrize(
    "reducer, text",
    [
        (EViT(0.0), "a keep rate is 0.0, but must be above 0 and at most 1"),
        (EViT((1, 0.5)), "keep has 2 rates for 4 blocks"),
        (EViT(0.5, blocks=(4,)), r"blocks are \[4\], but the model's are numbered 0 to 3"),
    ],
)
def test_wrong_rates_are_refused_at_once(reducer, text):
    with pytest.raises(InputError, match=text):
        ReViT(**{**TINY, **JOINT}, reducer=reducer)


def test_without_a_class_token_there_is_nobody_to_ask():
    with pytest.raises(InputError, match="this model has no class token; use ToMe or random drop"):
        EViT().check(49, depth=12, prefix=0)


@pytest.mark.parametrize("attention", ["divided", "trajectory", "mf_divided"])
def test_attention_that_needs_the_grid_is_refused(attention):
    with pytest.raises(
        InputError, match=r"EViT chooses among tokens, but a \w+ can spare .* joint attention"
    ):
        ReViT(**TINY, attention=attention, reducer=EViT())


def test_attention_transfer_is_refused(tiny, clips):
    with pytest.raises(InputError, match="attention transfer compares where the class token looks on whole"):
        tiny(**JOINT, reducer=EViT(0.5))(clips(), full_output=True, with_looks=True)
