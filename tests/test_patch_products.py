"""Patch embeddings as matrix products, where a CPU learns in bfloat16: the convolution's numbers."""

import pytest
import torch

from revit_video.layers.patch_embed import (
    ConvPatchEmbed,
    ResizePatchEmbed,
    product_of_patches,
    project_patches,
)
from revit_video.types import TokenGrid


@pytest.mark.parametrize("tubelet", [1, 2])
@pytest.mark.parametrize(("length", "crop"), [(4, (32, 32)), (3, (32, 32)), (5, (32, 32)), (3, (37, 50))])
def test_a_product_of_patches_is_the_convolution_and_its_gradients(length, crop, tubelet):
    torch.manual_seed(0)
    grid = TokenGrid(4 // tubelet, length, round(length * crop[1] / crop[0]))
    embed = ConvPatchEmbed(6, grid, crop, tubelet=tubelet).double()
    clips = torch.randn(2, 3, 4, *crop, dtype=torch.float64, requires_grad=True)
    found = []
    for way in (project_patches, product_of_patches):
        padded = clips if embed.symmetric else torch.nn.functional.pad(clips, embed.padding)
        inside = embed.proj.padding[-2:]
        tokens = way(embed.proj.weight, embed.proj.bias, padded, inside)
        grads = torch.autograd.grad(tokens.sin().sum(), [clips, *embed.proj.parameters()])
        found.append([tokens, *grads])
    assert found[0][0].shape == (2, grid.frames, grid.per_frame, 6)
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["autocast", "weights"])
def test_it_is_taken_for_learning_in_bfloat16_on_a_cpu_and_nowhere_else(monkeypatch, kind):
    calls = []

    def noted(*rest):
        calls.append(rest)
        return product_of_patches(*rest)

    monkeypatch.setattr("revit_video.layers.patch_embed.product_of_patches", noted)
    embed = ResizePatchEmbed(6, TokenGrid(2, 4, 4), patch=(8, 8))
    clips = torch.randn(1, 3, 2, 32, 32)
    exact = embed(clips)
    half = torch.autocast("cpu", dtype=torch.bfloat16, enabled=kind == "autocast")
    if kind == "weights":
        embed, clips = embed.bfloat16(), clips.bfloat16()
    with half, torch.no_grad():
        embed(clips)
    assert not calls
    with half:
        near = embed(clips)
    assert len(calls) == 1 and near.dtype == torch.bfloat16
    torch.testing.assert_close(near.float(), exact, rtol=0.03, atol=0.03)
