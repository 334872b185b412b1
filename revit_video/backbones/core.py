"""ReViT: one transformer that runs at several token lengths (arXiv:2307.02092, section 3).

clips (B, C, T, H, W) -> patch embedding of the level -> blocks -> LengthNorm -> heads -> logits (B, K)

Every level owns a patch embedding, a spatial position table, a row in every LengthNorm and, below the
longest, a distillation token. All else is shared; the first three can be, to compare.
"""

from dataclasses import replace
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from revit_video.backbones.outputs import Outputs
from revit_video.backbones.reduced import check_reducer, through_fewer
from revit_video.layers.block import Trunk
from revit_video.layers.blocks import build_block
from revit_video.layers.length_norm import LengthNorm
from revit_video.layers.positions import SHARINGS, PositionTables, sine_grid, sine_sequence, sine_table
from revit_video.layers.reduce import Reduction, TokenState
from revit_video.layers.stems import build_stems
from revit_video.types import InputError, TokenGrid

POS_INITS = ("normal", "sine", "sine_1d")
ACTIVATIONS = {"tanh": torch.tanh, "gelu": nn.functional.gelu, "relu": torch.relu}


def token_grids(
    token_lengths: tuple[int, ...], *, num_frames: int, crop: tuple[int, int], tubelet: int = 1
) -> tuple[TokenGrid, ...]:
    """The grid of each level: `length` patches along the short side of the crop, as many as fit along the
    long one, in a plane for every `tubelet` frames.
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
    if num_frames % tubelet:
        raise InputError(f"{num_frames} frames are no multiple of tubelet={tubelet}; change one of them")
    return tuple(
        TokenGrid(
            num_frames // tubelet, round(length * crop[0] / short), round(length * crop[1] / short), level
        )
        for level, length in enumerate(token_lengths)
    )


class ReViT(nn.Module):
    """A backbone whose token length is an argument of `forward`.

    Args:
        num_classes: K.
        token_lengths: patches along the short side of a frame, longest first.
        num_frames: frames of a clip, T; 1 makes it an image model.
        crop: pixels of a frame, one number for a square or (height, width).
        dim, depth, heads, mlp_ratio, qkv_bias, norm_eps, residual_scale: the trunk, see layers.block.Trunk.
        attention, attention_options: a key of layers.blocks.BLOCKS and more arguments of its blocks.
        patch_embed, patch_embed_options: a key of layers.stems.STEMS and more arguments of its embeddings;
            `shared` is one kernel for all lengths.
        positions: whether every length has a position table of its own, see layers.positions.PositionTables.
        norms: `separate`: a row of every LengthNorm for each length; `shared`: one row for all.
        tubelet: frames of a token.
        distill_token: levels below the longest carry a distillation token with its own head.
        distilled: the longest carries one too, as DeiT's distilled models do.
        pos_init: `normal` (std 0.02; time table zero, as the official model), `sine` (learns far sooner from
            scratch) or `sine_1d` (T2T-ViT's, not trained).
        joint_positions: every level has one table over space and time; there is no time table.
        zero_time_init: the time attention's last layer starts at zero, as the official model's, so that an
            image model's weights start as they were; from scratch False learns sooner.
        init_scale: linear weights start with std `init_scale / sqrt(inputs)`; None is the official std of
            0.02, which suits wide trunks (at width 768: 0.55 / sqrt(768)) and is far too small else.
        center_clips: take each pixel's mean over the clip away first, so that what stands still vanishes.
            Small models learn motion several times faster so (docs/demo.md); official weights were trained
            without it.
        class_token_only: the last block computes only what the heads read: same logits, lower cost.
        pre_logits: Motionformer's linear layer in front of the heads: its activation, a key of ACTIVATIONS.
        aux_head: a second head reads every patch, as LV-ViT's; the best one takes part in the prediction.
        reducer: how tokens become fewer on the way through the blocks, an object of competitors/. It has no
            weights, and `forward` can be given another one.
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
        qkv_bias: bool = True,
        norm_eps: float = 1e-6,
        residual_scale: float = 1.0,
        attention: str = "divided",
        attention_options: dict | None = None,
        patch_embed: str = "conv",
        patch_embed_options: dict | None = None,
        positions: str = "separate",
        norms: str = "separate",
        tubelet: int = 1,
        distill_token: bool = True,
        distilled: bool = False,
        drop_path: float = 0.0,
        pos_init: str = "normal",
        joint_positions: bool = False,
        zero_time_init: bool = True,
        init_scale: float | None = None,
        center_clips: bool = False,
        class_token_only: bool = False,
        pre_logits: str | None = None,
        aux_head: bool = False,
        reducer: Reduction | None = None,
    ) -> None:
        super().__init__()
        _check_choice("pos_init", pos_init, POS_INITS)
        _check_choice("positions", positions, SHARINGS)
        _check_choice("norms", norms, ("separate", "shared"))
        if positions != "separate" and pos_init == "sine_1d":
            raise InputError(
                f"positions={positions!r} shares a table that is learned, but pos_init='sine_1d' computes "
                "one for every length; set positions='separate', or another pos_init"
            )
        _check_choice("pre_logits", pre_logits, (None, *ACTIVATIONS))
        if aux_head and class_token_only:
            raise InputError("aux_head reads every patch of the last block; set class_token_only=False")
        self.crop = (crop, crop) if isinstance(crop, int) else tuple(crop)
        self.token_lengths = tuple(token_lengths)
        self.grids = token_grids(self.token_lengths, num_frames=num_frames, crop=self.crop, tubelet=tubelet)
        self.num_classes, self.num_frames, self.pos_init = num_classes, num_frames, pos_init
        self.center_clips, self.frames_apart = center_clips, attention == "space_only"
        frames = self.grids[0].frames

        stems = {"crop": self.crop, "tubelet": tubelet, **(patch_embed_options or {})}
        self.patch_embeds = nn.ModuleList(build_stems(patch_embed, dim, self.grids, **stems))
        self.shares_patches = patch_embed == "shared"
        self.class_token = nn.Parameter(torch.zeros(dim))
        planes = frames if joint_positions else 1
        trained = pos_init != "sine_1d"
        self.pos_tables = PositionTables(self.grids, dim, planes=planes, sharing=positions, trained=trained)
        has_time = frames > 1 and not joint_positions and not self.frames_apart
        self.time_table = nn.Parameter(torch.zeros(frames, dim)) if has_time else None
        self.first_distilled = 0 if distilled else 1  # the first level with a distillation token
        students = len(self.grids) - self.first_distilled if distill_token or distilled else 0
        self.distill_tokens = nn.Parameter(torch.zeros(students, dim)) if students else None
        trunk = Trunk(
            dim, heads, len(self.grids), mlp_ratio, qkv_bias, norm_eps, residual_scale, norms == "shared"
        )
        self.blocks = nn.ModuleList(
            build_block(
                attention,
                trunk,
                drop_path_rate=drop_path * i / max(1, depth - 1),  # the later, the likelier
                prefix_only=class_token_only and i == depth - 1,
                **(attention_options or {}),
            )
            for i in range(depth)
        )
        self.norm = trunk.norm()
        self.pre_logits = nn.Linear(dim, dim) if pre_logits else None
        self.activation = ACTIVATIONS.get(pre_logits)
        self.head = nn.Linear(dim, num_classes)
        self.head_distill = nn.Linear(dim, num_classes) if students else None
        self.aux_head = nn.Linear(dim, num_classes) if aux_head else None
        self._init_weights(pos_init=pos_init, zero_time_init=zero_time_init, init_scale=init_scale)
        self.reducer = reducer
        if reducer is not None:
            check_reducer(self, reducer)

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
        self,
        clips: Tensor,
        level: int = 0,
        *,
        full_output: bool = False,
        with_looks: bool = False,
        recompute: bool = False,
        reducer: Reduction | None = None,
        swap: Tensor | None = None,
    ) -> Tensor | Outputs:
        """Logits (B, K) of clips (B, C, T, H, W) at one level; see `Outputs.prediction`. With the patch
        embedding `resize` the frames may have the size of the crop or already that of the level.

        `full_output` returns the heads apart, with the last features and, `with_looks`, the class token's
        attention, for training (through `forward`, so that wrappers such as DistributedDataParallel see the
        call). `recompute` keeps of every block but the last its input alone, for the backward pass to run it
        again (activation checkpointing). `reducer` takes the place of the model's own for this call. `swap`,
        bool (h, w): places whose tokens every clip takes from its partner, the batch reversed (MixToken).
        """
        grid = self.grids[level]
        x, prefix = self.embed(clips, grid, swap)
        inside = TokenGrid(1, grid.height, grid.width, level) if self.frames_apart else grid
        looks: list[Tensor] = []
        kept, reducer = None, reducer or self.reducer
        if reducer is not None:
            x, kept = through_fewer(
                self, x, inside, prefix, reducer, with_looks=with_looks, recompute=recompute
            )
        else:
            for block in self.blocks:
                last = block is self.blocks[-1]
                run = partial(checkpoint, block, use_reentrant=False) if recompute and not last else block
                x = run(x, inside, prefix=prefix, looks=looks if with_looks and last else None)
        if self.frames_apart:
            x = x if kept is None else x[:, :prefix]  # the frames have lost other patches each
            x = x.unflatten(0, (len(clips), grid.frames)).mean(dim=1)  # all tokens, before the norm
            looks = [spread.flatten(2).unflatten(0, (len(clips), grid.frames)) for spread in looks]
            looks = [spread.transpose(1, 2).unflatten(-1, (grid.height, grid.width)) for spread in looks]
        out = self.read(self.norm(x, level), prefix, inside, kept)
        if looks:
            out = replace(out, looks=looks[0])
        return out if full_output else out.prediction()

    def embed(self, clips: Tensor, grid: TokenGrid, swap: Tensor | None = None) -> tuple[Tensor, int]:
        """Tokens with all position codes added, and the number P of prefix tokens.

        Shape: (B, P + t*S, D), frame by frame; (B*t, P + S, D) where frames are kept apart (space only).
        """
        frames, height, width = clips.shape[2:]
        embed = self.patch_embeds[0 if self.shares_patches else grid.level]
        own = getattr(embed, "size", self.crop)  # the frames of `resize` may come in the size of the length
        if frames != self.num_frames or (height, width) not in (self.crop, own):
            raise InputError(
                f"the clip has {frames} frames of {height}x{width} px, but this model takes "
                f"{self.num_frames} of {self.crop[0]}x{self.crop[1]}"
                + f", or of {own[0]}x{own[1]} at this length"
                * (own != self.crop)
            )
        if self.center_clips:
            clips = clips - clips.mean(dim=2, keepdim=True)
        tokens = embed(clips, grid.level) if self.shares_patches else embed(clips)  # (B, t, S, D)
        if swap is not None:
            tokens = torch.where(swap.flatten()[:, None], tokens.flip(0), tokens)
        table = self.pos_tables.table(grid)
        tokens = tokens + table[1:].unflatten(0, (-1, grid.per_frame)).to(tokens.dtype)
        if self.time_table is not None:
            tokens = tokens + self.time_table[:, None].to(tokens.dtype)
        prefix = [self.class_token + table[0]]
        if self.distill_tokens is not None and grid.level >= self.first_distilled:
            prefix.append(self.distill_tokens[grid.level - self.first_distilled])
        tokens = tokens.flatten(0, 1) if self.frames_apart else tokens.flatten(1, 2)
        head = torch.stack(prefix).to(tokens.dtype).expand(len(tokens), -1, -1)
        return torch.cat([head, tokens], dim=1), len(prefix)

    def read(self, x: Tensor, prefix: int, grid: TokenGrid, kept: TokenState | None = None) -> Outputs:
        """What the heads say of the normed tokens (B, P + t*S, D), of those that are left of them, or of
        (B, P, D) of a short last block.
        """
        summary = x[:, :prefix]
        if self.pre_logits is not None:
            summary = self.activation(self.pre_logits(summary))
        distill_logits = self.head_distill(summary[:, 1]) if prefix == 2 else None
        patches = x[:, prefix:]
        whole = patches.shape[1] > 0 and kept is None
        features = patches.unflatten(1, (grid.frames, grid.height, grid.width)) if whole else None
        # Contiguous: for a slice of a batch torch may copy the weights for every row (docs/performance.md).
        aux_logits = self.aux_head(patches.contiguous()) if self.aux_head is not None else None
        return Outputs(self.head(summary[:, 0]), distill_logits, features, aux_logits=aux_logits, kept=kept)

    @torch.no_grad()
    def grow(self, source: int) -> None:
        """Start every other level from a trained one: kernels by pseudo-inverse resampling, tables bicubic,
        norms copied. What levels share stays as it is.
        """
        if self.pos_init != "sine_1d":
            self.pos_tables.grow(source)
        for grid in self.grids:
            if grid.level == source:
                continue
            if not self.shares_patches:
                self.patch_embeds[grid.level].grow_from(self.patch_embeds[source])
            first = self.first_distilled
            if self.distill_tokens is not None and source >= first and grid.level >= first:
                self.distill_tokens[grid.level - first] = self.distill_tokens[source - first]
        for module in self.modules():
            if isinstance(module, LengthNorm):
                for grid in self.grids:
                    module.copy_level(source, grid.level)

    @torch.no_grad()
    def _init_weights(self, *, pos_init: str, zero_time_init: bool, init_scale: float | None) -> None:
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                official = init_scale is None or "head" in name
                std = 0.02 if official else init_scale * module.in_features**-0.5
                nn.init.trunc_normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
                if zero_time_init and name.endswith("time.fc"):
                    nn.init.zeros_(module.weight)
        nn.init.trunc_normal_(self.class_token, std=0.02)
        if self.distill_tokens is not None:
            nn.init.trunc_normal_(self.distill_tokens, std=0.02)
        for grid, table in zip(self.pos_tables.grids, self.pos_tables, strict=True):
            nn.init.trunc_normal_(table, std=0.02)
            if pos_init == "sine":
                table[1:] = sine_grid(grid, table.shape[1]).repeat((len(table) - 1) // grid.per_frame, 1)
            elif pos_init == "sine_1d":
                table.copy_(sine_sequence(len(table), table.shape[1]))
        if pos_init == "sine" and self.time_table is not None:
            self.time_table.copy_(sine_table(torch.arange(len(self.time_table)), self.time_table.shape[1]))


def _check_choice(name: str, value: str | None, known: tuple) -> None:
    if value not in known:
        listed = ", ".join(str(one) for one in known)
        raise InputError(f"{name} is {value!r}, but must be one of: {listed}")
