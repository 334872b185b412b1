"""Tokens-to-token: the patch embedding of T2T-ViT (arXiv:2101.11986, section 3.1).

    clip -> soft split -> attention1 -> soft split -> attention2 -> soft split -> project to D

A soft split cuts overlapping windows and lays each out as one token; the attention in between makes it
`token_dim` wide. The parameters carry the official names: theirs `tokens_to_token.NAME` is
`patch_embeds.LEVEL.NAME` of a ReViT, with NAME project.{weight,bias} and, for i in 1, 2:

    performer     attention{i}.{norm1,kqv,proj,norm2}.{weight,bias}, attention{i}.w,
                  attention{i}.mlp.fc1 (theirs mlp.0), attention{i}.mlp.fc2 (theirs mlp.2)
    transformer   attention{i}.{norm1,norm2}.{weight,bias}, attention{i}.mlp.{fc1,fc2}.{weight,bias},
                  attention{i}.attn.qkv.weight (no bias), attention{i}.attn.proj.{weight,bias}

The first soft split of shorter levels follows DVT (arXiv:2105.15075). Facts from the papers and official
outputs; own code.
"""

import math
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from timm.layers import resample_patch_embed
from torch import Tensor, nn

from revit_video.layers.attention import attend
from revit_video.layers.block import Mlp
from revit_video.layers.staged_stem import split_side
from revit_video.types import InputError, TokenGrid

EPSILON = 1e-8  # in the denominator of the performer


