"""Fusion of linear layers over a last channel axis, which torch executes as reshape, matrix product and reshape."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor
from torch.nn.functional import linear

from seewhy.tracing.op_trace import Op, OpTrace, ValueRef

RESHAPE_OP = "aten::reshape"


def linear_over_last_axis(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Linear layer applied at each position: [..., C] -> [..., O]."""
    return linear(x, weight, bias)


def fuse_linear_layers(trace: OpTrace) -> OpTrace:
    """The trace with each linear layer over the last axis fused into one op."""
    users = trace.users()
    maker_of = {v: op for op in trace.ops for v in op.outputs if v is not None}
    removed: set[int] = set()
    replacements: dict[int, Op] = {}

    for op in trace.ops:
        rows = _matrix_rows(op)
        if rows is None or rows not in maker_of:
            continue
        reshape_in, product = maker_of[rows], op.outputs[0]
        assert product is not None
        readers = users[product]
        if reshape_in.name != RESHAPE_OP or len(users[rows]) != 1 or len(readers) != 1 or readers[0].name != RESHAPE_OP:
            continue
        (reshape_out,) = readers
        input_id = reshape_in.inputs()[0]
        input_shape, output_shape = trace.shapes[input_id], trace.shapes[reshape_out.outputs[0]]  # type: ignore[index]
        channels = trace.shapes[rows][1], trace.shapes[product][1]
        matches = input_shape[:-1] == output_shape[:-1] and (input_shape[-1], output_shape[-1]) == channels
        if not matches or trace.output_id in {rows, product}:
            continue
        arguments = op.arguments
        bias = arguments["self"] if op.name == "aten::addmm" else None
        removed |= {id(reshape_in), id(op)}
        replacements[id(reshape_out)] = Op(
            linear_over_last_axis, (ValueRef(input_id), arguments["mat2"].t(), bias), {}, reshape_out.outputs, True
        )
    return replace(trace, ops=tuple(replacements.get(id(o), o) for o in trace.ops if id(o) not in removed))


def _matrix_rows(op: Op) -> int | None:
    """Id of the value that an op multiplies by a constant matrix (plus a constant bias); None for other ops."""
    arguments = op.arguments
    rows = arguments.get("mat1") if op.name == "aten::addmm" else arguments.get("self")
    if op.name not in {"aten::mm", "aten::addmm"} or not isinstance(rows, ValueRef) or len(op.inputs()) != 1:
        return None
    if op.name == "aten::addmm" and (arguments["self"].ndim != 1 or arguments["beta"] != 1 or arguments["alpha"] != 1):
        return None
    return rows.value_id
