"""Execution of the ops of a trace on full values, for a batch of samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seewhy.tracing.forward import is_out_of_memory
from seewhy.tracing.op_trace import Op, OpTrace, TraceError, execute_op, last_uses, store_outputs

from .axis_propagation import execute_op_on_part, in_place_variant, propagated_axes


class BatchedOp(NamedTuple):
    """An op executed on full values.

    Attributes:
        op: the op.
        freed: ids of the values that are freed after it.
        samplewise: whether it treats the samples of a batch independently.
    """

    op: Op
    freed: list[int]
    samplewise: bool


def schedule_ops(ops: Sequence[Op], kept: set[int], trace: OpTrace) -> list[BatchedOp]:
    """The ops with the values freed after each; ops become in-place where their first argument is freed.

    Args:
        ops: in the order of execution.
        kept: ids of the values that are not freed.
        trace: the trace of the ops.
    """
    freed = last_uses(tuple(ops), kept)
    maker_of = {v: op for op in ops for v in op.outputs if v is not None}
    return [
        BatchedOp(
            in_place_variant(op, maker_of.get(op.inputs()[0]), op_freed, trace.shapes),
            op_freed,
            _is_samplewise(op, trace.shapes),
        )
        for op, op_freed in zip(ops, freed, strict=True)
    ]


def run_ops(ops: list[BatchedOp], values: dict[int, Tensor], trace: OpTrace) -> dict[int, Tensor]:
    """Execute ops on full values [M, 1, ...] of M samples; returns the values that were not freed."""
    for op, freed, samplewise in ops:
        output = call_for_op(op, lambda o=op, s=samplewise: _run_batched(o, values, s))  # type: ignore[misc]
        store_outputs(op, output, values)
        for value_id in freed:
            values.pop(value_id, None)
    return values


def _is_samplewise(op: Op, shapes: Mapping[int, tuple[int, ...]]) -> bool:
    inputs = op.inputs()
    outputs = [v for v in op.outputs if v is not None and v in shapes]
    single_sample = all(shapes[v][0] == 1 for v in (*inputs, *outputs) if shapes[v])
    return single_sample and all(shapes[v] for v in inputs) and propagated_axes(op, (0,), shapes) == (0,)


def _run_batched(op: Op, values: dict[int, Tensor], samplewise: bool) -> Any:
    """Execute one op for a batch of samples [1, ...]: directly if it is samplewise, else with `vmap` or a loop."""
    if samplewise:
        output = execute_op_on_part(op, lambda v: values[v].select(1, 0), (0,), (0,))
        return output.unsqueeze(1) if op.single_output else [o if o is None else o.unsqueeze(1) for o in output]
    input_ids = list(dict.fromkeys(op.inputs()))

    def run_sample(*sample: Tensor) -> Any:
        return execute_op(op, dict(zip(input_ids, sample, strict=True)).__getitem__)

    inputs = [values[v] for v in input_ids]
    if _has_batching_rule(op):
        return torch.func.vmap(run_sample, randomness="error")(*inputs)
    output = [run_sample(*sample) for sample in zip(*inputs, strict=True)]
    if op.single_output:
        return torch.stack(output)
    return [None if parts[0] is None else torch.stack(parts) for parts in zip(*output, strict=True)]


def _has_batching_rule(op: Op) -> bool:
    """Whether torch has a batching rule for the op; without one `vmap` warns and is slow."""
    keys = ("FuncTorchBatched", "FuncTorchBatchedDecomposition")
    if not isinstance(op.function, torch._ops.OpOverload):  # a fused op consists of ordinary operators
        return True
    name = op.function.name()
    return any(torch._C._dispatch_has_kernel_for_dispatch_key(name, key) for key in keys)


def call_for_op(op: Op, function: Callable[[], Any]) -> Any:
    """Call a function that executes an op; errors become a `TraceError` that names the op."""
    try:
        return function()
    except (RuntimeError, ValueError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        raise TraceError(f"{op.name} cannot be executed for a batch of samples: {error}") from error