class Performer(nn.Module):
    """Attention of linear cost, with positive random features (Performer, arXiv:2009.14794), then an MLP.

    softmax(q k^T) is estimated by f(q) f(k)^T, f(x) = exp(w x - |x|^2 / 2) / sqrt(m), with m = width / 2
    fixed random directions `w`, which belong to the trained weights and are saved with them. As input and
    output differ in width, the values take the place of the input in the first residual.

    Shape: x is (M, N, inputs); the result is (M, N, width).
    """

    def __init__(self, inputs: int, width: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        features = width // 2
        self.norm1 = nn.LayerNorm(inputs)
        self.kqv = nn.Linear(inputs, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, width)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("w", nn.init.orthogonal_(torch.empty(features, width)) * math.sqrt(features))

    def forward(self, x: Tensor) -> Tensor:
        k, q, v = self.kqv(self.norm1(x)).chunk(3, dim=-1)  # the official order
        x = v + self.dropout(self.proj(self.attend(q, k, v).to(v.dtype)))
        return x + self.dropout(self.mlp(self.norm2(x)))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Three times (M, N, width) to (M, N, width), in float32 at least, as the features span many powers
        of ten."""
        device = q.device.type
        has_autocast = torch.amp.is_autocast_available(device)  # the meta device has none
        with torch.autocast(device, enabled=False) if has_autocast else nullcontext():
            seen_from, seen = self.features(q), self.features(k)  # (M, N, m)
            total = seen.sum(dim=1)[:, :, None]  # (M, m, 1)
            return seen_from @ (seen.transpose(1, 2) @ v.to(seen.dtype)) / (seen_from @ total + EPSILON)

    def features(self, x: Tensor) -> Tensor:
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        w = self.w.to(x.dtype)
        return torch.exp(x @ w.T - x.square().sum(dim=-1, keepdim=True) / 2) / math.sqrt(len(w))


class SingleHeadAttention(nn.Module):
    """Softmax attention with one head, added to its own values: (M, N, inputs) to (M, N, width).

    The scores are divided by sqrt(inputs), not by sqrt(width), as in the official model.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(inputs, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q = q * math.sqrt(q.shape[-1] / x.shape[-1])  # `attend` divides by sqrt(width)
        return v + self.proj(attend(q, k, v))


class TokenTransformer(nn.Module):
    """The other choice for `Performer`: softmax attention, of a cost that is quadratic in N.

    Shape: x is (M, N, inputs); the result is (M, N, width).
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(inputs)
        self.attn = SingleHeadAttention(inputs, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def windows(
    maps: Tensor, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """Soft split: maps (M, C, H, W) to tokens (M, N, C*p*q), window by window, zero beyond the border."""
    return F.unfold(maps, kernel, stride=stride, padding=padding).transpose(1, 2)


def first_split(crop: int, tokens: int) -> tuple[int, int, int, int]:
    """Kernel, stride, padding and resulting side of the first soft split along `crop` pixels.

    224 px:  14 -> (7, 4, 2, 56)   10 -> (11, 6, 5, 38)   7 -> (14, 8, 3, 28)

    Each of the two later splits halves a side, rounding up, so that 4 * tokens - 3 to 4 * tokens windows make
    `tokens` tokens. The stride is the smallest whose 4 * tokens steps cover the crop, the kernel 7/4 of it,
    rounded up, as T2T-ViT's 7 of 4. As few windows are taken as cover the crop and are allowed, with the
    smallest padding on both sides that lets them fit.

    Raises:
        InputError: the stride is below 2, or the padding would leave windows without a pixel.
    """
    stride = math.ceil(crop / (4 * tokens))
    kernel = math.ceil(7 * stride / 4)
    side = max(math.ceil(crop / stride), 4 * tokens - 3)
    padding = math.ceil(((side - 1) * stride + kernel - crop) / 2)
    if stride < 2 or padding >= kernel:
        raise InputError(f"windows of stride {stride} cannot make {tokens} tokens of {crop} px")
    return kernel, stride, padding, side


class T2TStem(nn.Module):
    """The tokens-to-token module of one level; levels differ in the first soft split and own all weights.

    Args:
        kind: the attention between the splits, "performer" or "transformer".
        token_dim: its width.
        dropout: of the performer in training; the transformer has none, as in the official models.

    Shape: clips (B, C, T, H, W) to tokens (B, T, S, D).

    Raises:
        InputError: `first_split` has no way to the grid; the message lists what it can make of the crop.
    """

    def __init__(
        self,
        dim: int,
        grid: TokenGrid,
        crop: tuple[int, int],
        *,
        kind: str = "performer",
        token_dim: int = 64,
        channels: int = 3,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if kind not in ("performer", "transformer"):
            raise InputError(f"kind is {kind!r}, but must be one of: performer, transformer")
        sides = zip(crop, (grid.height, grid.width), strict=True)
        splits = [split_side(first_split, pixels, tokens, stem="T2T-ViT") for pixels, tokens in sides]
        self.kernel, self.stride, self.padding, self.side = zip(*splits, strict=True)
        inputs = channels * self.kernel[0] * self.kernel[1]
        if kind == "performer":
            self.attention1 = Performer(inputs, token_dim, dropout=dropout)
            self.attention2 = Performer(9 * token_dim, token_dim, dropout=dropout)
        else:
            self.attention1 = TokenTransformer(inputs, token_dim)
            self.attention2 = TokenTransformer(9 * token_dim, token_dim)
        self.project = nn.Linear(9 * token_dim, dim)

    def forward(self, clips: Tensor) -> Tensor:
        frames = clips.transpose(1, 2)  # (B, T, C, H, W)
        tokens = windows(frames.flatten(0, 1), self.kernel, self.stride, self.padding)
        tokens = self.attention1(tokens)  # (B*T, N, token_dim)
        tokens = self.attention2(self._resplit(tokens, self.side))
        half = tuple(math.ceil(side / 2) for side in self.side)
        return self.project(self._resplit(tokens, half)).unflatten(0, frames.shape[:2])

    @staticmethod
    def _resplit(tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """Tokens (M, h*w, C) as a map, and that in windows again: (M, h/2 * w/2, 9*C)."""
        return windows(tokens.transpose(1, 2).unflatten(2, size), (3, 3), (2, 2), (1, 1))

    @torch.no_grad()
    def grow_from(self, other: "T2TStem") -> None:
        """All is copied but what reads the windows of the first split, where these differ in size.

        There the scale and the shift of the norm are resized as the pictures they are multiplied with and
        added to, and the rows of the linear map behind it as the patch kernels they are (FlexiViT's
        pseudo-inverse, arXiv:2212.08013). So an enlarged window gives nearly the same keys, queries and
        values, and the very same ones where it is of one colour.
        """
        state = other.state_dict()
        if self.kernel != other.kernel:
            kqv = "kqv" if isinstance(self.attention1, Performer) else "attn.qkv"
            weight = state[f"attention1.{kqv}.weight"].unflatten(
                1, (-1, *other.kernel)
            )  # (3 * width, C, p, q)
            state[f"attention1.{kqv}.weight"] = resample_patch_embed(weight, list(self.kernel)).flatten(1)
            for name in ("attention1.norm1.weight", "attention1.norm1.bias"):
                picture = state[name].unflatten(0, (1, -1, *other.kernel))
                picture = F.interpolate(picture, self.kernel, mode="bicubic", antialias=True)
                state[name] = picture.flatten()
        self.load_state_dict(state)
