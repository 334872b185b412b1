"""DVT: a cascade of transformers with more tokens each, left at the first sure answer (arXiv:2105.15075).

    exit 1: 7x7 tokens -> sure? -> exit 2: 10x10 tokens -> sure? -> exit 3: 14x14 tokens

Every exit is a whole backbone with its own weights on the same picture. From the one before it takes two
things, without which the tokens already paid for would be lost (section 3.2):

    feature reuse       every block has an MLP of its own that makes 48 channels of the tokens the exit
                        before ended with; they are resized to the grid and stand beside each token in the
                        block's MLP
    relationship reuse  a network on the scores (before softmax) of all heads and blocks of the exit before;
                        its maps, resized along both axes, are added to the scores of each head and block

Facts from the paper and official outputs; own code. `adaptive_depth.py` has the paper's comparison.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from revit_video.backbones import zoo
from revit_video.backbones.core import ReViT
from revit_video.backbones.costs import closed_form_macs, patch_embed_macs, tokens_of
from revit_video.competitors.cascade import Cascade
from revit_video.layers.attention import attend
from revit_video.layers.block import JointBlock
from revit_video.report.closed_forms import Macs, feature_reuse, relation_reuse
from revit_video.types import InputError, TokenGrid

CONTEXT, HIDDEN = 48, 128  # channels that feature reuse adds to a token, and inside its MLP


@dataclass(frozen=True)
class Passed:
    """What an exit hands on: its last tokens (B, 1 + S, D) before the last norm, and the scores of all its
    blocks and heads, (B, 1 + S, 1 + S, L*A), block by block; None where nobody reuses them.
    """

    tokens: Tensor
    scores: Tensor | None = None

    def rows(self, index: Tensor) -> Passed:
        """Of some of the pictures."""
        scores = None if self.scores is None else self.scores.index_select(0, index)
        return Passed(self.tokens.index_select(0, index), scores)


@cache
def sources(before: int, after: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[float, ...]]:
    """How a row of `before` places becomes one of `after` more: the two places each new one is made of, and
    the share of the second.

    The rule is nearest neighbour to twice the size, then means over equal parts (adaptive pooling). As
    `after` is larger, a mean reaches over two places at most.
    """
    first, second, shares = [], [], []
    for i in range(after):
        seen = [j // 2 for j in range(2 * before * i // after, math.ceil(2 * before * (i + 1) / after))]
        first.append(seen[0])
        second.append(seen[-1])
        shares.append(sum(j != seen[0] for j in seen) / len(seen))
    return tuple(first), tuple(second), tuple(shares)


def resize_places(x: Tensor, axis: int, before: TokenGrid, grid: TokenGrid) -> Tensor:
    """`axis` of x, the class token and the places of a grid, with the places of a larger grid.

    Copies of whole rows and means of two of them, first of the rows of the grid, then of its columns: an
    interpolation of pictures would move 4 times the numbers.
    """
    rows, columns = sources(before.height, grid.height), sources(before.width, grid.width)
    made = [(r, range(before.width), before.width) for r in rows[:2]]
    x = _mean_of_two(x, axis, made, [share for share in rows[2] for _ in range(before.width)])
    made = [(range(grid.height), c, before.width) for c in columns[:2]]
    return _mean_of_two(x, axis, made, list(columns[2]) * grid.height)


def _mean_of_two(x: Tensor, axis: int, made: Sequence[tuple], shares: list[float]) -> Tensor:
    """Per place of a grid the mean of two, each given by rows, columns and width of the grid it is in."""
    index = [[0, *(1 + r * width + c for r in rows for c in columns)] for rows, columns, width in made]
    first = x.index_select(axis, torch.tensor(index[0], device=x.device))
    if not any(shares):
        return first
    second = x.index_select(axis, torch.tensor(index[1], device=x.device))
    share = torch.tensor([0.0, *shares], dtype=x.dtype, device=x.device)
    return torch.lerp(first, second, share.view(-1, *(1,) * (x.ndim - 1 - axis)))


class FeatureReuse(nn.Module):
    """Context of one block: tokens (B, 1 + S, D) of the exit before to (B, 1 + S', 48), zero for the class
    token.
    """

    def __init__(self, dim: int, *, eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.fc1 = nn.Linear(dim, HIDDEN)
        self.fc2 = nn.Linear(HIDDEN, CONTEXT)

    def forward(self, tokens: Tensor, before: TokenGrid, grid: TokenGrid) -> Tensor:
        made = self.fc2(F.gelu(self.fc1(self.norm(tokens[:, 1:].contiguous()))))
        return resize_places(F.pad(made, (0, 0, 1, 0)), 1, before, grid)


class RelationReuse(nn.Module):
    """Scores (B, 1 + S, 1 + S, L*A) of the exit before to as many maps of what is added to ours."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(maps, 3 * maps)  # 1x1 convolutions over the maps
        self.fc2 = nn.Linear(3 * maps, maps)

    def forward(self, scores: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(scores)))

    @staticmethod
    def enlarge(maps: Tensor, before: TokenGrid, grid: TokenGrid) -> Tensor:
        """Maps of one block, (B, 1 + S, 1 + S, A), at the size of its scores: (B, A, 1 + S', 1 + S').

        Block by block, so that what is written is read again before it leaves the cache.
        """
        maps = maps.permute(0, 3, 2, 1).contiguous()  # keys before queries: rows of memory to copy
        maps = resize_places(maps, 2, before, grid).transpose(2, 3).contiguous()
        return resize_places(maps, 2, before, grid)


