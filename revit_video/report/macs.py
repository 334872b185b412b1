"""Multiply-adds of one forward pass, counted three ways that agree to the last one.

    count_macs           fvcore's traced graph with the rules of mac_rules.py: the number we publish
    count_macs_torch     torch's FlopCounterMode / 2: the second opinion
    timesformer_macs,    closed forms from the architecture: the third
    image_vit_macs

The convention of every table: a multiply-add counts as one (the papers write "FLOPs"), and only matrix
products, convolutions and both products of attention count. Norms, softmax, activations, pooling and resizing
are free.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from revit_video.report.mac_rules import MAC_RULES, VECTOR_FLOPS, is_free
from revit_video.types import InputError


def count_macs(module: nn.Module, *inputs: Tensor, **kwargs) -> int:
    """Multiply-adds of `module(*inputs, **kwargs)` in evaluation mode, for the whole batch of `inputs`.

    The module really runs once (so on real tensors, not on the meta device) and comes back in the mode it was
    in. Causal or masked attention counts as full attention.

        gmacs = count_macs(model, torch.zeros(1, 3, 8, 224, 224), level=1) / 1e9  # per view

    Raises:
        InputError: an operation without a rule that may hold matrix products. It is never counted as 0.
    """
    with warnings.catch_warnings(), _measured(module):
        warnings.simplefilter("ignore")  # fvcore's import and its tracing use deprecated parts of torch.jit
        from fvcore.nn import FlopCountAnalysis

        analysis = FlopCountAnalysis(_Traced(module, kwargs), inputs).clear_op_handles()
        analysis.set_op_handle(**MAC_RULES)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        macs, without_rule = analysis.total(), analysis.unsupported_ops()
    unknown = sorted(kind for kind in without_rule if not is_free(kind))
    if unknown:
        raise InputError(
            f"cannot count the multiply-adds of {', '.join(unknown)} in {type(module).__name__}: expected "
            "operations listed in revit_video/report/mac_rules.py; add a rule there, or try count_macs_torch"
        )
    return int(macs)


def count_macs_torch(module: nn.Module, *inputs: Tensor, **kwargs) -> int:
    """The same number from torch's FlopCounterMode, which counts 2 per multiply-add.

    It sees the kernels that run, not the traced graph, so it shares no code with `count_macs`. What it does
    not know it skips without a word.
    """
    with _measured(module), FlopCounterMode(display=False, custom_mapping=VECTOR_FLOPS) as counter:
        module(*inputs, **kwargs)
    return counter.get_total_flops() // 2


def timesformer_macs(
    *,
    dim: int,
    depth: int,
    heads: int,
    frames: int,
    grid: int | tuple[int, int],
    num_classes: int,
    mlp_ratio: float = 4.0,
    prefix_tokens: int = 1,
    patch_in_features: int = 3 * 16 * 16,
    cls_only_last_block: bool = False,
    patch_macs: int | None = None,
) -> int:
    """Closed form of divided space-time attention: T = `frames` planes of S patches, P prefix tokens.

    Every block: temporal attention of S sequences of T patches (prefix tokens take no part) and its extra
    linear; spatial attention of T sequences of P + S tokens; MLP on P + S*T tokens. A head per prefix token.

    Args:
        heads: only checked; the count does not depend on it.
        grid: patches per side of a frame, or (rows, columns).
        prefix_tokens: 1 for the class token, 2 with a distillation token.
        patch_in_features: input values of a patch.
        cls_only_last_block: in the last block only prefix tokens ask, are projected and pass the MLP.
        patch_macs: of an embedding that is no single convolution, instead of S * T * patch_in_features * D.
    """
    _check_heads(dim, heads)
    patches = _patches(grid)
    temporal = frames * patches * (5 * dim**2 + 2 * frames * dim)  # qkv, proj, fc; both products
    step = {"dim": dim, "patches": patches, "frames": frames, "prefix": prefix_tokens, "mlp_ratio": mlp_ratio}
    spatial = (depth - 1) * _space_and_mlp(**step) + _space_and_mlp(**step, prefix_only=cls_only_last_block)
    embed = frames * patches * patch_in_features * dim if patch_macs is None else patch_macs
    return embed + depth * temporal + spatial + prefix_tokens * dim * num_classes


def image_vit_macs(
    *,
    dim: int,
    depth: int,
    heads: int,
    grid: int | tuple[int, int],
    num_classes: int,
    mlp_ratio: float = 4.0,
    prefix_tokens: int = 1,
    patch_in_features: int = 3 * 16 * 16,
    cls_only_last_block: bool = False,
    patch_macs: int | None = None,
) -> int:
    """Closed form of a plain vision transformer on one image: `timesformer_macs` without the temporal part.

    Joint space-time attention on T frames is an image of (T * rows, columns) patches.
    """
    _check_heads(dim, heads)
    patches = _patches(grid)
    step = {"dim": dim, "patches": patches, "frames": 1, "prefix": prefix_tokens, "mlp_ratio": mlp_ratio}
    blocks = (depth - 1) * _space_and_mlp(**step) + _space_and_mlp(**step, prefix_only=cls_only_last_block)
    embed = patches * patch_in_features * dim if patch_macs is None else patch_macs
    return embed + blocks + prefix_tokens * dim * num_classes


def _space_and_mlp(
    *, dim: int, patches: int, frames: int, prefix: int, mlp_ratio: float, prefix_only: bool = False
) -> int:
    """Attention inside each frame and the MLP after it: every token asks, or the prefix tokens alone."""
    keys = prefix + patches
    queries = prefix if prefix_only else keys  # per frame
    tokens = (
        prefix if prefix_only else prefix + frames * patches
    )  # of the MLP: one class token for all frames
    project = frames * (2 * keys + 2 * queries) * dim**2  # keys, values; queries, proj
    products = frames * 2 * queries * keys * dim
    return project + products + 2 * tokens * dim * int(dim * mlp_ratio)


def _patches(grid: int | tuple[int, int]) -> int:
    return grid**2 if isinstance(grid, int) else grid[0] * grid[1]


def _check_heads(dim: int, heads: int) -> None:
    if dim % heads:
        raise InputError(f"dim={dim} cannot be split over heads={heads}; expected a divisor of dim")


class _Traced(nn.Module):
    """`module` as fvcore can trace it whole: keyword arguments tied on, and every result an output.

    A trace forgets an operation that no output depends on. A router reads its assigner's logits as Python
    numbers, so the assigner would cost nothing.
    """

    def __init__(self, module: nn.Module, kwargs: dict) -> None:
        super().__init__()
        self.module, self.kwargs = module, kwargs

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        with _KeepResults() as results:
            self.module(*inputs, **self.kwargs)
        return inputs + tuple(results.kept)


class _KeepResults(TorchFunctionMode):
    """Holds one number of each result of every torch call; whole results would fill the memory."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Tensor] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, Tensor) and value.is_floating_point() and value.numel():
                self.kept.append(value[(0,) * value.ndim].clone())
        return result


@contextmanager
def _measured(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients, and torch's one-kernel encoder layer off: it hides its products."""
    modes = {part: part.training for part in module.modules()}
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
        for part, training in modes.items():
            part.training = training
