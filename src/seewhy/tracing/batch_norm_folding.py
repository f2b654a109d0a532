"""Batch norm folding in an op trace: batch norms are merged into convolutions, weights are stored channels-last.

Only the trace changes: the folded weights are copies, and the network keeps its own weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .op_trace import Op, OpTrace, ValueRef, replace_ops

CONVOLUTION_OP = "aten::convolution"
BATCH_NORM_OPS = {
    "aten::native_batch_norm", "aten::_native_batch_norm_legit_no_training", "aten::cudnn_batch_norm",
    "aten::miopen_batch_norm",
}  # fmt: skip


def fold_batch_norms(trace: OpTrace) -> OpTrace:
    """The trace with each batch norm that is the only user of a convolution's output folded into the convolution.

    The pairs are found by data flow: names, classes and order of the modules do not matter. The saved values of the
    trace stay valid, up to rounding.
    """
    users = trace.users()
    index = {id(op): i for i, op in enumerate(trace.ops)}
    replacements: dict[int, Op | None] = {}
    for i, op in enumerate(trace.ops):
        if op.name != CONVOLUTION_OP or not isinstance(op.arguments["weight"], Tensor):
            continue
        output_id = op.outputs[0]
        assert output_id is not None
        arguments, outputs = dict(op.arguments), op.outputs
        readers = users[output_id]
        if len(readers) == 1 and output_id != trace.output_id and _can_fold(op, readers[0], users):
            scale, shift = batch_norm_scale_shift(readers[0])
            arguments["weight"], arguments["bias"] = _scaled_parameters(arguments, scale, shift)
            outputs = readers[0].outputs[:1]
            replacements[index[id(readers[0])]] = None
        arguments["weight"] = to_channels_last(arguments["weight"])
        replacements[i] = Op(op.function, tuple(arguments.values()), {}, outputs, op.single_output)
    return replace_ops(trace, replacements)


def batch_norm_scale_shift(norm: Op) -> tuple[Tensor, Tensor]:
    """Scale and shift [C] of a batch norm in eval mode, x · scale + shift per channel, in double precision."""
    arguments = norm.arguments
    mean, var = arguments["running_mean"].double(), arguments["running_var"].double()
    scale = (var + arguments.get("eps", arguments.get("epsilon"))).rsqrt()
    if arguments["weight"] is not None:
        scale = scale * arguments["weight"].double()
    shift = -mean * scale
    return scale, shift if arguments["bias"] is None else shift + arguments["bias"].double()


def is_eval_batch_norm(norm: Op) -> bool:
    """Whether an op is a batch norm in eval mode, with fixed statistics."""
    arguments = norm.arguments if norm.name in BATCH_NORM_OPS else {}
    return (
        bool(arguments)
        and not arguments.get("training", False)
        and all(isinstance(arguments[k], Tensor) for k in ("running_mean", "running_var"))
        and all(arguments[k] is None or isinstance(arguments[k], Tensor) for k in ("weight", "bias"))
    )


def _can_fold(convolution: Op, norm: Op, users: dict[int, list[Op]]) -> bool:
    arguments = convolution.arguments
    return (
        is_eval_batch_norm(norm)
        and isinstance(norm.args[0], ValueRef)
        and isinstance(arguments["bias"], Tensor | None)
        and not (arguments["transposed"] and arguments["groups"] > 1)
        and not any(users.get(v) for v in norm.outputs[1:] if v is not None)
    )


def _scaled_parameters(arguments: dict[str, Any], scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    weight, bias = arguments["weight"], arguments["bias"]
    channel_shape = [1] * weight.ndim
    channel_shape[1 if arguments["transposed"] else 0] = -1
    if bias is not None:
        shift = shift + bias.double() * scale
    # in the weights' own precision: a double-precision copy of all weights would cost more than it gains
    return weight * scale.to(weight.dtype).view(channel_shape), shift.to(weight.dtype)


def to_channels_last(x: Tensor) -> Tensor:
    """The tensor in channels-last memory format, in which convolutions are faster; other ranks become contiguous."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return x.contiguous(memory_format=formats.get(x.ndim, torch.contiguous_format))