class Exit(nn.Module):
    """One backbone of the cascade, with what it needs to reuse the one before."""

    def __init__(self, backbone: ReViT, *, features: bool, relations: bool) -> None:
        super().__init__()
        self.backbone = backbone
        dim, depth = backbone.class_token.numel(), len(backbone.blocks)
        self.features = self.relations = None
        if features:
            eps = backbone.norm.eps
            self.features = nn.ModuleList(FeatureReuse(dim, eps=eps) for _ in range(depth))
        if relations:
            self.relations = RelationReuse(depth * backbone.blocks[0].attn.heads)
        for own in (self.features, self.relations):
            for layer in own.modules() if own is not None else ():
                if isinstance(layer, nn.Linear):
                    nn.init.trunc_normal_(layer.weight, std=0.02)
                    nn.init.zeros_(layer.bias)

    def forward(
        self, clips: Tensor, passed: Passed | None, before: TokenGrid | None, *, keep_scores: bool
    ) -> tuple[Tensor, Passed]:
        """Logits (B, K) and what the next exit may reuse."""
        backbone, grid = self.backbone, self.backbone.grids[0]
        x, _ = backbone.embed(clips, grid)
        depth, kept = len(backbone.blocks), []
        relations = None if self.relations is None else self.relations(passed.scores).chunk(depth, dim=3)
        for i, block in enumerate(backbone.blocks):
            context = added = None
            if relations is not None:
                added = self.relations.enlarge(relations[i], before, grid)
            if self.features is not None:
                context = self.features[i](passed.tokens, before, grid)
            x, scores = run_block(block, x, added, context, keep_scores=keep_scores)
            kept.append(scores)
        logits = backbone.read(backbone.norm(x, 0), 1, grid).prediction()
        if not keep_scores:
            return logits, Passed(x)
        return logits, Passed(x, torch.cat([scores.permute(0, 2, 3, 1) for scores in kept], dim=3))

    def closed_form(self, before: ReViT | None) -> Macs:
        """Multiply-adds of this exit alone."""
        macs = closed_form_macs(self.backbone)
        n, depth = tokens_of(self.backbone, 0), len(self.backbone.blocks)
        if self.features is not None:
            macs += feature_reuse(n, tokens_of(before, 0), inside=HIDDEN, context=CONTEXT) * depth
        if self.relations is not None:
            macs += relation_reuse(tokens_of(before, 0), depth=depth)
        return macs


