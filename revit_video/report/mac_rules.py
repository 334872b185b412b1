"""What one traced operation costs in multiply-adds, and which operations cost none.

fvcore's own rules are replaced. They add 5 per element of a LayerNorm (TimeSformer-B: 196.05 instead of
195.83 G, 0.11 %), which neither torch's counter nor a closed form does; they give 0 for fused attention, too
little for a product that broadcasts its left side, and four digits for einsum. A rule gets an operation's
inputs and outputs as values of a torch.jit graph.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch

from revit_video.types import InputError

# Free besides these: operations that torch tags pointwise, views, and what returns no tensor.
FREE_OPS = frozenset(
    """
    layer_norm batch_norm group_norm instance_norm rms_norm linalg_norm linalg_vector_norm cosine_similarity
    softmax log_softmax dropout dropout_ feature_dropout alpha_dropout

    mean sum var std var_mean std_mean max min amax amin argmax argmin all any norm prod median cumsum
    logsumexp topk sort argsort nonzero unique_dim _unique2 unique_consecutive bincount searchsorted bucketize

    avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d max_pool2d_with_indices
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d grid_sampler im2col col2im
    upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact2d upsample_linear1d
    upsample_bilinear2d _upsample_bilinear2d_aa upsample_bicubic2d _upsample_bicubic2d_aa upsample_trilinear3d

    arange linspace eye zeros ones full empty zeros_like ones_like full_like empty_like new_zeros new_ones
    new_full new_empty scalar_tensor rand randn randint randperm rand_like randn_like bernoulli multinomial
    cat concat stack hstack vstack pad constant_pad_nd reflection_pad2d replication_pad2d repeat
    repeat_interleave tile roll flip meshgrid tril triu gather scatter scatter_ scatter_add scatter_add_
    scatter_reduce scatter_reduce_ index index_put index_put_ index_select index_add index_add_ index_copy
    take_along_dim masked_select masked_fill_ masked_scatter embedding one_hot copy_ fill_ zero_ clone type_as
    where floor_divide

    relu_ relu6 gelu_ silu_ hardswish hardswish_ hardsigmoid hardsigmoid_ hardtanh hardtanh_ prelu glu selu
    clamp_
    """.split()  # noqa: SIM905
)


def is_free(kind: str) -> bool:
    """Whether the operation `kind` (such as "aten::gelu") can hold no matrix product."""
    namespace, _, name = kind.partition("::")
    packet = getattr(torch.ops.aten, name, None) if namespace == "aten" else None
    if packet is None:
        return False  # of another library, or written in Python: it may do anything
    overloads = [getattr(packet, overload) for overload in packet.overloads()]
    if name in FREE_OPS or any(torch.Tag.pointwise in op.tags for op in overloads):
        return True
    returns = [list(op._schema.returns) for op in overloads]
    is_view = any(values and all(_is_view(value) for value in values) for values in returns)
    return is_view or not any("Tensor" in str(value.type) for values in returns for value in values)


def _is_view(value: torch.Argument) -> bool:
    return value.alias_info is not None and not value.alias_info.is_write  # a write is an in-place result


def _sizes(value: torch.Value) -> list[int]:
    return value.type().sizes()


def _product_rule(left: int) -> Callable:
    """A matrix product whose left factor is input `left`: an output element costs one per column of it."""
    return lambda inputs, outputs: prod(_sizes(outputs[0])) * _sizes(inputs[left])[-1]


def _attention_rule(inputs: list, outputs: list) -> int:
    """Inputs (..., Nq, d) and (..., Nk, d), output (..., Nq, dv): B * A * Nq * Nk * (d + dv)."""
    *queries, value_dim = _sizes(outputs[0])
    *_, num_keys, key_dim = _sizes(inputs[1])
    return prod(queries) * num_keys * (key_dim + value_dim)


def _convolution_rule(inputs: list, outputs: list) -> int:
    """Each output position (transposed: input position) meets the kernel (C_out, C_in / groups, ...)."""
    transposed = len(inputs) > 7 and inputs[6].toIValue()  # 7 inputs: `_convolution_mode`
    batch, _, *positions = _sizes(inputs[0] if transposed else outputs[0])
    return batch * prod(positions) * prod(_sizes(inputs[1]))


def _einsum_rule(inputs: list, outputs: list) -> int:
    """Two operands: the product of all axis sizes, as in the matrix product torch makes of it. One: free."""
    equation = inputs[0].toIValue().replace(" ", "")
    shapes = [_sizes(value) for value in inputs[1].node().inputs()]
    if len(shapes) > 2:
        raise InputError(f"cannot count einsum {equation!r}: expected one or two operands; write it in pairs")
    sizes: dict[str | int, int] = {}
    for term, shape in zip(equation.split("->")[0].split(","), shapes, strict=True):
        before, _, after = term.partition("...")
        unnamed = range(len(shape) - len(before) - len(after), 0, -1)  # axes of "...", from its right
        for axis, size in zip([*before, *unnamed, *after], shape, strict=True):
            sizes[axis] = max(size, sizes.get(axis, 1))  # a size of 1 is broadcast
    return prod(sizes.values()) if len(shapes) == 2 else 0


_FUSED = ("math", "flash_attention", "flash_attention_for_cpu", "efficient_attention", "cudnn_attention")
MAC_RULES: dict[str, Callable] = {
    **{f"aten::{name}": _product_rule(0) for name in ("mm", "bmm", "matmul", "linear", "mv", "dot")},
    **{f"aten::{name}": _product_rule(1) for name in ("addmm", "baddbmm", "addmv")},
    "aten::addcmul": lambda inputs, outputs: prod(_sizes(outputs[0])),  # a sum of products, term by term
    "aten::_convolution": _convolution_rule,
    "aten::_convolution_mode": _convolution_rule,  # padding="same"
    "aten::einsum": _einsum_rule,
    "aten::scaled_dot_product_attention": _attention_rule,
    **{f"aten::_scaled_dot_product_{kernel}": _attention_rule for kernel in _FUSED},
}


def _attention_flops(query: list[int], key: list[int], value: list[int], *_, **__) -> int:
    return 2 * prod(query[:-1]) * key[-2] * (key[-1] + value[-1])


# What FlopCounterMode skips: all releases the first, those before 2.15 fused attention on a CPU. It passes
# shapes, and counts 2 per multiply-add.
MORE_FLOPS: dict[Callable, Callable] = {
    torch.ops.aten.mv: lambda matrix, vector, **_: 2 * prod(matrix),
    torch.ops.aten.addmv: lambda bias, matrix, vector, **_: 2 * prod(matrix),
    torch.ops.aten.dot: lambda left, right, **_: 2 * prod(left),
    torch.ops.aten.addcmul: lambda *_, out_shape, **__: 2 * prod(out_shape),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
}
