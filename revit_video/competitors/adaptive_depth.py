"""Adaptive depth: one backbone with a head after some of its blocks, left at the first sure answer. The
comparison of DVT (arXiv:2105.15075, Table 10) that varies the number of blocks and not of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from revit_video.backbones import zoo
from revit_video.backbones.costs import closed_form_macs, patch_embed_macs, tokens_of
from revit_video.competitors.cascade import Cascade
from revit_video.layers.block import JointBlock
from revit_video.report.closed_forms import Macs, joint
from revit_video.types import InputError


class DepthPassed:
    """Tokens (B, N, D) between two exits."""

    def __init__(self, tokens: Tensor) -> None:
        self.tokens = tokens

    def rows(self, index: Tensor) -> DepthPassed:
        """Of some of the pictures."""
        return DepthPassed(self.tokens[index])


class AdaptiveDepth(Cascade):
    """A ViT of one token length, on images (B, 3, 1, H, W), with exits on the way.

    Level 0, the last exit, is the whole backbone.

    Args:
        backbone: a name of backbones.zoo, of an image model with joint attention.
        token_lengths: one length.
        exit_blocks: after how many blocks an exit stands, rising, the last one the depth; (): thirds of it.
        distill_token: is there for the settings' sake; one length has no such token.
    """

    def __init__(
        self,
        backbone: str = "deit_small",
        *,
        token_lengths: Sequence[int] = (14,),
        exit_blocks: Sequence[int] = (),
        distill_token: bool = False,
        **trunk,
    ) -> None:
        super().__init__()
        if len(token_lengths) != 1:
            raise InputError(
                f"adaptive depth has one token length, not {list(token_lengths)}; give the longest, "
                "such as [14]"
            )
        model = zoo.create_model(backbone, token_lengths=tuple(token_lengths), distill_token=False, **trunk)
        depth = len(model.blocks)
        ends = tuple(exit_blocks) or tuple(sorted({max(1, depth * i // 3) for i in (1, 2, 3)}))
        if any(a >= b for a, b in pairwise((0, *ends))) or ends[-1] != depth or len(ends) < 2:
            raise InputError(
                f"exit_blocks are {list(ends)}, but must rise and end with the depth, {depth}; give at "
                "least two"
            )
        plain = all(type(block) is JointBlock and not block.prefix_only for block in model.blocks)
        if not plain or model.first_distilled == 0 or model.aux_head is not None:
            raise InputError(f"{backbone} has more heads or other blocks; try deit_small or t2t_vit_12")
        self.backbone, self.ends = model, ends
        self.norms = nn.ModuleList(
            nn.LayerNorm(model.class_token.numel(), eps=model.norm.eps) for _ in ends[:-1]
        )
        self.heads = nn.ModuleList(nn.Linear(model.class_token.numel(), model.num_classes) for _ in ends[:-1])
        for head in self.heads:
            nn.init.trunc_normal_(head.weight, std=0.02)
            nn.init.zeros_(head.bias)
        self.token_lengths = model.token_lengths * len(ends)
        self.grids = tuple(model.grids[0] for _ in ends)
        self.num_classes, self.num_frames, self.crop = model.num_classes, model.num_frames, model.crop

    def step(self, exit: int, clips: Tensor, passed: DepthPassed | None) -> tuple[Tensor, DepthPassed]:
        """From one exit to the next, counted from 0: its logits (B, K), and the tokens at it."""
        model, grid = self.backbone, self.backbone.grids[0]
        x = model.embed(clips, grid)[0] if passed is None else passed.tokens
        start = self.ends[exit - 1] if exit else 0
        for block in model.blocks[start : self.ends[exit]]:
            x = block(x, grid, prefix=1)
        if exit == self.num_exits - 1:
            return model.read(model.norm(x, 0), 1, grid).prediction(), DepthPassed(x)
        return self.heads[exit](self.norms[exit](x[:, 0])), DepthPassed(x)

    def closed_form(self, level: int = 0) -> Macs:
        """Multiply-adds up to an exit; with `forward`, which asks every head on the way."""
        n, last = tokens_of(self.backbone, 0), self.num_exits - level
        whole = closed_form_macs(self.backbone) + Macs((self.num_exits - 1) * n.dim * self.num_classes)
        unseen = Macs((self.num_exits - last) * n.dim * self.num_classes)
        unrun = joint(n) * (self.ends[-1] - self.ends[last - 1]) + unseen
        return Macs(whole.linear - unrun.linear, whole.attention - unrun.attention)

    def patch_embed_form(self, level: int = 0) -> Macs:
        return patch_embed_macs(self.backbone, 0)
