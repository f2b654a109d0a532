"""Fusion of convolutions with the zero padding before them and the activation after them, and weight packing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from seewhy.tracing.batch_norm_folding import CONVOLUTION_OP, to_channels_last
from seewhy.tracing.op_trace import Op, OpTrace, ValueRef

PAD_OP = "aten::constant_pad_nd"
ACTIVATED_CONVOLUTION_OP = "activated_convolution"
PACKING_BATCH_SIZE = 8  # the batch size the weight layout is optimized for; other batch sizes work as well


def activated_convolution(
    x: Tensor,
    *,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    transposed: bool,
    activation: tuple[str, list[float], str],
) -> Tensor:
    """Convolution followed by an activation, in one oneDNN call that writes the output once."""
    return torch.ops.mkldnn._convolution_pointwise(  # type: ignore[no-any-return]
        x, weight, bias, padding, stride, dilation, groups, *activation
    )


def fuse_activations(trace: OpTrace) -> OpTrace:
    """The trace with each convolution and its activation fused into one op, where oneDNN supports it.

    oneDNN is used in single precision on a CPU. The convolution's output must have no other user.
    """
    if not _onednn_has("_convolution_pointwise"):
        return trace
    users = trace.users()
    removed: set[int] = set()
    replacements: dict[int, Op] = {}
    for op in trace.ops:
        output_id = op.outputs[0]
        readers = [] if output_id is None or output_id == trace.output_id else users[output_id]
        activation = _onednn_activation(readers[0]) if len(readers) == 1 and _runs_on_onednn(op, trace) else None
        if activation is not None:
            removed.add(id(op))
            replacements[id(readers[0])] = _activated_op(op, activation)._replace(outputs=readers[0].outputs)
    return replace(trace, ops=tuple(replacements.get(id(o), o) for o in trace.ops if id(o) not in removed))


def _onednn_has(operator: str) -> bool:
    """Whether this version of torch has the oneDNN operator and oneDNN is enabled."""
    mkldnn = torch.backends.mkldnn
    return bool(mkldnn.is_available() and mkldnn.enabled and hasattr(torch.ops.mkldnn, operator))


def _activated_op(op: Op, activation: tuple[str, list[float], str]) -> Op:
    arguments = {key: value for key, value in op.arguments.items() if key not in {"input", "output_padding"}}
    return Op(activated_convolution, op.args[:1], {"activation": activation} | arguments, op.outputs, True)


def _runs_on_onednn(op: Op, trace: OpTrace) -> bool:
    """Whether an op is a 2d convolution of one picture with constant weights, in single precision on a CPU."""
    if op.name not in {CONVOLUTION_OP, ACTIVATED_CONVOLUTION_OP} or trace.shapes[op.inputs()[0]][0] != 1:
        return False
    arguments = op.arguments
    weight, bias = arguments["weight"], arguments["bias"]
    if not isinstance(weight, Tensor) or not isinstance(bias, Tensor | None) or arguments["transposed"]:
        return False
    return weight.ndim == 4 and weight.dtype == torch.float32 and weight.device.type == "cpu"


def pack_weights(trace: OpTrace) -> OpTrace:
    """The trace with the weights of convolutions stored in oneDNN's own layout, so that no pass reorders them."""
    if not _onednn_has("_reorder_convolution_weight"):
        return trace
    return replace(
        trace,
        ops=tuple(_with_packed_weight(op, trace) if _runs_on_onednn(op, trace) else op for op in trace.ops),
    )


def _with_packed_weight(op: Op, trace: OpTrace) -> Op:
    op = op if op.name == ACTIVATED_CONVOLUTION_OP else _activated_op(op, ("none", [], ""))
    source, arguments = op.args[0], op.kwargs
    size = [PACKING_BATCH_SIZE, *trace.shapes[source.value_id][1:]]
    pairs = [list(arguments[k]) * (2 if len(arguments[k]) == 1 else 1) for k in ("padding", "stride", "dilation")]
    weight = torch.ops.mkldnn._reorder_convolution_weight(arguments["weight"], *pairs, arguments["groups"], size)
    return op._replace(kwargs=arguments | {"weight": weight})


def _onednn_activation(op: Op) -> tuple[str, list[float], str] | None:
    """An activation's oneDNN name, scalars and algorithm; None for other ops and unsupported activations."""
    arguments, name = op.arguments, op.name.removeprefix("aten::")
    if not op.args or not isinstance(op.args[0], ValueRef) or len(op.inputs()) != 1:
        return None
    if name in {"relu", "sigmoid", "tanh", "hardswish", "hardsigmoid"}:
        return name, [], ""
    if name == "silu":
        return "swish", [], ""
    if name in {"hardtanh", "clamp"}:
        low, high = (arguments.get(k) for k in (("min_val", "max_val") if name == "hardtanh" else ("min", "max")))
        if not isinstance(low, (int, float)) or not isinstance(high, (int, float)):
            return None
        return "hardtanh", [float(low), float(high)], ""
    return ("gelu", [], arguments["approximate"]) if name == "gelu" else None


def fuse_padding(trace: OpTrace) -> OpTrace:
    """The trace with zero paddings fused into the convolutions after them, which avoids a copy.

    Where the padding differs at the two ends of an axis, the convolution pads both ends by the larger one and the
    kernel gets zeros at the other end. Kernels grow; this saves time for full pictures but not for windows.
    """
    users = trace.users()
    removed: set[int] = set()
    replacements: dict[int, Op] = {}
    for op in trace.ops:
        output_id, source = op.outputs[0], op.args[0] if op.args else None
        if op.name != PAD_OP or output_id is None or output_id == trace.output_id or op.arguments.get("value"):
            continue
        readers = users[output_id]
        if len(readers) != 1 or readers[0].inputs() != [output_id] or not isinstance(source, ValueRef):
            continue
        is_convolution = readers[0].name in {CONVOLUTION_OP, ACTIVATED_CONVOLUTION_OP}
        arguments = _arguments_with_padding(op.arguments["pad"], readers[0].arguments) if is_convolution else None
        if arguments is not None:
            removed.add(id(op))
            replacements[id(readers[0])] = readers[0]._replace(args=(source,), kwargs=arguments)
    return replace(trace, ops=tuple(replacements.get(id(o), o) for o in trace.ops if id(o) not in removed))


def _arguments_with_padding(pads: list[int], arguments: dict[str, Any]) -> dict[str, Any] | None:
    """A convolution's arguments, without the input, with the padding included; `pads` are ordered as in `F.pad`.

    Returns None where the padding cannot be included.
    """
    weight = arguments["weight"]
    if arguments["transposed"] or not isinstance(weight, Tensor) or min(pads) < 0 or len(pads) > 2 * (weight.ndim - 2):
        return None
    dims = weight.ndim - 2
    pads = [*pads, *[0] * (2 * dims - len(pads))]
    padding, dilation = (list(arguments[k]) * (dims if len(arguments[k]) == 1 else 1) for k in ("padding", "dilation"))
    zeros = [0] * (2 * dims)
    for i, (low, high) in enumerate(zip(pads[::2], pads[1::2], strict=True)):
        axis = dims - 1 - i
        if (high - low) % dilation[axis]:
            return None
        zeros[2 * i + (low > high)] = abs(high - low) // dilation[axis]
        padding[axis] += max(low, high)
    padded_weight = to_channels_last(F.pad(weight, zeros))
    return {k: v for k, v in arguments.items() if k != "input"} | {"weight": padded_weight, "padding": padding}
