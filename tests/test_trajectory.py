"""Motionformer's blocks: trajectory attention and its rewrite (arXiv:2106.05392, section 3.2) and its divided
block, against the equations as they read.
"""

import pytest
import torch
from motionformer_blocks import EXACT, GRIDS, build, draw, plain
from torch import nn

from revit_video.layers import frame_mix
from revit_video.layers.block import Trunk
from revit_video.layers.mf_divided import MotionformerDividedBlock
from revit_video.layers.trajectory import TrajectoryAttention, TrajectoryBlock
from revit_video.types import InputError, TokenGrid


def assert_same_values_and_gradients(block: nn.Module, grid: TokenGrid, prefix: int) -> None:
    x = draw(grid, prefix).requires_grad_()
    leaves = [x, *block.parameters()]
    ours, theirs = block(x, grid, prefix=prefix), plain(block, x, grid, prefix)
    torch.testing.assert_close(ours, theirs, **EXACT)
    slope = torch.randn(ours.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    pairs = zip(
        torch.autograd.grad(ours, leaves, slope), torch.autograd.grad(theirs, leaves, slope), strict=True
    )
    for mine, reference in pairs:
        assert reference.abs().max() > 0
        torch.testing.assert_close(mine, reference, **EXACT)
    with torch.no_grad():
        torch.testing.assert_close(block(x, grid, prefix=prefix), theirs, **EXACT)


@pytest.mark.parametrize("mode", ["original", "fixed"])
@pytest.mark.parametrize("prefix", [1, 2])
@pytest.mark.parametrize("grid", GRIDS[:2])
def test_the_rewrite_has_the_values_and_gradients_of_the_plain_equations(grid, prefix, mode):
    assert_same_values_and_gradients(build(TrajectoryBlock, mode=mode), grid, prefix)


@pytest.mark.parametrize("mode", ["original", "fixed"])
def test_the_rewrite_in_small_chunks_has_the_values_and_gradients_of_the_plain_equations(monkeypatch, mode):
    monkeypatch.setitem(frame_mix.CHUNK_BYTES, "cpu", 5 * 3 * 24 * 8)  # 5 tokens; 48 are no multiple
    assert_same_values_and_gradients(build(TrajectoryBlock, mode=mode), GRIDS[0], prefix=1)


@pytest.mark.parametrize("prefix", [1, 2])
@pytest.mark.parametrize("grid", GRIDS[:2])
def test_the_divided_block_has_the_values_and_gradients_of_the_plain_equations(grid, prefix):
    assert_same_values_and_gradients(build(MotionformerDividedBlock), grid, prefix)


@pytest.mark.parametrize("mode", ["original", "fixed"])
def test_a_single_frame_has_a_trajectory_of_one_place(mode):
    block, grid = build(TrajectoryBlock, mode=mode), GRIDS[2]
    x = draw(grid, 1)
    torch.testing.assert_close(block(x, grid, prefix=1), plain(block, x, grid, 1), **EXACT)


@pytest.mark.parametrize("prefix", [1, 2])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (TrajectoryBlock, {"mode": "original"}),
        (TrajectoryBlock, {"mode": "fixed"}),
        (TrajectoryBlock, {"landmarks": 4}),
        (MotionformerDividedBlock, {}),
    ],
)
def test_a_block_that_computes_the_prefix_alone_gives_the_same_prefix(kind, options, prefix):
    grid = GRIDS[0]
    whole, short = build(kind, **options), build(kind, prefix_only=True, **options)
    unused = short.load_state_dict(whole.state_dict(), strict=False)
    assert not unused.missing_keys
    x = draw(grid, prefix).requires_grad_()
    out = short(x, grid, prefix=prefix)
    assert out.shape[1] == prefix
    torch.testing.assert_close(out, whole(x, grid, prefix=prefix)[:, :prefix], **EXACT)
    gradients = torch.autograd.grad(out.sum(), list(short.parameters()), allow_unused=True)
    assert all(gradient is not None for gradient in gradients)  # no parameter is dead


@pytest.mark.parametrize("prefix_only", [False, True])
@pytest.mark.parametrize("kind", [TrajectoryBlock, MotionformerDividedBlock])
def test_looks_are_the_class_tokens_attention_over_the_patches(kind, prefix_only):
    grid, prefix, looks = GRIDS[0], 2, []
    block = build(kind, prefix_only=prefix_only)
    x = draw(grid, prefix)
    block(x, grid, prefix=prefix, looks=looks)
    tokens = x
    if kind is MotionformerDividedBlock:
        tokens = x + block.time_attn(block.time_norm(x, grid.level), frames=grid.frames, prefix=prefix)
        tokens = block.norm1(tokens, grid.level)
    else:
        tokens = block.norm1(x, grid.level)
    q, k, _ = block.attn.qkv(tokens).unflatten(-1, (3, 3, 8)).unbind(2)
    spread = torch.einsum("bad,bkad->bak", q[:, 0] * 8**-0.5, k).softmax(-1)[..., prefix:]
    assert looks[0].shape == (2, 3, grid.frames, grid.height, grid.width)
    torch.testing.assert_close(looks[0].flatten(2), spread, **EXACT)


@pytest.mark.parametrize("prefix_only", [False, True])
@pytest.mark.parametrize("kind", [TrajectoryBlock, MotionformerDividedBlock])
def test_residual_scale_reaches_every_branch(kind, prefix_only):
    silent = kind(Trunk(24, 3, 2, residual_scale=0.0), drop_path_rate=0.0, prefix_only=prefix_only).double()
    x = draw(GRIDS[0], 1)
    assert torch.equal(silent(x, GRIDS[0], prefix=1), x[:, :1] if prefix_only else x)


def test_stochastic_depth_drops_whole_branches_of_a_clip():
    block = build(TrajectoryBlock)
    block.drop_path_rate = 1 - 1e-12
    x = draw(GRIDS[0], 1)
    assert torch.equal(block.train()(x, GRIDS[0], prefix=1), x)
    assert not torch.allclose(block.eval()(x, GRIDS[0], prefix=1), x)


# -- user mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "orignal"}, "trajectory mode is 'orignal', but must be one of: original, fixed"),
        ({"landmarks": 0}, "landmarks is 0, but must be a number of at least 1"),
        ({"landmarks": 2.5}, r"landmarks is 2\.5, but must be a number of at least 1"),
        ({"landmarks": "many"}, "landmarks is 'many', but must be a number"),
        ({"landmarks": True}, "landmarks is True, but must be a number"),
    ],
)
@pytest.mark.parametrize("prefix_only", [False, True])
def test_a_wrong_option_is_named_with_the_right_ones(options, message, prefix_only):
    with pytest.raises(InputError, match=message):
        TrajectoryAttention(24, 3, prefix_only=prefix_only, **options)
