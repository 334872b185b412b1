"""ReViT: one transformer that runs at several token lengths (arXiv:2307.02092, section 3).

clips (B, C, T, H, W) -> patch embedding of the level -> blocks -> LengthNorm -> heads -> logits (B, K)

Every level owns a patch embedding, a spatial position table, a row in every LengthNorm and, below the
longest, a distillation token. All else is shared.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from einops import rearrange
from timm.layers import resample_patch_embed
from torch import Tensor, nn

from revit_video.layers.block import BLOCKS
from revit_video.layers.length_norm import LengthNorm
from revit_video.layers.patch_embed import build_patch_embed
from revit_video.layers.positions import resize_grid_table, sine_grid, sine_table
from revit_video.types import InputError, TokenGrid

POS_INITS = ("normal", "sine")


@dataclass(frozen=True)
class Outputs:
    """Everything a training step may read of one forward pass."""

    logits: Tensor  # (B, K), of the class token
    distill_logits: Tensor | None  # (B, K), of the distillation token; None at the longest level
    features: (
        Tensor | None
    )  # (B, T, h, w, D), patches after the last norm; None where only the class token was computed
    looks: Tensor | None = (
        None  # (B, A, T, h, w), where the class token looks in the last block, if asked for
    )


def token_grids(
    token_lengths: tuple[int, ...], *, num_frames: int, crop: tuple[int, int]
) -> tuple[TokenGrid, ...]:
    """The grid of each level: `length` patches along the short side of the crop, as many as fit along the
    long one.
    """
    if any(a <= b for a, b in pairwise(token_lengths)) or not token_lengths or min(token_lengths) < 1:
        raise InputError(
            f"token_lengths are {list(token_lengths)}, but must be positive and fall, such as [14, 10, 7]"
        )
    short = min(crop)
    if token_lengths[0] > short // 4:
        raise InputError(
            f"token length {token_lengths[0]} leaves patches below 4 px in a crop of {short} px; "
            f"the crop allows lengths up to {short // 4}"
        )
    return tuple(
        TokenGrid(num_frames, round(length * crop[0] / short), round(length * crop[1] / short), level)
        for level, length in enumerate(token_lengths)
    )


class ReViT(nn.Module):
    """A backbone whose token length is an argument of `forward`.

    Args:
        num_classes: K.
        token_lengths: patches along the short side of a frame, longest first.
        num_frames: frames of a clip, T; 1 makes it an image model.
        crop: pixels of a frame, one number for a square or (height, width).
        dim, depth, heads, mlp_ratio: the trunk. `attention`: a key of layers.block.BLOCKS.
        patch_embed: `conv` or `resize`, see layers.patch_embed.
        distill_token: levels below the longest carry a distillation token with its own head; prediction is
            the mean of both heads.
        pos_init: `normal` (std 0.02; time table zero, as the official model) or `sine` (learns far sooner
            from scratch).
        zero_time_init: the time attention's last layer starts at zero, as the official model's, so that an
            image model's
            weights start as they were; from scratch False learns sooner.
        init_scale: linear weights start with std `init_scale / sqrt(inputs)`; None is the official std of
            0.02, which suits wide
            trunks (at width 768 it is 0.55 / sqrt(768)) and is far too small for narrow ones.
        center_clips: take each pixel's mean over the clip away first, so that what stands still vanishes.
            Small models learn
            motion several times faster so (docs/demo.md); official weights were trained without it.
        class_token_only: the last block computes only what the heads read. Same logits, fewer multiply-adds.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        token_lengths: tuple[int, ...] = (14, 10, 7),
        num_frames: int = 8,
        crop: int | tuple[int, int] = 224,
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        mlp_ratio: float = 4.0,
        attention: str = "divided",
        patch_embed: str = "conv",
        distill_token: bool = True,
        drop_path: float = 0.0,
        pos_init: str = "normal",
        zero_time_init: bool = True,
        init_scale: float | None = None,
        center_clips: bool = False,
        class_token_only: bool = False,
    ) -> None:
        super().__init__()
        for name, value, known in (("attention", attention, BLOCKS), ("pos_init", pos_init, POS_INITS)):
            if value not in known:
                raise InputError(f"{name} is {value!r}, but must be one of: {', '.join(known)}")
        self.crop = (crop, crop) if isinstance(crop, int) else tuple(crop)
        self.token_lengths = tuple(token_lengths)
        self.grids = token_grids(self.token_lengths, num_frames=num_frames, crop=self.crop)
        self.num_classes, self.num_frames, self.pos_init = num_classes, num_frames, pos_init
        students = len(self.grids) - 1 if distill_token else 0

        self.patch_embeds = nn.ModuleList(
            build_patch_embed(patch_embed, dim, grid, crop=self.crop, longest=self.grids[0])
            for grid in self.grids
        )
        self.class_token = nn.Parameter(torch.zeros(dim))
        self.pos_tables = nn.ParameterList(
            nn.Parameter(torch.zeros(1 + g.per_frame, dim)) for g in self.grids
        )
        self.time_table = nn.Parameter(torch.zeros(num_frames, dim)) if num_frames > 1 else None
        self.distill_tokens = nn.Parameter(torch.zeros(students, dim)) if students else None
        self.blocks = nn.ModuleList(
            BLOCKS[attention](
                dim,
                heads,
                mlp_ratio=mlp_ratio,
                num_levels=len(self.grids),
                drop_path_rate=drop_path * i / max(1, depth - 1),  # the later, the likelier
                prefix_only=class_token_only and i == depth - 1,
            )
            for i in range(depth)
        )
        self.norm = LengthNorm(dim, len(self.grids))
        self.head = nn.Linear(dim, num_classes)
        self.head_distill = nn.Linear(dim, num_classes) if students else None
        self.center_clips = center_clips
        self._init_weights(pos_init=pos_init, zero_time_init=zero_time_init, init_scale=init_scale)

    @property
    def num_levels(self) -> int:
        return len(self.grids)

    def level_of(self, token_length: int) -> int:
        """The level of a token length; an error that lists the lengths where there is none."""
        if token_length not in self.token_lengths:
            raise InputError(
                f"token length {token_length} is not one of this model's: {list(self.token_lengths)}"
            )
        return self.token_lengths.index(token_length)

    def forward(
        self, clips: Tensor, level: int = 0, *, full_output: bool = False, with_looks: bool = False
    ) -> Tensor | Outputs:
        """Logits (B, K) of clips (B, C, T, H, W) at one level; the mean of both heads where there are two.

        `full_output` returns the heads apart, with the last features and, `with_looks`, the class token's
        attention, for training (through `forward`, so that wrappers such as DistributedDataParallel see the
        call).
        """
        grid = self.grids[level]
        x, prefix = self.embed(clips, grid)
        looks: list[Tensor] = []
        for block in self.blocks:
            last = block is self.blocks[-1]
            x = block(x, grid, prefix=prefix, looks=looks if with_looks and last else None)
        x = self.norm(x, level)
        features = None
        if x.shape[1] > prefix:
            features = rearrange(x[:, prefix:], "b (t h w) d -> b t h w d", t=grid.frames, h=grid.height)
        distill_logits = self.head_distill(x[:, 1]) if prefix == 2 else None
        out = Outputs(self.head(x[:, 0]), distill_logits, features, *looks)
        if full_output:
            return out
        return out.logits if distill_logits is None else (out.logits + distill_logits) / 2

    def embed(self, clips: Tensor, grid: TokenGrid) -> tuple[Tensor, int]:
        """Tokens (B, P + T*S, D) with all position codes added, and the number P of prefix tokens."""
        batch, _, frames, height, width = clips.shape
        if (frames, height, width) != (grid.frames, *self.crop):
            raise InputError(
                f"the clip has {frames} frames of {height}x{width} px, but this model takes "
                f"{grid.frames} of {self.crop[0]}x{self.crop[1]}"
            )
        if self.center_clips:
            clips = clips - clips.mean(dim=2, keepdim=True)
        tokens = self.patch_embeds[grid.level](clips.transpose(1, 2).flatten(0, 1)).unflatten(
            0, (batch, frames)
        )
        table = self.pos_tables[grid.level]
        tokens = tokens + table[1:].to(tokens.dtype)  # (B, T, S, D)
        if self.time_table is not None:
            tokens = tokens + self.time_table[:, None].to(tokens.dtype)
        prefix = [self.class_token + table[0]]
        if self.distill_tokens is not None and grid.level > 0:
            prefix.append(self.distill_tokens[grid.level - 1])
        head = torch.stack(prefix).to(tokens.dtype).expand(batch, -1, -1)
        return torch.cat([head, tokens.flatten(1, 2)], dim=1), len(prefix)

    @torch.no_grad()
    def grow(self, source: int) -> None:
        """Start every other level from a trained one: kernels by pseudo-inverse resampling, tables bicubic,
        norms copied.
        """
        for grid in self.grids:
            if grid.level == source:
                continue
            theirs, ours = self.patch_embeds[source].proj, self.patch_embeds[grid.level].proj
            ours.weight.copy_(resample_patch_embed(theirs.weight, list(ours.weight.shape[-2:])))
            ours.bias.copy_(theirs.bias)
            self.pos_tables[grid.level].copy_(
                resize_grid_table(self.pos_tables[source], self.grids[source], grid)
            )
            if self.distill_tokens is not None and source > 0 and grid.level > 0:
                self.distill_tokens[grid.level - 1] = self.distill_tokens[source - 1]
        for module in self.modules():
            if isinstance(module, LengthNorm):
                for grid in self.grids:
                    module.copy_level(source, grid.level)

    @torch.no_grad()
    def _init_weights(self, *, pos_init: str, zero_time_init: bool, init_scale: float | None) -> None:
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                std = (
                    0.02
                    if init_scale is None or name.startswith("head")
                    else init_scale * module.in_features**-0.5
                )
                nn.init.trunc_normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
                if zero_time_init and name.endswith("time.fc"):
                    nn.init.zeros_(module.weight)
        nn.init.trunc_normal_(self.class_token, std=0.02)
        if self.distill_tokens is not None:
            nn.init.trunc_normal_(self.distill_tokens, std=0.02)
        for grid, table in zip(self.grids, self.pos_tables, strict=True):
            nn.init.trunc_normal_(table, std=0.02)
            if pos_init == "sine":
                table[1:] = sine_grid(grid, table.shape[1])
        if pos_init == "sine" and self.time_table is not None:
            self.time_table.copy_(sine_table(torch.arange(self.num_frames), self.time_table.shape[1]))
