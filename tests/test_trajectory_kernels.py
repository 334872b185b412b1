"""Trajectory attention in bfloat16 and in chunks, and what it costs."""

import pytest
import torch
from motionformer_blocks import GRIDS, build, draw

from revit_video.layers import frame_mix
from revit_video.layers.block import Trunk
from revit_video.layers.trajectory import TrajectoryBlock
from revit_video.report.macs import count_macs, count_macs_torch
from revit_video.types import TokenGrid


@pytest.mark.parametrize("mode", ["original", "fixed"])
@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_stays_close_to_float64(mode, autocast):
    """bfloat16 rounds to 2**-9 of a value, a block rounds some ten times in a row on every path: 2% of the
    largest value leaves room for them to add up, and is far below what a wrong term gives.
    """
    grid, exact = GRIDS[0], build(TrajectoryBlock, mode=mode)
    x = draw(grid, 1).bfloat16().double()
    narrow = build(TrajectoryBlock, mode=mode).to(torch.float32 if autocast else torch.bfloat16)
    exact.load_state_dict({k: v.bfloat16().double() for k, v in exact.state_dict().items()})
    narrow.load_state_dict(exact.state_dict())
    y = x.to(torch.float32 if autocast else torch.bfloat16)
    results = []
    for block, tokens, cast in ((exact, x, False), (narrow, y, autocast)):
        tokens.requires_grad_()
        leaves = [tokens, *block.parameters()]
        with torch.autocast("cpu", torch.bfloat16, enabled=cast):
            out = block(tokens, grid, prefix=1)
            with torch.no_grad():
                evaluated = block(tokens, grid, prefix=1)
        results.append([out, evaluated, *torch.autograd.grad(out.sum(), leaves)])
    for wanted, got in zip(*results, strict=True):
        assert (got.double() - wanted).abs().max() <= 0.02 * wanted.abs().max()


@pytest.mark.parametrize("fixed", [False, True])
def test_bfloat16_weight_gradients_do_not_stall_over_many_chunks(monkeypatch, fixed):
    """A sum of 400 equal terms kept in bfloat16 stops growing at 256 of them, 36% too small; the terms alone,
    differences of rounded numbers, are within 10%.
    """
    monkeypatch.setitem(frame_mix.CHUNK_BYTES, "cpu", 1)  # a token at a time
    torch.manual_seed(0)
    q, t = torch.randn(1, 2, 4).repeat(400, 1, 1), torch.randn(1, 3, 8).repeat(400, 1, 1)
    weights = [torch.randn(8, 8, requires_grad=True) for _ in range(2 if fixed else 1)]
    slope = torch.randn(8)
    narrow, wide = (
        torch.autograd.grad(
            (frame_mix.mix_frames(q.to(kind), t.to(kind).unbind(1), *weights) * slope).sum(), weights
        )
        for kind in (torch.bfloat16, torch.float32)
    )
    for got, wanted in zip(narrow, wide, strict=True):
        assert (got - wanted).abs().max() <= 0.1 * wanted.abs().max()


@pytest.mark.parametrize("mode", ["original", "fixed"])
def test_counted_multiply_adds_are_the_closed_form_of_the_rewrite(mode):
    grid, dim, hidden = TokenGrid(3, 2, 4), 24, 96
    block = TrajectoryBlock(Trunk(dim, 3, 1), drop_path_rate=0.0, prefix_only=False, mode=mode)
    patches, tokens = 24, 25
    wanted = tokens * dim * (4 * dim + 2 * hidden)  # qkv, proj, MLP
    wanted += 2 * tokens * dim + 2 * patches * patches * dim  # prefix; every patch in every frame
    wanted += 2 * patches * dim * dim + patches * 3 * dim * grid.frames  # proj_q, u; u . t for 3 heads
    if mode == "original":
        wanted += patches * dim * grid.frames  # the sum
    else:
        wanted += patches * 3 * dim * grid.frames + patches * dim * dim  # the sum, W_v
    x = torch.randn(1, tokens, dim)
    assert count_macs(block, x, grid=grid, prefix=1) == wanted
    assert count_macs_torch(block, x, grid=grid, prefix=1) == wanted
