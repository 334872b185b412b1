"""What a model costs, from the numbers of its architecture alone: nothing is run, traced or built.

One function per kind of block and per patch embedding; `transformer` adds them up. Letters as everywhere: D
width, A heads, t planes of tokens (frames or tubelets), S patches of a plane, P prefix tokens, K classes.

Counted are multiply-adds of matrix products, convolutions and both products of attention; norms, softmax,
activations, biases, resizing are free. A layer from a to b features costs a * b for each token; attention of
Nq queries over Nk keys costs Nq * Nk * D for its scores and as much for the sum of the values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil, prod

from revit_video.types import InputError


@dataclass(frozen=True)
class Macs:
    """Multiply-adds in two parts: `linear` layers and convolutions, and the products of `attention`."""

    linear: int = 0
    attention: int = 0

    @property
    def total(self) -> int:
        return self.linear + self.attention

    def __add__(self, other: Macs) -> Macs:
        return Macs(self.linear + other.linear, self.attention + other.attention)

    def __mul__(self, times: int) -> Macs:
        return Macs(self.linear * times, self.attention * times)


@dataclass(frozen=True)
class Tokens:
    """What the cost of a block depends on: P + t * S tokens, D wide, in A heads."""

    dim: int
    heads: int
    hidden: int  # width inside the MLP
    frames: int  # planes of tokens, t
    patches: int  # of a plane, S
    prefix: int = 1  # 2 with a distillation token

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise InputError(
                f"dim={self.dim} cannot be split over heads={self.heads}; expected a divisor of dim"
            )

    @property
    def grid(self) -> int:
        return self.frames * self.patches

    def as_tokens(self) -> Tokens:
        """The same tokens without frames, each on its own."""
        return replace(self, frames=1, patches=self.grid)

    @property
    def all(self) -> int:
        return self.prefix + self.grid


# Blocks. `prefix_only`: a last block that computes the prefix tokens alone.


def joint(n: Tokens, *, prefix_only: bool = False) -> Macs:
    """Every token asks every token (ViT, arXiv:2010.11929, section 3.1)."""
    asking = n.prefix if prefix_only else n.all
    return _attention(n.dim, asking, n.all) + _mlp(n, asking)


def space_only(n: Tokens, *, prefix_only: bool = False) -> Macs:
    """A ViT on each frame (TimeSformer, arXiv:2102.05095, section 3)."""
    one = Tokens(n.dim, n.heads, n.hidden, 1, n.patches, n.prefix)
    return joint(one, prefix_only=prefix_only) * n.frames


def divided(n: Tokens, *, prefix_only: bool = False) -> Macs:
    """TimeSformer (arXiv:2102.05095, section 3): each patch over time and a layer after it, then each frame
    with the prefix in front of it, then the MLP, on one prefix for all frames.
    """
    time = _attention(n.dim, n.frames, n.frames) * n.patches + Macs(n.grid * n.dim**2)
    keys = n.prefix + n.patches
    space = _attention(n.dim, n.prefix if prefix_only else keys, keys) * n.frames
    return time + space + _mlp(n, n.prefix if prefix_only else n.all)


def mf_divided(n: Tokens, *, prefix_only: bool = False) -> Macs:
    """Motionformer's "divided" (arXiv:2106.05392, section 4): in both steps the prefix asks all tokens, a
    patch the prefix and its group.
    """
    time = _projections(n.dim, n.all, n.all) + _products(n.dim, n.prefix, n.all)
    time += _products(n.dim, n.grid, n.prefix + n.frames)
    if prefix_only:
        return time + _attention(n.dim, n.prefix, n.all) + _mlp(n, n.prefix)
    space = _projections(n.dim, n.all, n.all) + _products(n.dim, n.prefix, n.all)
    space += _products(n.dim, n.grid, n.prefix + n.patches)
    return time + space + _mlp(n, n.all)


def trajectory(
    n: Tokens, *, prefix_only: bool = False, mode: str = "original", landmarks: int | None = None
) -> Macs:
    """Motionformer (arXiv:2106.05392, section 3.2), as layers/trajectory.py computes it.

    Step 1: each patch asks every frame apart: all patches in all. Step 2, along the t summaries of a patch:
    its query is projected (D * D), multiplied with each head's part of W_k (D * D), and met with the t
    summaries, all D channels in every head (A * t * D). Then each head sums its own channels over the frames
    (t * D); in the mode "fixed" it sums all D channels (A * t * D) and takes its values after that (D * D).
    """
    if prefix_only:
        return joint(n, prefix_only=True)
    head = _projections(n.dim, n.all, n.all) + _products(n.dim, n.prefix, n.all)
    step1 = _products(n.dim, n.grid, n.grid) if landmarks is None else _orthoformer(n, landmarks)
    scores = n.heads * n.frames * n.dim
    if mode == "fixed":
        step2 = Macs(3 * n.dim**2, 2 * scores) * n.grid
    else:
        step2 = Macs(2 * n.dim**2, scores + n.frames * n.dim) * n.grid
    return head + step1 + step2 + _mlp(n, n.all)


def trajectory_as_published(n: Tokens) -> Macs:
    """The same block as the authors compute it: keys and values made of all t summaries of every patch, in
    the last block too. For the comparison in docs/costs.md.
    """
    head = _projections(n.dim, n.all, n.all) + _products(n.dim, n.prefix, n.all)
    step2 = Macs((1 + 2 * n.frames) * n.dim**2, 2 * n.frames * n.dim) * n.grid
    return head + _products(n.dim, n.grid, n.grid) + step2 + _mlp(n, n.all)


def _orthoformer(n: Tokens, landmarks: int) -> Macs:
    """Step 1 through M landmarks (arXiv:2106.05392, section 3.3): each of the first M - 1 is compared with
    all queries to pick the next; queries meet landmarks, landmarks meet keys and sum values, queries sum
    these in each frame.
    """
    marks = min(landmarks, n.grid)
    return Macs(0, n.grid * n.dim * (marks - 1 + (3 + n.frames) * marks))


def _attention(dim: int, asking: int, keys: int) -> Macs:
    return _projections(dim, asking, keys) + _products(dim, asking, keys)


def _projections(dim: int, asking: int, keys: int) -> Macs:
    return Macs(2 * (asking + keys) * dim**2)  # queries and the layer after; keys and values


def _products(dim: int, asking: int, keys: int) -> Macs:
    return Macs(0, 2 * asking * keys * dim)


def _mlp(n: Tokens, tokens: int) -> Macs:
    return Macs(2 * tokens * n.dim * n.hidden)


# Patch embeddings, of a whole clip.


def patch_stem(n: Tokens, *, patch: tuple[int, int], tubelet: int = 1, channels: int = 3) -> Macs:
    """A linear map of patches, or of tubelets of several frames."""
    return Macs(n.grid * channels * tubelet * prod(patch) * n.dim)


def lv_stem(n: Tokens, *, crop: tuple[int, int], patch: tuple[int, int], width: int) -> Macs:
    """LV-ViT (arXiv:2104.10858): 7x7, 3x3 and 3x3 convolutions at half resolution, then patches of that."""
    half = prod(ceil(side / 2) for side in crop)
    maps = n.frames * half * (7 * 7 * 3 * width + 2 * 3 * 3 * width**2)
    return Macs(maps) + patch_stem(n, patch=patch, channels=width)


def conv_stem(n: Tokens, *, crop: tuple[int, int], patch: tuple[int, int], widths: Sequence[int]) -> Macs:
    """Early convolutions (arXiv:2106.14881): 3x3 ones, each at half the side of the one before, then patches
    of the last map.
    """
    total, before, sides = 0, 3, crop
    for width in widths:
        sides = tuple(ceil(side / 2) for side in sides)
        total, before = total + prod(sides) * 3 * 3 * before * width, width
    return Macs(n.frames * total) + patch_stem(n, patch=patch, channels=before)


def t2t_stem(n: Tokens, *, kernel: tuple[int, int], side: tuple[int, int], width: int, kind: str) -> Macs:
    """T2T-ViT (arXiv:2101.11986, section 3.1): windows, attention, windows of half the side, attention,
    windows of half of that, linear. `kernel` and `side` (windows along the picture) are of the first.
    """
    stage = {"performer": _performer, "transformer": _token_transformer}[kind]
    first = stage(prod(side), 3 * prod(kernel), width)
    second = stage(prod(ceil(windows / 2) for windows in side), 9 * width, width)
    return (first + second) * n.frames + Macs(n.grid * 9 * width * n.dim)


def _performer(tokens: int, inputs: int, width: int) -> Macs:
    """Random features (arXiv:2009.14794), m = width / 2 of them, of keys and queries; features of keys times
    values, and features of queries times that and times the sum of the keys'.
    """
    features = width // 2
    linear = inputs * 3 * width + 2 * width * features + 3 * width**2  # kqv, features, proj and MLP
    return Macs(linear, 2 * features * width + features) * tokens


def _token_transformer(tokens: int, inputs: int, width: int) -> Macs:
    return Macs(inputs * 3 * width + 3 * width**2, 2 * tokens * width) * tokens


def shortened(whole: Macs, n: Tokens, left: Tokens) -> Macs:
    """A block that costs `whole` on n tokens, but has fewer `left` in its MLP."""
    return whole + Macs(2 * (left.all - n.all) * n.dim * n.hidden)


# What an exit of DVT reuses of the one before (arXiv:2105.15075, section 3.2); `u` are the tokens there.


def feature_reuse(n: Tokens, u: Tokens, *, inside: int, context: int) -> Macs:
    """Of one block: an MLP from a token to `context` channels, and these beside each token of the block's own
    MLP.
    """
    return Macs(u.grid * inside * (u.dim + context) + n.all * context * n.hidden)


def relation_reuse(u: Tokens, *, depth: int) -> Macs:
    """Two layers over the scores of all heads of `depth` blocks, thrice as wide in between."""
    maps = depth * u.heads
    return Macs(u.all**2 * 6 * maps**2)


# Whole models.


def transformer(
    block: Callable[..., Macs],
    n: Tokens,
    *,
    depth: int,
    num_classes: int,
    stem: Macs,
    prefix_only: bool = False,
    pre_logits: bool = False,
    aux_tokens: int = 0,
    blocks: Macs | None = None,
) -> Macs:
    """Patch embedding, `depth` blocks of one kind and the heads, one for each prefix token.

    Args:
        block: one of the functions above (`functools.partial` ties options to it).
        prefix_only: the last block computes the prefix tokens alone.
        pre_logits: a layer of D to D features in front of the heads.
        aux_tokens: how many patches a further head reads (LV-ViT: all).
        blocks: all blocks together, where they are not alike.
    """
    if blocks is None:
        blocks = block(n) * (depth - 1) + (block(n, prefix_only=True) if prefix_only else block(n))
    heads = (n.prefix + aux_tokens) * n.dim * num_classes + pre_logits * n.prefix * n.dim**2
    return stem + blocks + Macs(heads)
