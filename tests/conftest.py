"""What many tests share: one thread per worker, and a backbone so small that it runs in milliseconds."""

import os

import pytest
import torch

from revit_video.backbones.core import ReViT

TINY = {"num_classes": 5, "token_lengths": (4, 3, 2), "num_frames": 3, "crop": 32}
TINY |= {"dim": 16, "depth": 2, "heads": 2}


def pytest_configure(config):
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)


@pytest.fixture
def tiny():
    """tiny(depth=3, ...): a small ReViT in float64, all of it random, so that nothing hides behind a zero."""

    def build(*, seed: int = 0, dtype: torch.dtype = torch.float64, **changes) -> ReViT:
        model = ReViT(**{**TINY, **changes}).to(dtype)
        return randomize(model, seed=seed).eval()

    return build


@pytest.fixture
def clips():
    """clips(batch, frames, height, width): seeded noise in float64."""

    def draw(
        batch: int = 2, frames: int = 3, height: int = 32, width: int = 32, *, seed: int = 1
    ) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(batch, 3, frames, height, width, generator=generator, dtype=torch.float64)

    return draw


@torch.no_grad()
def randomize(model: torch.nn.Module, *, seed: int) -> torch.nn.Module:
    """Weights that keep the size of what passes through them, all else around 0 (norm scales around 1)."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        if name.endswith("weight"):
            parameter.copy_(noise * parameter[0].numel() ** -0.5)
        else:
            parameter.copy_(0.3 * noise + name.endswith("scale"))
    return model
