"""Motionformer's blocks: trajectory attention and its rewrite (arXiv:2106.05392, section 3.2), its divided
block, the orthoformer, against the equations as they read and against official outputs.
"""

import json
from pathlib import Path

import pytest
import torch
from conftest import randomize
from plain_motionformer import divided_block, official_state, trajectory_block
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from revit_video.layers import frame_mix
from revit_video.layers.block import JointBlock, Trunk
from revit_video.layers.mf_divided import MotionformerDividedBlock
from revit_video.layers.orthoformer import landmark_attend, pick_landmarks
from revit_video.layers.trajectory import TrajectoryAttention, TrajectoryBlock
from revit_video.report.macs import count_macs, count_macs_torch
from revit_video.types import InputError, TokenGrid

PARITY = Path(__file__).parents[2] / "shared" / "parity" / "video"
OFFICIAL = ["mf_trajectory", "mf_trajectory_gelu", "mf_trajectory_st_embed", "mf_trajectory_z1"]
OFFICIAL += ["mf_trajectory_crop24", "mf_trajectory_crop48", "mf_trajectory_orthoformer"]
OFFICIAL += ["mf_divided", "mf_joint"]
BLOCKS = {"trajectory": TrajectoryBlock, "divided": MotionformerDividedBlock, "joint": JointBlock}
GRIDS = [TokenGrid(3, 2, 4, level=1), TokenGrid(2, 3, 3, level=1), TokenGrid(1, 5, 2, level=1)]
EXACT = {"rtol": 1e-9, "atol": 1e-9}


def build(kind: type, *, dim: int = 24, heads: int = 3, prefix_only: bool = False, **options) -> nn.Module:
    """A block of two levels in float64, all of it random."""
    block = kind(Trunk(dim, heads, 2), drop_path_rate=0.1, prefix_only=prefix_only, **options)
    return randomize(block.double(), seed=0).eval()


def draw(grid: TokenGrid, prefix: int, *, batch: int = 2, dim: int = 24) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (batch, prefix + grid.frames * grid.per_frame, dim)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def plain(block: nn.Module, x: Tensor, grid: TokenGrid, prefix: int) -> Tensor:
    state = official_state(block, dict(block.named_parameters()), grid.level)
    shape = {"heads": block.attn.heads, "frames": grid.frames, "prefix": prefix}
    if isinstance(block, MotionformerDividedBlock):
        return divided_block(x, state, **shape)
    return trajectory_block(x, state, **shape, mode="original" if block.attn.proj_v is None else "fixed")


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


# -- kernels and number formats


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
        torch.autograd.grad((frame_mix.mix_frames(q.to(kind), t.to(kind).unbind(1), *weights) * slope).sum(), weights)
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


# -- orthoformer


def test_landmarks_point_apart_from_those_picked_before():
    torch.manual_seed(3)
    q = torch.randn(5, 12, 4, dtype=torch.float64)
    torch.manual_seed(0)
    first = torch.randint(12, (5,))
    torch.manual_seed(0)
    picked = pick_landmarks(q, 4)
    for row in range(5):
        chosen = [first[row].item()]
        for _ in range(3):
            likeness = [
                max(abs(torch.cosine_similarity(q[row, i], q[row, j], dim=0).item()) for j in chosen)
                if i not in chosen
                else 9.0
                for i in range(12)
            ]
            chosen.append(likeness.index(min(likeness)))
        assert picked[row].tolist() == sorted(chosen)


def test_more_landmarks_than_patches_are_all_patches():
    q, k, v = (torch.randn(2, 3, 6, 8, dtype=torch.float64) for _ in range(3))
    near = (q @ q.transpose(2, 3) * 8**-0.5).softmax(-1)
    seen = landmark_attend(q, k, v, frames=2, landmarks=100)
    for frame in range(2):
        part = slice(3 * frame, 3 * frame + 3)
        far = (q @ k[:, :, part].transpose(2, 3) * 8**-0.5).softmax(-1) @ v[:, :, part]
        torch.testing.assert_close(seen[frame], near @ far)


def test_the_orthoformer_trains_and_follows_torchs_seed():
    grid, block = GRIDS[0], build(TrajectoryBlock, landmarks=3)
    x = draw(grid, 1).requires_grad_()
    outs = []
    for _ in range(2):
        torch.manual_seed(5)
        outs.append(block(x, grid, prefix=1))
    assert torch.equal(*outs)
    gradients = torch.autograd.grad(outs[0].sum(), [x, *block.parameters()])
    assert all(gradient.isfinite().all() for gradient in gradients)


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


# -- official outputs


@pytest.mark.shared
@pytest.mark.skipif(not PARITY.is_dir(), reason="the official outputs are not here")
@pytest.mark.parametrize("name", OFFICIAL)
def test_the_official_block_gives_the_same_tokens(name):
    path = PARITY / f"{name}.safetensors"
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["config"])
    saved = load_file(path)
    options = {"landmarks": config["landmarks"]} if "landmarks" in config else {}
    trunk = Trunk(config["embed_dim"], config["num_heads"], 1)
    block = BLOCKS[config["attn"]](trunk, drop_path_rate=0.0, prefix_only=False, **options).eval()
    state = {key.removeprefix("state."): tensor for key, tensor in saved.items() if key.startswith("state.")}
    block.load_state_dict(our_weights(state, dim=config["embed_dim"]))
    frames, x = config["num_frames"] // config["z"], saved["tokens"]
    side = round(((x.shape[1] - 1) / frames) ** 0.5)
    inner = {}
    for part in ("attn", "time_attn"):
        if hasattr(block, part):
            keep = lambda _, __, out, part=part: inner.__setitem__(part, out)  # noqa: E731
            getattr(block, part).register_forward_hook(keep)
    torch.manual_seed(0)  # of the orthoformer's landmarks
    out = block(x, TokenGrid(frames, side, side), prefix=1)  # autograd on: the official divided one fails
    close = {"rtol": 0, "atol": 1e-5}
    torch.testing.assert_close(out, saved["block0_out"], **close)
    torch.testing.assert_close(inner["attn"], saved["block0_attn_out"], **close)
    if "block0_timeattn_out" in saved:
        torch.testing.assert_close(inner["time_attn"], saved["block0_timeattn_out"], **close)
    out.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in block.parameters())


def our_weights(state: dict[str, Tensor], *, dim: int) -> dict[str, Tensor]:
    """The official first block in our names; of proj_kv mode "original" reads the keys' weight only."""
    ours = {}
    for name, tensor in state.items():
        if not name.startswith("blocks.0.") or name.endswith("proj_kv.bias"):
            continue
        name = name.removeprefix("blocks.0.").replace("timeattn", "time_attn").replace("norm3", "time_norm")
        if "norm" in name:
            name, tensor = name.replace("weight", "scale").replace("bias", "shift"), tensor[None]
        if name == "attn.proj_kv.weight":
            name, tensor = "attn.proj_k.weight", tensor[:dim]
        ours[name] = tensor
    return ours
