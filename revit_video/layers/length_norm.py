"""LayerNorm with one affine pair per token length: the paper's token-length-aware LayerNorm (TAL-LN)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LengthNorm(nn.Module):
    """LayerNorm that keeps one scale and shift per token length.

    Features of a 7x7 and of a 14x14 grid have different statistics, so every length owns its affine pair
    while all other weights are shared (ReViT, arXiv:2307.02092, section 3.2). One parameter holds all
    rows, so that no parameter is ever without a gradient when only some lengths run.

    Args:
        dim: width of a token, D.
        num_levels: how many token lengths the model can run at, L.
        shared: one row for all of them, a plain LayerNorm (the other half of the paper's comparison).

    Shape: x is (..., D); the result has the shape of x.
    """

    def __init__(self, dim: int, num_levels: int, eps: float = 1e-6, *, shared: bool = False) -> None:
        super().__init__()
        self.eps, self.shared = eps, shared
        rows = 1 if shared else num_levels
        self.scale = nn.Parameter(torch.ones(rows, dim))  # (L, D), or (1, D)
        self.shift = nn.Parameter(torch.zeros(rows, dim))

    def row(self, level: int) -> int:
        """Where the scale and the shift of a level are."""
        return 0 if self.shared else level

    def forward(self, x: Tensor, level: int) -> Tensor:
        row = self.row(level)
        return F.layer_norm(x, x.shape[-1:], self.scale[row], self.shift[row], self.eps)

    @torch.no_grad()
    def copy_level(self, source: int, target: int) -> None:
        source, target = self.row(source), self.row(target)
        self.scale[target] = self.scale[source]
        self.shift[target] = self.shift[source]
