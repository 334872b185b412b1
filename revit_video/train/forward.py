"""How a training step runs the model: plainly, compiled for each token length, or with blocks run twice."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn

from revit_video.backbones.core import ReViT
from revit_video.backbones.outputs import Outputs
from revit_video.layers.reduce import Reduction
from revit_video.types import InputError


class LevelForward(nn.Module):
    """The model at one level. torch.compile takes a number that a module holds for a constant; as an argument
    it would become a variable at its second value, and every length would run code for all of them.
    """

    def __init__(self, model: ReViT, level: int, *, recompute: bool) -> None:
        super().__init__()
        self.model, self.level, self.recompute = model, level, recompute

    def forward(
        self,
        clips: Tensor,
        with_looks: bool,
        reducer: Reduction | None = None,
        swap: Tensor | None = None,
    ) -> Outputs:
        return self.model(
            clips,
            self.level,
            full_output=True,
            with_looks=with_looks,
            recompute=self.recompute,
            reducer=reducer,
            swap=swap,
        )


class TrainForward(nn.Module):
    """`model(clips, level, full_output=True)` of a training step, with the model's own parameters.

    Args:
        model: the backbone.
        recompute: keep of every block its input alone, and run it once more in the backward pass
            (activation checkpointing, arXiv:1604.06174); the same draws of stochastic depth, the same
            gradients.

    Raises:
        InputError: the model reduces its tokens, whose blocks cannot be recomputed.
    """

    def __init__(self, model: ReViT, *, recompute: bool = False) -> None:
        super().__init__()
        if recompute and model.reducer is not None:
            raise InputError(
                "solver.activation_checkpointing does not go with a reducer; switch one of them off"
            )
        self.model = model
        # A tuple, so that torch does not count the model's parameters once for each level.
        self.levels = tuple(LevelForward(model, i, recompute=recompute) for i in range(model.num_levels))
        self.compiled: tuple[Callable, ...] = ()
        self.sizes: frozenset[int] = frozenset()

    def compile_for(self, sizes: Collection[int], *, backend: str | Callable = "inductor") -> None:
        """Compile every length for these numbers of clips, each when it first comes and never again.

        Other numbers, as where a video could not be read, run as without compilation: slower that once, where
        a compilation would take minutes.
        """
        compiler = torch._dynamo.config
        needed = self.model.num_levels * len(sizes)  # all lengths share one piece of code, and its limit
        compiler.recompile_limit = max(compiler.recompile_limit, needed)
        self.sizes = frozenset(sizes)
        self.compiled = tuple(torch.compile(level, dynamic=False, backend=backend) for level in self.levels)

    def forward(
        self,
        clips: Tensor,
        level: int = 0,
        *,
        full_output: bool = True,
        with_looks: bool = False,
        reducer: Reduction | None = None,
        swap: Tensor | None = None,
    ) -> Tensor | Outputs:
        """`reducer`: of this pass, in place of the model's own. The pass runs uncompiled: a keep rate that
        falls step by step would be compiled as often.
        """
        compiled = len(clips) in self.sizes and reducer is None
        out = (self.compiled if compiled else self.levels)[level](clips, with_looks, reducer, swap)
        return out if full_output else out.prediction()
