"""Prepare a network for one reference picture, then compute its outputs for masked copies or for other pictures.

Incremental inference after Nakandala et al. 2019 ("Incremental and approximate inference for faster occlusion-based
deep CNN explanations", Krypton); README.md describes the data flow through the files of this package.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from seewhy.axes.layout import from_canonical
from seewhy.tracing.batch_norm_folding import fold_batch_norms, to_channels_last
from seewhy.tracing.final_activation import NetworkOutput, model_of_logits, output_from_logits
from seewhy.tracing.forward import call_model, eval_mode, is_out_of_memory, run_forward
from seewhy.tracing.op_trace import Op, OpTrace, TraceError, last_uses, store_outputs, trace_ops
from seewhy.tracing.outputs import is_finite

from .batched_ops import BatchedOp, call_for_op, run_ops, schedule_ops
from .fused_ops import fuse_activations, fuse_padding, pack_weights
from .linear import fuse_linear_layers
from .op_rules import Compute, PlanState, Workspace, plan_op
from .patches import make_patch_buffer, read_windows, write_patches
from .receptive_field import ChangedRegion, Window, group_masks

if TYPE_CHECKING:
    from seewhy.model import Model
    from seewhy.types import Inputs

MIN_SAMPLES_TO_TRACE = 24  # forward passes from which tracing the network first saves time
MAX_CHANGED_FRACTION = 0.85  # of a value inside the window; above it the whole value is computed
WINDOW_BATCH_SIZE = 24  # masks per batch
MAX_TAIL_ELEMENTS = 2**16  # elements per mask in the values of the tail ops
TAIL_BATCH_SIZE = 512  # masks per batch in the tail ops
CPU_CHUNK_ELEMENTS = 7 * 2**20  # elements of the largest value of a chunk of pictures, on a CPU
SMALL_VALUE_ELEMENTS = 400_000  # elements per picture up to which values are computed without chunks
SUPPORTED_DTYPES = {torch.float32, torch.float64}
TOLERANCE_ULPS = 2.0**10  # allowed rounding difference, in machine epsilons of the largest output
TF32_TOLERANCE = 2.0**-6  # the same as a fraction of the largest output, where a GPU may compute in TF32


class WindowedOp(NamedTuple):
    """An op executed on windows, how to compute it, and the ids of the values that are freed after it."""

    op: Op
    compute: Compute
    freed: list[int]


class ExecutionPlan(NamedTuple):
    """How the ops are executed for one group of masks.

    Attributes:
        state: the changed regions, and the values that need a patch buffer.
        windowed_ops: executed first, on windows only.
        assembled: values then assembled in full from the reference value and the window.
        full_ops: executed last, on full values.
    """

    state: PlanState
    windowed_ops: list[WindowedOp]
    assembled: list[int]
    full_ops: list[BatchedOp]


@dataclass(frozen=True)
class PreparedNetwork:
    """A network with the op trace of one reference picture; valid while the weights do not change.

    Attributes:
        model: the model.
        x: [1, C, *S] the reference picture.
        trace: the ops of the forward pass on `x`, with batch norms, linear layers and activations fused.
        activation: the final activation that the network has after `model`, which then computes its logits.
    """

    model: Model
    x: Tensor
    trace: OpTrace
    activation: str | None = None

    def masked_outputs(
        self,
        starts: Tensor,
        patch: Tensor,
        *,
        batch_size: int = WINDOW_BATCH_SIZE,
        max_fraction: float = MAX_CHANGED_FRACTION,
        max_memory: int | None = None,
    ) -> Tensor | str:
        """The network's outputs when the window [start, start + w) of the reference picture is replaced by a patch.

        One masked picture, chosen pseudo-randomly, is verified with the network itself.

        Args:
            starts: [M, D] the first position of each window, in pixels; the windows lie inside the picture.
            patch: [M or 1, C, *w] the contents of each window, or of all windows.
            batch_size: maximum number of masks per batch.
            max_fraction: fraction of a value inside the window above which the whole value is computed.
            max_memory: bytes that the computation may allocate; None: no limit.

        Returns:
            [M, ...] one output per mask, or the reason why they cannot be computed.
        """
        with eval_mode(self.model), torch.no_grad():
            try:
                return _masked_outputs(self, starts, patch, batch_size, max_fraction, max_memory)
            except TraceError as reason:
                return str(reason)

    @cached_property
    def windowed_trace(self) -> OpTrace:
        """The trace used for windows: weights of convolutions packed for oneDNN."""
        return pack_weights(self.trace)

    @cached_property
    def full_ops(self) -> list[BatchedOp]:
        """All ops, scheduled for full pictures: padding fused as well, weights packed."""
        return schedule_ops(pack_weights(fuse_padding(self.trace)).ops, {self.trace.output_id}, self.trace)

    @cached_property
    def num_chunked_ops(self) -> int:
        """Number of leading ops, up to the last one with a large output, that are executed in chunks of pictures."""
        sizes = [
            max((_numel(self.trace, v) for v in op.outputs if v is not None), default=0) for op, *_ in self.full_ops
        ]
        return max((i + 1 for i, size in enumerate(sizes) if size > SMALL_VALUE_ELEMENTS), default=0)

    def _outputs_in_chunks(self, points: Tensor) -> Tensor:
        """Execute the leading ops on chunks of pictures that fit the processor cache, the other ops on all."""
        chunked_ops, remaining_ops = self.full_ops[: self.num_chunked_ops], self.full_ops[self.num_chunked_ops :]
        largest = max((_numel(self.trace, v) for op, *_ in chunked_ops for v in op.outputs if v is not None), default=1)
        chunk_size = max(1, CPU_CHUNK_ELEMENTS // largest) if points.device.type == "cpu" else len(points)
        input_id, output_id = self.trace.input_id, self.trace.output_id
        chunk_results = [
            run_ops(chunked_ops, {input_id: chunk.unsqueeze(1)}, self.trace) for chunk in points.split(chunk_size)
        ]
        values = {
            v: torch.cat([result[v].flatten(0, 1) for result in chunk_results]).unsqueeze(1) for v in chunk_results[0]
        }
        return run_ops(remaining_ops, values, self.trace)[output_id].squeeze(1)

    def outputs_for(self, points: Tensor, *, verify: bool) -> Tensor | str:
        """The network's outputs for other pictures, computed from the trace (fused ops, channels-last weights).

        Args:
            points: [M, C, *S] pictures of the same shape as `x`.
            verify: compute the first output with the network itself as well, and compare.

        Returns:
            [M, ...] one output per picture, or the reason why they cannot be computed.
        """
        with eval_mode(self.model), torch.no_grad():
            try:
                _verify_weights(self.trace)
                output = self._outputs_in_chunks(to_channels_last(points))
                if verify:
                    _verify_sample(self.model, points[:1], output[0])
                return output
            except TraceError as reason:
                return str(reason)


def prepare_network(model: Model, x: Inputs, activation: str | None = None) -> PreparedNetwork | str:
    """Trace the network on one reference picture and keep the values of its layers.

    Args:
        model: the model; its weights must not change afterwards.
        x: [1, C, *S] the reference picture, float32 or float64.
        activation: the activation at the end of the network, if only what enters it is to be computed.

    Returns:
        The prepared network, or the reason why the network cannot be traced.
    """
    if x.dtype not in SUPPORTED_DTYPES or x.ndim < 3 or len(x) != 1:
        return (
            f"the input has dtype {str(x.dtype).removeprefix('torch.')} and shape {list(x.shape)}; incremental "
            "inference needs float32 or float64, one sample and at least one spatial axis"
        )
    if torch.is_autocast_enabled(x.device.type):
        return "autocast is enabled and changes the precision between layers"
    model = model if activation is None else model_of_logits(model)
    with eval_mode(model), torch.no_grad():
        reference = to_channels_last(x.detach().clone())
        try:
            trace = trace_ops(lambda z: model.forward(from_canonical(z, model.layout)), reference)
            return PreparedNetwork(model, x, fuse_activations(fuse_linear_layers(fold_batch_norms(trace))), activation)
        except TraceError as reason:
            return str(reason)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            return f"the network cannot be traced: {error}"


def output_function(
    model: Model, prepared: PreparedNetwork | str, layer: str | None = None
) -> Callable[[Inputs], NetworkOutput]:
    """A function from pictures to the outputs of the network or of one layer; it uses the trace where possible.

    Args:
        model: the model.
        prepared: the result of `prepare_network`; where it is a reason (str), each call runs the network itself.
        layer: the layer whose output is returned; None: the network's output. With a layer, the network itself runs.
    """
    usable = [] if isinstance(prepared, str) or layer is not None else [prepared]  # emptied at the first failure
    verify = True

    def outputs(points: Inputs) -> NetworkOutput:
        nonlocal verify
        if usable:
            output = usable[0].outputs_for(points, verify=verify)
            verify = False
            if isinstance(output, Tensor) and is_finite(output):
                return output_from_logits(output, usable[0].activation, model)
            usable.clear()
        return run_forward(model, points.contiguous(), graph=False, reduction_layer=layer).explained

    return outputs


def _masked_outputs(
    prepared: PreparedNetwork,
    starts: Tensor,
    patch: Tensor,
    batch_size: int,
    max_fraction: float,
    max_memory: int | None,
) -> Tensor:
    trace, x = prepared.windowed_trace, prepared.x
    _verify_weights(trace)
    window = Window(starts.cpu().numpy().astype(np.int64), tuple(patch.shape[2:]))
    tail = tail_ops(trace)
    grouped_outputs, pending = [], []
    groups = group_masks(window, x.shape[2:], batch_size)
    for members in groups:
        group_window = Window(window.starts[members], window.size)
        region = ChangedRegion(tuple(x.shape), tuple(range(2, x.ndim)), group_window)
        plan = build_plan(trace, region, max_fraction, tail)
        group_patch = patch if len(patch) == 1 else patch[torch.from_numpy(members).to(patch.device)]
        pending += _tail_inputs(plan, group_patch.to(x).expand(len(members), *patch.shape[1:]), max_memory)
        if members is groups[-1] or sum(len(v) for values in pending for v in values.values()) >= TAIL_BATCH_SIZE:
            tail_values = {v: torch.cat([values[v] for values in pending]) for v in tail.inputs}
            values = run_ops(schedule_ops(tail.ops, {trace.output_id}, trace), tail_values, trace)
            grouped_outputs.append(values[trace.output_id].squeeze(1))
            pending = []
    grouped = torch.cat(grouped_outputs)
    output = torch.empty_like(grouped)
    output[torch.from_numpy(np.concatenate(groups)).to(output.device)] = grouped
    checked = int(torch.randint(len(starts), (), generator=torch.Generator().manual_seed(len(starts))))
    box = tuple(slice(s, s + n) for s, n in zip(starts[checked].tolist(), patch.shape[2:], strict=True))
    masked_x = x.clone()
    masked_x[0][(slice(None), *box)] = patch[checked if len(patch) > 1 else 0].to(x)
    _verify_sample(prepared.model, masked_x, output[checked])
    return output


def _verify_weights(trace: OpTrace) -> None:
    if not trace.weights_unchanged():
        raise TraceError("the weights have changed since the network was prepared")


def _tail_inputs(plan: ExecutionPlan, patch: Tensor, max_memory: int | None) -> list[dict[int, Tensor]]:
    """The input values of the tail ops for the masks of one plan, one dict per batch; batches respect `max_memory`."""
    state = plan.state
    batch_size = len(patch)
    if max_memory is not None:
        batch_size = max(1, min(batch_size, max_memory // _bytes_per_mask(plan, patch.element_size())))
    workspace = Workspace(
        {v: make_patch_buffer(state.trace.reference_value(v), state.regions[v], batch_size) for v in state.buffered}
    )
    results = []
    for start in range(0, len(patch), batch_size):
        workspace.mask_slice = slice(start, min(start + batch_size, len(patch)))
        values = _run_windowed_ops(plan, workspace, patch[workspace.mask_slice])
        results.append(run_ops(plan.full_ops, values, state.trace))
    return results


class TailOps(NamedTuple):
    """The last ops, which have small values and are executed for many masks together, and their input values."""

    ops: tuple[Op, ...]
    inputs: set[int]


def tail_ops(trace: OpTrace) -> TailOps:
    """The last ops of a trace that have small values, mostly the matrix products of the classifier."""
    first = len(trace.ops)
    while first and _is_tail_op(trace.ops[first - 1], trace):
        first -= 1
    ops = trace.ops[first:]
    inputs = {v for op in ops for v in op.inputs()} - {v for op in ops for v in op.outputs}
    return TailOps(ops, inputs if ops else {trace.output_id})


def _is_tail_op(op: Op, trace: OpTrace) -> bool:
    small = all(math.prod(trace.shapes[v]) <= MAX_TAIL_ELEMENTS for v in (*op.inputs(), *op.outputs) if v is not None)
    return small and op.name.removeprefix("aten::") in {"mm", "addmm", "reshape", "relu", "clone"}


def build_plan(trace: OpTrace, input_region: ChangedRegion, max_fraction: float, tail: TailOps) -> ExecutionPlan:
    """Plan the ops before the tail: on windows where a rule exists and the window is small enough, else in full.

    Args:
        trace: the ops.
        input_region: the windows of the masks in the input.
        max_fraction: fraction of a value inside the window above which an op is executed on the full value.
        tail: the last ops, which are not planned.
    """
    state = PlanState(trace, trace.users(), {trace.input_id: input_region})
    computed: list[tuple[Op, Compute]] = []
    assembled: dict[int, None] = {}
    full_ops: list[Op] = []
    for op in trace.ops[: len(trace.ops) - len(tail.ops)]:
        inputs = op.inputs()
        if input_region.fraction <= max_fraction and all(v in state.regions for v in inputs):
            buffered_before = set(state.buffered)
            op_plan = plan_op(op, state)
            if op_plan is not None and max(region.fraction for region in op_plan.regions) <= max_fraction:
                output_ids = [v for v in op.outputs if v is not None]
                state.regions.update(zip(output_ids, op_plan.regions, strict=False))
                computed.append((op, op_plan.compute))
                continue
            state.buffered = buffered_before
        full_ops.append(op)
        assembled.update(dict.fromkeys(v for v in inputs if v in state.regions))
    assembled.update(dict.fromkeys(v for v in tail.inputs if v in state.regions))
    state.buffered |= set(assembled)
    freed = last_uses(tuple(op for op, _ in computed), set(assembled))
    windowed_ops = [WindowedOp(*pair, op_freed) for pair, op_freed in zip(computed, freed, strict=True)]
    return ExecutionPlan(state, windowed_ops, list(assembled), schedule_ops(full_ops, tail.inputs, trace))


def _run_windowed_ops(plan: ExecutionPlan, workspace: Workspace, patch: Tensor) -> dict[int, Tensor]:
    """Execute the windowed ops and return the assembled values that later ops use, [M, 1, ...] each."""
    state = plan.state
    workspace.patches = {}

    def store_patch(value_id: int, new_patch: Tensor) -> None:
        workspace.patches[value_id] = new_patch
        if value_id in state.buffered:
            write_patches(workspace.buffers[value_id], new_patch, state.regions[value_id])

    store_patch(state.trace.input_id, patch)
    for op, compute, freed in plan.windowed_ops:
        outputs: dict[int, Tensor] = {}
        store_outputs(op, call_for_op(op, lambda c=compute: c(workspace)), outputs)  # type: ignore[misc]
        for value_id, new_patch in outputs.items():
            if value_id in state.regions:
                store_patch(value_id, new_patch)
        for value_id in freed:
            workspace.patches.pop(value_id, None)
    assembled = {}
    for value_id in plan.assembled:
        region = state.regions[value_id]
        assembled[value_id] = read_windows(
            workspace.buffers[value_id], region, region.full_window(), workspace.mask_slice, 0.0
        ).unsqueeze(1)
    workspace.patches = {}
    return assembled


def _numel(trace: OpTrace, value_id: int) -> int:
    return math.prod(trace.shapes[value_id])


def _bytes_per_mask(plan: ExecutionPlan, element_size: int) -> int:
    """Estimated memory per mask: its patches in the buffers and three times the largest value."""
    state = plan.state
    buffered = sum(_window_numel(state.regions[v]) for v in state.buffered)
    full = max((_numel(state.trace, v) for op, *_ in plan.full_ops for v in op.outputs if v is not None), default=0)
    largest_window = max((_window_numel(region) for region in state.regions.values()), default=0)
    return (buffered + 3 * max(full, largest_window)) * element_size


def _window_numel(region: ChangedRegion) -> int:
    return math.prod(region.shape) // max(1, math.prod(region.lengths)) * math.prod(region.window.size)


def _verify_sample(model: Model, x: Tensor, output: Tensor) -> None:
    """Compare the output for one picture [1, C, *S] with the network's own output.

    Raises:
        TraceError: they differ by more than rounding.
    """
    expected = call_model(model, x)
    if expected.numel() == 0:
        raise TraceError("the network's output is empty")
    if expected.shape[1:] != output.shape:
        raise TraceError(
            f"the incremental output of one sample has shape {list(output.shape)}, the network's output "
            f"has shape {list(expected.shape[1:])}"
        )
    uses_tf32 = x.is_cuda and x.dtype == torch.float32 and torch.backends.cudnn.allow_tf32
    tolerance = (TF32_TOLERANCE if uses_tf32 else TOLERANCE_ULPS * torch.finfo(x.dtype).eps) * expected.abs().max()
    if not bool((expected[0] - output).abs().max() <= tolerance):
        raise TraceError("the incremental output of one sample differs from the network's output by more than rounding")
