"""Motionformer's blocks against official outputs; its landmarks (orthoformer)."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from motionformer_blocks import GRIDS, build, draw
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from revit_video.layers.block import JointBlock, Trunk
from revit_video.layers.mf_divided import MotionformerDividedBlock
from revit_video.layers.orthoformer import landmark_attend, pick_landmarks
from revit_video.layers.trajectory import TrajectoryBlock
from revit_video.types import TokenGrid

PARITY = Path(__file__).parents[2] / "shared" / "parity" / "video"
OFFICIAL = ["mf_trajectory", "mf_trajectory_gelu", "mf_trajectory_st_embed", "mf_trajectory_z1"]
OFFICIAL += ["mf_trajectory_crop24", "mf_trajectory_crop48", "mf_trajectory_orthoformer"]
OFFICIAL += ["mf_divided", "mf_joint"]
BLOCKS = {"trajectory": TrajectoryBlock, "divided": MotionformerDividedBlock, "joint": JointBlock}

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
            getattr(block, part).register_forward_hook(partial(keep, inner, part))
    torch.manual_seed(0)  # of the orthoformer's landmarks
    out = block(x, TokenGrid(frames, side, side), prefix=1)  # autograd on: the official divided one fails
    close = {"rtol": 0, "atol": 1e-5}
    torch.testing.assert_close(out, saved["block0_out"], **close)
    torch.testing.assert_close(inner["attn"], saved["block0_attn_out"], **close)
    if "block0_timeattn_out" in saved:
        torch.testing.assert_close(inner["time_attn"], saved["block0_timeattn_out"], **close)
    out.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in block.parameters())


def keep(inner: dict[str, Tensor], part: str, module: nn.Module, inputs: tuple, out: Tensor) -> None:
    """A hook that puts what a part of the block gives into `inner`."""
    inner[part] = out


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
