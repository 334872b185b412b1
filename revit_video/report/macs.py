"""Multiply-adds of one forward pass, counted three ways that agree to the last one.

    count_macs             fvcore's traced graph with the rules of mac_rules.py; knows any module, and runs it
    count_macs_torch       torch's FlopCounterMode / 2: the kernels that run; at no cost on the meta device
    backbones/costs.py     the closed forms of closed_forms.py, from a backbone's numbers: what we publish

The convention of every table: a multiply-add counts as one (the papers write "FLOPs"), and only matrix
products, convolutions and both products of attention count. Norms, softmax, activations, pooling and resizing
are free.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from revit_video.report.mac_rules import MAC_RULES, MORE_FLOPS, is_free
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
    with _measured(module), FlopCounterMode(display=False, custom_mapping=MORE_FLOPS) as counter:
        module(*inputs, **kwargs)
    return counter.get_total_flops() // 2


def count_norm_macs(module: nn.Module, *inputs: Tensor, batch_norm: int = 2, **kwargs) -> int:
    """What fvcore adds to a forward pass for norms, and most published figures contain: 5 for each element
    of a LayerNorm, `batch_norm` of a BatchNorm (5 in training). Runs on the meta device too.
    """
    with _measured(module), _NormSizes(batch_norm) as norms:
        module(*inputs, **kwargs)
    return norms.macs


class _NormSizes(TorchFunctionMode):
    def __init__(self, batch_norm: int) -> None:
        super().__init__()
        self.rates, self.macs = {F.layer_norm: 5, F.batch_norm: batch_norm}, 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if rate := self.rates.get(function):
            self.macs += rate * result.numel()
        return result


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
