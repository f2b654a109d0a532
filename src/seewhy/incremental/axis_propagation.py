"""Axis propagation: which axes an op treats position by position, and where these axes lie in its output.

Along such axes the op can be executed on any part of its inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from seewhy.tracing.batch_norm_folding import is_eval_batch_norm
from seewhy.tracing.op_trace import Op, ValueRef, execute_op

AxisNumbers = tuple[int, ...]
Shapes = Mapping[int, tuple[int, ...]]

ELEMENTWISE_OPS = {"hardswish", "_prelu_kernel", "clone", "alias", "detach", "_to_copy", "contiguous", "masked_fill"}
REDUCTION_OPS = {
    "mean", "sum", "amax", "amin", "var", "std", "logsumexp", "any", "all", "max", "min", "argmax", "argmin",
}  # fmt: skip
# Ops that treat samples independently but mix everything within a sample.
SAMPLEWISE_OPS = {
    "convolution", "activated_convolution", "max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool2d",
    "avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d",
    "pixel_shuffle", "pixel_unshuffle", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d",
    "replication_pad2d", "replication_pad3d", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d",
    "upsample_bilinear2d", "upsample_linear1d", "upsample_trilinear3d", "upsample_bicubic2d",
}  # fmt: skip


def propagated_axes(op: Op, axes: AxisNumbers, shapes: Shapes) -> AxisNumbers | None:
    """Positions of the given input axes in an op's output; None if the op mixes positions along one of them.

    Args:
        op: the op.
        axes: axes of the inputs; the same for all inputs that depend on the sample.
        shapes: shape of each value.

    Returns:
        One output axis per input axis. None also where independence is not certain.
    """
    name = op.name.removeprefix("aten::")
    inputs = op.inputs()
    before, output_id = shapes[inputs[0]], op.outputs[0]
    if output_id is None:
        return None
    after = shapes[output_id]
    if is_elementwise(op):
        same = all(len(shapes[v]) == len(after) and _same_lengths(shapes[v], after, axes) for v in inputs)
        return axes if same else None
    if name == "reshape":
        return _reshape_axes(before, after, axes)
    rule = PROPAGATION_RULES.get(name)
    if rule is None or not isinstance(op.args[0], (ValueRef, list, tuple)):
        return None
    return rule(op, axes, shapes)


def is_elementwise(op: Op) -> bool:
    """Whether each output element depends only on the input elements at the same position."""
    return torch.Tag.pointwise in getattr(op.function, "tags", ()) or op.name.removeprefix("aten::") in ELEMENTWISE_OPS


def execute_op_on_part(op: Op, value_of: Callable[[int], Any], axes: AxisNumbers, after: AxisNumbers) -> Any:
    """Execute an op on parts of its inputs; size arguments are adapted along the propagated axes.

    Args:
        op: the op.
        value_of: from a value id to the part.
        axes: the propagated axes in the inputs.
        after: the same axes in the output.
    """
    if op.name.removeprefix("aten::") not in OPS_WITH_SIZE_ARGUMENT:
        return execute_op(op, value_of)
    source = op.args[0]
    assert isinstance(source, ValueRef)
    part = value_of(source.value_id)
    size = list(op.args[1])
    for a, b in zip(axes, after, strict=True):
        size[b] = part.shape[a]
    return op.function(part, size, *op.args[2:], **op.kwargs)


def in_place_variant(op: Op, maker: Op | None, freed: Sequence[int], shapes: Shapes) -> Op:
    """The op as an in-place op where its first argument is newly allocated and not used again; else unchanged."""
    first = op.args[0] if op.args else None
    if not isinstance(first, ValueRef) or first.value_id not in freed or op.inputs().count(first.value_id) > 1:
        return op
    name, (output_id, *_) = op.name.removeprefix("aten::"), op.outputs
    allocated = maker is not None and maker.name.removeprefix("aten::") in ALLOCATING_OPS
    if not allocated or name not in OPS_WITH_IN_PLACE_VARIANT:
        return op
    if output_id is None or shapes[output_id] != shapes[first.value_id]:
        return op
    packet = getattr(torch.ops.aten, name + "_", None)
    function = getattr(packet, getattr(op.function, "_overloadname", ""), None)
    return op if function is None else op._replace(function=function)


OPS_WITH_IN_PLACE_VARIANT = {
    "relu", "hardtanh", "silu", "hardswish", "hardsigmoid", "sigmoid", "leaky_relu", "elu", "add", "mul",
}  # fmt: skip
# Ops that allocate their output and never return a view.
ALLOCATING_OPS = {
    "convolution", "activated_convolution", "add", "mul", "sub", "native_batch_norm",
    "_native_batch_norm_legit_no_training", "cat", "avg_pool2d", "avg_pool3d", "addmm", "mm", "relu", "hardtanh",
    "silu", "native_layer_norm",
}  # fmt: skip
OPS_WITH_SIZE_ARGUMENT = {"reshape", "expand"}


def _same_lengths(a: Sequence[int], b: Sequence[int], axes: AxisNumbers) -> bool:
    return all(a[i] == b[i] for i in axes)


def _reshape_axes(before: Sequence[int], after: Sequence[int], axes: AxisNumbers) -> AxisNumbers | None:
    """Each axis maps to the output axis of the same length that has the same number of elements before it."""
    result: list[int] = []
    for axis in axes:
        elements_before = math.prod(before[:axis])
        candidates = [
            b for b, n in enumerate(after)
            if n == before[axis] and math.prod(after[:b]) == elements_before and b not in result and (axis or not b)
        ]  # fmt: skip
        if not candidates:
            return None
        result.append(candidates[0])
    return tuple(result)


def _nonnegative_dims(dims: Any, ndim: int) -> list[int]:
    return [d % ndim for d in ((dims,) if isinstance(dims, int) else dims)]


def _axes_after_removal(axes: AxisNumbers, removed: Sequence[int]) -> AxisNumbers | None:
    """Positions of axes after other axes were removed; None if one of them was removed."""
    return None if set(axes) & set(removed) else tuple(a - sum(r < a for r in removed) for a in axes)


def _reduction_axes(op: Op, axes: AxisNumbers, shapes: Shapes) -> AxisNumbers | None:
    arguments, shape = op.arguments, shapes[op.inputs()[0]]
    dims = arguments.get("dim")
    if dims is None or (isinstance(dims, (list, tuple)) and not dims):
        return None
    removed = _nonnegative_dims(dims, len(shape))
    if arguments.get("keepdim"):
        return None if set(axes) & set(removed) else axes
    return _axes_after_removal(axes, removed)


def _other_axes(op: Op, axes: AxisNumbers, shapes: Shapes) -> AxisNumbers | None:
    """Rule for ops that work along the axes in `dim` and treat all other axes position by position."""
    arguments, shape = op.arguments, shapes[op.inputs()[0]]
    dims = arguments.get("dim", arguments.get("dims", 0))
    return None if set(axes) & set(_nonnegative_dims(dims, len(shape))) else axes


def _cat_axes(op: Op, axes: AxisNumbers, shapes: Shapes) -> AxisNumbers | None:
    parts = op.args[0]
    same_rank = all(
        isinstance(p, ValueRef) and len(shapes[p.value_id]) == len(shapes[parts[0].value_id]) for p in parts
    )
    return _other_axes(op, axes, shapes) if same_rank else None


def _select_axes(op: Op, axes: AxisNumbers, shapes: Shapes) -> AxisNumbers | None:
    return _axes_after_removal(axes, _nonnegative_dims(op.arguments.get("dim", 0), len(shapes[op.inputs()[0]])))


def _squeeze_axes(op: Op, axes: AxisNumbers, shapes: Shapes) -> AxisNumbers | None:
    shape, dims = shapes[op.inputs()[0]], op.arguments.get("dim")
    if dims is None:
        return None
    removed = [d for d in _nonnegative_dims(dims, len(shape)) if shape[d] == 1]
    return _axes_after_removal(axes, removed)


def _unsqueeze_axes(op: Op, axes: AxisNumbers, shapes: Shapes) -> AxisNumbers | None:
    new = op.arguments["dim"] % (len(shapes[op.inputs()[0]]) + 1)
    return tuple(a + (a >= new) for a in axes)


def _permute_axes(op: Op, axes: AxisNumbers, shapes: Shapes) -> AxisNumbers | None:
    order = _nonnegative_dims(op.arguments["dims"], len(shapes[op.inputs()[0]]))
    return tuple(order.index(a) for a in axes)


def _transpose_axes(op: Op, axes: AxisNumbers, shapes: Shapes) -> AxisNumbers | None:
    ndim = len(shapes[op.inputs()[0]])
    first, second = _nonnegative_dims((op.arguments["dim0"], op.arguments["dim1"]), ndim)
    return tuple({first: second, second: first}.get(a, a) for a in axes)


def _layer_norm_axes(op: Op, axes: AxisNumbers, shapes: Shapes) -> AxisNumbers | None:
    shape = shapes[op.inputs()[0]]
    return axes if max(axes) < len(shape) - len(op.arguments["normalized_shape"]) else None


def _batch_norm_axes(op: Op, axes: AxisNumbers, shapes: Shapes) -> AxisNumbers | None:
    return axes if is_eval_batch_norm(op) and 1 not in axes else None


def _samplewise_axes(op: Op, axes: AxisNumbers, shapes: Shapes) -> AxisNumbers | None:
    before, after = shapes[op.inputs()[0]], shapes[op.outputs[0]]  # type: ignore[index]
    single_input = len(op.inputs()) == 1 and len(before) == len(
        after
    )  # else the weight depends on the sample, or there is no batch axis
    weight = op.arguments.get("weight")
    unbatched = isinstance(weight, Tensor) and weight.ndim != len(before)
    return axes if axes == (0,) and single_input and not unbatched else None


def _pad_axes(op: Op, axes: AxisNumbers, shapes: Shapes) -> AxisNumbers | None:
    ndim, pads = len(shapes[op.inputs()[0]]), op.arguments["pad"]
    padded = {ndim - 1 - i // 2 for i, p in enumerate(pads) if p}
    return None if padded & set(axes) else axes


def _expand_axes(op: Op, axes: AxisNumbers, shapes: Shapes) -> AxisNumbers | None:
    before, after = shapes[op.inputs()[0]], shapes[op.outputs[0]]  # type: ignore[index]
    return axes if len(before) == len(after) and _same_lengths(before, after, axes) else None


def _linear_axes(op: Op, axes: AxisNumbers, shapes: Shapes) -> AxisNumbers | None:
    return axes if max(axes) < len(shapes[op.inputs()[0]]) - 1 else None


def _mm_axes(op: Op, axes: AxisNumbers, shapes: Shapes) -> AxisNumbers | None:
    rows = op.arguments.get("mat1", op.arguments.get("self"))
    single_input = len(op.inputs()) == 1 and isinstance(rows, ValueRef)
    bias = op.arguments["self"] if op.name == "aten::addmm" else None
    bias_shared = bias is None or (isinstance(bias, Tensor) and (bias.ndim < 2 or bias.shape[0] == 1))
    return axes if single_input and bias_shared and axes == (0,) else None


PROPAGATION_RULES: dict[str, Callable[[Op, AxisNumbers, Shapes], AxisNumbers | None]] = {
    **dict.fromkeys(REDUCTION_OPS, _reduction_axes),
    **dict.fromkeys(
        ["_softmax", "_log_softmax", "slice", "split", "split_with_sizes", "flip", "glu", "cumsum"], _other_axes
    ),
    **dict.fromkeys(["select", "unbind"], _select_axes),
    **dict.fromkeys(SAMPLEWISE_OPS, _samplewise_axes),
    **dict.fromkeys(
        ["native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"], _batch_norm_axes
    ),
    "cat": _cat_axes,
    "squeeze": _squeeze_axes,
    "unsqueeze": _unsqueeze_axes,
    "permute": _permute_axes,
    "transpose": _transpose_axes,
    "native_layer_norm": _layer_norm_axes,
    "constant_pad_nd": _pad_axes,
    "expand": _expand_axes,
    "linear_last": _linear_axes,
    "addmm": _mm_axes,
    "mm": _mm_axes,
}