def run_block(
    block: JointBlock, x: Tensor, added: Tensor | None, context: Tensor | None, *, keep_scores: bool
) -> tuple[Tensor, Tensor | None]:
    """A block with `added` (B, A, N, N) to its scores and `context` (B, N, 48) beside its tokens; and its
    scores, in numbers only where they are kept, as the fused kernel makes none.
    """
    q, k, v = block.attn.project(block.norm1(x, 0))
    scores = None
    if keep_scores:
        scores = q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)
        scores = scores if added is None else scores + added
        seen = scores.softmax(dim=-1) @ v
    else:
        seen = attend(q, k, v, added)
    x = x + block._drop(block.attn.proj(seen.transpose(1, 2).flatten(2)))
    wide = x if context is None else torch.cat([x, context.to(x.dtype)], dim=2)
    return x + block._drop(block.mlp(block.norm2(wide, 0))), scores


class DVT(Cascade):
    """The cascade on images (B, 3, 1, H, W).

    Level 0, the last exit, has the longest token length.

    Args:
        backbone: a name of backbones.zoo, of a model with joint attention on images.
        token_lengths: of the exits, longest first as everywhere; they run from the shortest to the longest.
        feature_reuse, relation_reuse: each off for the paper's ablation.
        distill_token: is there for the settings' sake; an exit has one length and so no such token.
        trunk: more arguments of the backbone.
    """

    def __init__(
        self,
        backbone: str = "deit_small",
        *,
        num_classes: int = 1000,
        token_lengths: Sequence[int] = (14, 10, 7),
        num_frames: int = 1,
        crop: int | tuple[int, int] = 224,
        feature_reuse: bool = True,
        relation_reuse: bool = True,
        distill_token: bool = False,
        **trunk,
    ) -> None:
        super().__init__()
        self.token_lengths = tuple(token_lengths)
        if len(self.token_lengths) < 2 or any(a <= b for a, b in pairwise(self.token_lengths)):
            raise InputError(
                f"token_lengths are {list(token_lengths)}; the exits of DVT run from the shortest length "
                "to the longest, at least two: give them longest first, as everywhere, such as [14, 10, 7]"
            )
        exits = []
        for i, length in enumerate(reversed(self.token_lengths)):
            own = dict(trunk)
            if i > 0 and feature_reuse:
                own["attention_options"] = {"context": CONTEXT, **own.get("attention_options", {})}
            model = zoo.create_model(
                backbone,
                num_classes=num_classes,
                token_lengths=(length,),
                num_frames=num_frames,
                crop=crop,
                distill_token=False,
                **own,
            )
            _check_backbone(model, backbone)
            exits.append(Exit(model, features=i > 0 and feature_reuse, relations=i > 0 and relation_reuse))
        self.exits = nn.ModuleList(exits)
        self.relation_reuse = relation_reuse
        first = exits[0].backbone
        self.num_classes, self.num_frames, self.crop = num_classes, num_frames, first.crop
        grids = [one.backbone.grids[0] for one in reversed(exits)]
        self.grids = tuple(TokenGrid(g.frames, g.height, g.width, level) for level, g in enumerate(grids))

    def step(self, exit: int, clips: Tensor, passed: Passed | None) -> tuple[Tensor, Passed]:
        """One exit, counted from 0, the shortest length: its logits (B, K), and what the next one needs."""
        before = self.exits[exit - 1].backbone.grids[0] if exit else None
        reused = self.relation_reuse and exit + 1 < self.num_exits
        return self.exits[exit](clips, passed, before, keep_scores=reused)

    def closed_form(self, level: int = 0) -> Macs:
        """Multiply-adds of all exits up to that of a level, together."""
        total, before = Macs(), None
        for one in self.exits[: self.num_exits - level]:
            total, before = total + one.closed_form(before), one.backbone
        return total

    def patch_embed_form(self, level: int = 0) -> Macs:
        """What of that is patch embeddings."""
        exits = self.exits[: self.num_exits - level]
        return sum((patch_embed_macs(one.backbone, 0) for one in exits), Macs())


def can_be_exit(model: ReViT) -> bool:
    """Whether a backbone works on images, by whole blocks of joint attention and a class token alone."""
    plain = all(type(block) is JointBlock and not block.prefix_only for block in model.blocks)
    return plain and model.num_frames == 1 and model.first_distilled != 0 and model.aux_head is None


def _check_backbone(model: ReViT, name: str) -> None:
    if not can_be_exit(model):
        raise InputError(
            f"DVT needs an image model with joint attention, a class token alone and whole blocks; {name} is "
            "not: try deit_small or t2t_vit_12"
        )
