"""Rules of incremental inference: for each op the output window that changes, and how to compute only that window.

`plan_op` selects the rule. An op without a rule is executed on full values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from seewhy.tracing.op_trace import Op, OpTrace, ValueRef

from .axis_propagation import execute_op_on_part, is_elementwise, propagated_axes
from .fused_ops import ACTIVATED_CONVOLUTION_OP
from .patches import PatchBuffer, read_windows, slice_per_sample, to_tensor, window_positions
from .receptive_field import (
    ChangedRegion,
    SlidingKernel,
    Window,
    enclosing_window,
    input_window,
    output_window,
    same_windows,
    transposed_input_window,
    transposed_output_window,
    union_window,
)

aten = torch.ops.aten
POOLING_OPS = {"max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool2d", "avg_pool3d"}
RESAMPLING_OPS = {
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_linear1d", "upsample_bilinear2d",
    "upsample_trilinear3d", "upsample_bicubic2d", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d",
    "replication_pad1d", "replication_pad2d", "replication_pad3d",
}  # fmt: skip
MULTI_OUTPUT_OPS = {"split", "split_with_sizes", "unbind", "max", "min"}  # all outputs change in the same window
MAX_PROBE_ELEMENTS = 2**24  # elements of the unit impulses that determine a resampling matrix


@dataclass
class Workspace:
    """The working data for one batch of masks.

    Attributes:
        buffers: for each buffered value the reference value and the patches of the masks.
        mask_slice: the batch, as a slice of the masks of the plan.
        patches: value id -> [M, ...] contents of the windows of the value.
    """

    buffers: dict[int, PatchBuffer]
    mask_slice: slice = field(default_factory=lambda: slice(0, 0))
    patches: dict[int, Tensor] = field(default_factory=dict)


Compute = Callable[[Workspace], Any]


class OpPlan(NamedTuple):
    """An op executed on windows: a function from the workspace to its output, and the region of each output."""

    compute: Compute
    regions: tuple[ChangedRegion, ...]


@dataclass
class PlanState:
    """State while the ops of a trace are planned.

    Attributes:
        trace: the op trace.
        users: for each value the ops that use it.
        regions: the values that the masks change only inside windows.
        buffered: ids of those values that are also read outside their windows and need a patch buffer.
    """

    trace: OpTrace
    users: dict[int, list[Op]]
    regions: dict[int, ChangedRegion]
    buffered: set[int] = field(default_factory=set)

    def region_with_axes(self, value_id: int, axes: Sequence[int]) -> ChangedRegion:
        """The region of a value with at least these position axes; further axes are added to the state."""
        region = self.regions[value_id]
        if not set(axes) <= set(region.axes):
            self.regions[value_id] = region.with_axes(sorted({*axes, *region.axes}))
        return self.regions[value_id].with_axes(axes)

    def window_reader(self, value_id: int, axes: Sequence[int], wanted: Window, fill: float = 0.0) -> Compute:
        """A function from the workspace to the contents of these windows of a value [M, ...].

        Args:
            value_id: the value.
            axes: the axes of the windows.
            wanted: the windows; they may extend beyond the border.
            fill: value beyond the border, one of `BORDER_FILLS`.
        """
        region = self.region_with_axes(value_id, axes)
        if same_windows(wanted, region.window):
            return lambda workspace: workspace.patches[value_id]
        self.buffered.add(value_id)

        def read_from_buffer(workspace: Workspace) -> Tensor:
            changed = self.regions[value_id]  # further axes may have been added later
            window = ChangedRegion(changed.shape, tuple(axes), wanted).with_axes(changed.axes).window
            return read_windows(workspace.buffers[value_id], changed, window, workspace.mask_slice, fill)

        return read_from_buffer


def plan_op(op: Op, state: PlanState) -> OpPlan | None:
    """The plan of an op whose inputs change only inside windows; None if no rule applies."""
    name = op.name.removeprefix("aten::")
    used_outputs = [
        i for i, v in enumerate(op.outputs) if v is not None and (state.users[v] or v == state.trace.output_id)
    ]
    if used_outputs and max(used_outputs) > 0 and name not in MULTI_OUTPUT_OPS:
        return None
    if name in {"convolution", ACTIVATED_CONVOLUTION_OP}:
        return _plan_convolution(op, state)
    if name in POOLING_OPS:
        return _plan_pooling(op, state)
    if name == "constant_pad_nd":
        return _plan_pad(op, state)
    if name in RESAMPLING_OPS:
        return _plan_resampling(op, state)
    if name == "slice":
        return _plan_positionwise(op, state) or _plan_slice(op, state)
    return _plan_positionwise(op, state)


def _output_shape(op: Op, state: PlanState, output: int = 0) -> tuple[int, ...]:
    value_id = op.outputs[output]
    return () if value_id is None else state.trace.shapes[value_id]


def _plan_positionwise(op: Op, state: PlanState) -> OpPlan | None:
    """Rule for ops that treat all positions independently and identically: executed on the window itself."""
    inputs = list(dict.fromkeys(op.inputs()))
    shapes = state.trace.shapes
    if len({len(shapes[v]) for v in inputs}) > 1 or any(shapes[v][0] != 1 for v in inputs):
        return None
    axes = tuple(sorted({a for v in inputs for a in state.regions[v].axes if shapes[v][a] > 1}))
    after = (0, *axes) if _concatenates_other_axis(op, (0, *axes), state) else propagated_axes(op, (0, *axes), shapes)
    if not axes or after is None or after[0] != 0:
        return None
    regions = [state.region_with_axes(v, axes) for v in inputs]
    lengths = regions[0].lengths
    if any(region.lengths != lengths for region in regions):
        return None
    window = union_window([region.window for region in regions], lengths)
    readers = {v: state.window_reader(v, axes, window) for v in inputs}
    op_at = _with_windowed_constants(op, len(shapes[inputs[0]]), axes, lengths, window)

    def compute(workspace: Workspace) -> Any:
        values = {v: reader(workspace) for v, reader in readers.items()}
        return execute_op_on_part(op_at(workspace), values.__getitem__, (0, *axes), after)

    count = len(op.outputs) if op.name.removeprefix("aten::") in MULTI_OUTPUT_OPS else 1
    return OpPlan(compute, tuple(ChangedRegion(_output_shape(op, state, i), after[1:], window) for i in range(count)))


def _concatenates_other_axis(op: Op, axes: Sequence[int], state: PlanState) -> bool:
    """Whether an op is a concatenation, possibly with constants, along an axis that is not among these."""
    if op.name != "aten::cat":
        return False
    ranks = {len(state.trace.shapes[p.value_id]) if isinstance(p, ValueRef) else p.ndim for p in op.args[0]}
    return len(ranks) == 1 and op.arguments.get("dim", 0) % ranks.pop() not in axes


def _with_windowed_constants(
    op: Op, ndim: int, axes: Sequence[int], lengths: Sequence[int], window: Window
) -> Callable[[Workspace], Op]:
    """A function from the workspace to the op with its constants cut to the windows of the masks."""
    if op.name != "aten::cat" and not is_elementwise(op):
        return lambda _: op  # its constants have no position axes

    def windowed(constant: Any, workspace: Workspace) -> Any:
        if type(constant) in {list, tuple}:
            return type(constant)(windowed(v, workspace) for v in constant)
        if not isinstance(constant, Tensor) or constant.ndim == 0:
            return constant
        constant = constant.view([1] * (ndim - constant.ndim) + list(constant.shape))
        columns = [d for d, axis in enumerate(axes) if constant.shape[axis] == lengths[d] and lengths[d] > 1]
        starts = window.starts[workspace.mask_slice]
        if not columns and op.name != "aten::cat":
            return constant
        constant = constant.expand(len(starts), *constant.shape[1:])
        return slice_per_sample(
            constant, starts[:, columns], [axes[d] for d in columns], [window.size[d] for d in columns]
        )

    def op_with_constants(workspace: Workspace) -> Op:
        return op._replace(
            args=tuple(windowed(constant, workspace) for constant in op.args),
            kwargs={k: windowed(v, workspace) for k, v in op.kwargs.items()},
        )

    def has_tensor(tree: Any) -> bool:
        return any(has_tensor(v) if type(v) in {list, tuple} else isinstance(v, Tensor) for v in tree)

    return op_with_constants if has_tensor([*op.args, *op.kwargs.values()]) else lambda _: op


def _sliding_kernels(op: Op, dims: int) -> list[SlidingKernel]:
    arguments = op.arguments

    def per_axis(name: str, default: Sequence[int]) -> list[int]:
        values = list(arguments.get(name) or default)
        return values * dims if len(values) == 1 else values

    kernel = per_axis("kernel_size", list(arguments["weight"].shape[2:]) if "weight" in arguments else [])
    stride = per_axis("stride", kernel)
    padding, dilation = per_axis("padding", [0]), per_axis("dilation", [1])
    return [SlidingKernel(*k) for k in zip(kernel, stride, padding, dilation, strict=True)]


def _spatial_input(op: Op, state: PlanState) -> tuple[int, ChangedRegion] | None:
    """The value a kernel slides over, and its region with all axes after the channels as position axes."""
    inputs = op.inputs()
    if len(inputs) != 1 or not isinstance(op.args[0], ValueRef):
        return None
    shape = state.trace.shapes[inputs[0]]
    region = state.regions[inputs[0]]
    axes = tuple(range(2, len(shape)))
    if not axes or shape[0] != 1 or any(a < 2 for a in region.axes if shape[a] > 1):
        return None
    return inputs[0], state.region_with_axes(inputs[0], axes)


def _plan_convolution(op: Op, state: PlanState) -> OpPlan | None:
    spatial = _spatial_input(op, state)
    arguments = op.arguments
    if spatial is None or not isinstance(arguments["weight"], Tensor):
        return None
    value_id, region = spatial
    dims = len(region.axes)
    if arguments["weight"].ndim != dims + 2:
        return None
    if arguments["transposed"]:
        return _plan_transposed_convolution(op, state, value_id, region)
    kernels = _sliding_kernels(op, dims)
    shape = _output_shape(op, state)
    window = output_window(region.window, kernels, shape[2:])
    reader = state.window_reader(value_id, region.axes, input_window(window, kernels))
    other_arguments = {k: v for k, v in arguments.items() if k != "input"}
    convolve = partial(
        op.function, **other_arguments | {"padding": [0] * dims}
    )  # the input window includes the padding
    return OpPlan(lambda workspace: convolve(reader(workspace)), (ChangedRegion(shape, region.axes, window),))


def _plan_transposed_convolution(op: Op, state: PlanState, value_id: int, region: ChangedRegion) -> OpPlan:
    arguments, dims = op.arguments, len(region.axes)
    kernels = _sliding_kernels(op, dims)
    shape = _output_shape(op, state)
    window = transposed_output_window(region.window, kernels, shape[2:])
    needed, skip = transposed_input_window(window, kernels)
    reader = state.window_reader(value_id, region.axes, needed)
    other_arguments = *(arguments[k] for k in ("weight", "bias", "stride")), [0] * dims, arguments["dilation"], True
    # outputs beyond the last kernel element, which no input reaches, equal the bias
    written = [(n - 1) * k.stride + k.dilated_size for n, k in zip(needed.size, kernels, strict=True)]
    extra = [max(0, int(s.max()) + n - w) for s, n, w in zip(skip.T, window.size, written, strict=True)]

    def compute(workspace: Workspace) -> Tensor:
        output = aten.convolution(reader(workspace), *other_arguments, [0] * dims, arguments["groups"])
        if any(extra):
            output = _extended_by_bias(output, extra, arguments["bias"])
        return slice_per_sample(output, skip[workspace.mask_slice], region.axes, window.size)

    return OpPlan(compute, (ChangedRegion(shape, region.axes, window),))


def _extended_by_bias(output: Tensor, missing: Sequence[int], bias: Tensor | None) -> Tensor:
    size = [*output.shape[:2], *(n + e for n, e in zip(output.shape[2:], missing, strict=True))]
    extended = output.new_zeros(size)
    if bias is not None:
        extended += bias.view(-1, *[1] * len(missing))
    inner = extended
    for axis, n in enumerate(output.shape):
        inner = inner.narrow(axis, 0, n)
    inner.copy_(output)
    return extended


def _plan_pooling(op: Op, state: PlanState) -> OpPlan | None:
    spatial = _spatial_input(op, state)
    dims = 3 if "3d" in op.name else 2
    if spatial is None or len(spatial[1].axes) != dims:
        return None
    value_id, region = spatial
    arguments, shape = op.arguments, _output_shape(op, state)
    kernels = _sliding_kernels(op, dims)
    window = output_window(region.window, kernels, shape[2:])
    is_max = "max" in op.name
    reader = state.window_reader(value_id, region.axes, input_window(window, kernels), -math.inf if is_max else 0.0)
    kernel, stride = [k.size for k in kernels], [k.stride for k in kernels]
    if is_max:
        dilation = [k.dilation for k in kernels]

        def maxima(workspace: Workspace) -> Any:
            # the operator itself, because the indices are among the outputs of the op
            return op.function(reader(workspace), kernel, stride, [0] * dims, dilation, False)

        return OpPlan(maxima, (ChangedRegion(shape, region.axes, window), ChangedRegion(shape, region.axes, window)))
    divisors = _divisor_factors(
        arguments, kernels, region.lengths, shape[2:], next(iter(state.trace.saved_values.values())).device
    )

    def means(workspace: Workspace) -> Tensor:
        total = op.function(reader(workspace), kernel, stride, [0] * dims, False, False, 1)
        for d, (factors, n) in enumerate(zip(divisors, window.size, strict=True)):
            positions = window_positions(to_tensor(window.starts[workspace.mask_slice, d], total.device), n)
            divisor = factors[positions].to(total.dtype)
            total = total / divisor.view(len(divisor), 1, *(n if e == d else 1 for e in range(dims)))
        return total  # type: ignore[no-any-return]

    return OpPlan(means, (ChangedRegion(shape, region.axes, window),))


def _divisor_factors(
    arguments: dict[str, Any],
    kernels: Sequence[SlidingKernel],
    lengths: Sequence[int],
    after: Sequence[int],
    device: torch.device,
) -> list[Tensor]:
    """Divisor of an average pooling as a product of one factor per axis: the elements counted at each output."""
    override = arguments.get("divisor_override")
    factors = []
    for d, (k, before, n) in enumerate(zip(kernels, lengths, after, strict=True)):
        first = torch.arange(n, device=device) * k.stride - k.padding
        last = (first + k.size).clamp(max=before + k.padding)
        if not arguments.get("count_include_pad", True):
            first, last = first.clamp(min=0), last.clamp(max=before)
        factors.append(last - first if override is None else torch.full_like(first, override if d == 0 else 1))
    return factors


def _plan_shift(op: Op, state: PlanState, kernels: dict[int, SlidingKernel]) -> OpPlan | None:
    """Rule for ops that only move positions along some axes: padding and slicing."""
    inputs = op.inputs()
    shape = state.trace.shapes[inputs[0]]
    if len(inputs) != 1 or shape[0] != 1 or 0 in kernels:
        return None
    axes = tuple(sorted({*kernels, *(a for a in state.regions[inputs[0]].axes if shape[a] > 1)}))
    region = state.region_with_axes(inputs[0], axes)
    axis_kernels = [kernels.get(a, SlidingKernel(1, 1, 0, 1)) for a in axes]
    after = _output_shape(op, state)
    window = output_window(region.window, axis_kernels, [after[a] for a in axes])
    # with a stride, the positions in between are read and skipped
    reader = state.window_reader(inputs[0], axes, input_window(window, axis_kernels))
    strides = [slice(None)] * len(after)
    for a, kernel in zip(axes, axis_kernels, strict=True):
        strides[a] = slice(None, None, kernel.stride)
    return OpPlan(lambda workspace: reader(workspace)[tuple(strides)], (ChangedRegion(after, axes, window),))


def _plan_pad(op: Op, state: PlanState) -> OpPlan | None:
    shape, pads = state.trace.shapes[op.inputs()[0]], op.arguments["pad"]
    if op.arguments.get("value", 0) != 0:
        return None
    pairs = zip(pads[::2], strict=False)
    kernels = {len(shape) - 1 - i: SlidingKernel(1, 1, low, 1) for i, (low,) in enumerate(pairs)}
    return _plan_shift(op, state, {a: k for a, k in kernels.items() if a and any(pads[2 * (len(shape) - 1 - a) :][:2])})


def _plan_slice(op: Op, state: PlanState) -> OpPlan | None:
    arguments, shape = op.arguments, state.trace.shapes[op.inputs()[0]]
    axis = arguments.get("dim", 0) % len(shape)
    start = arguments.get("start") or 0
    start = min(max(start + shape[axis] if start < 0 else start, 0), shape[axis])
    return _plan_shift(op, state, {axis: SlidingKernel(1, arguments.get("step", 1), -start, 1)})


def _plan_resampling(op: Op, state: PlanState) -> OpPlan | None:
    """Rule for separable linear resampling; the matrix of each axis is measured with unit impulses."""
    spatial = _spatial_input(op, state)
    if spatial is None:
        return None
    value_id, region = spatial
    after, lengths = _output_shape(op, state), region.lengths
    if len(after) != len(region.shape) or max(lengths) * math.prod(lengths) > MAX_PROBE_ELEMENTS:
        return None
    matrices = [_resampling_matrix(op, state, d, lengths) for d in range(len(lengths))]
    low, high = zip(*(_affected_rows(matrix, region.window, d) for d, matrix in enumerate(matrices)), strict=True)
    window = enclosing_window(np.stack(low, 1), np.stack(high, 1), after[2:])
    low, high = zip(*(_affected_rows(matrix.T, window, d) for d, matrix in enumerate(matrices)), strict=True)
    needed = enclosing_window(np.stack(low, 1), np.stack(high, 1), lengths)
    reader = state.window_reader(value_id, region.axes, needed)

    def compute(workspace: Workspace) -> Tensor:
        y: Tensor = reader(workspace)
        for d, matrix in enumerate(matrices):
            rows = window_positions(to_tensor(window.starts[workspace.mask_slice, d], y.device), window.size[d])
            columns = window_positions(to_tensor(needed.starts[workspace.mask_slice, d], y.device), needed.size[d])
            parts = matrix[rows[:, :, None], columns[:, None, :]]  # [M, output positions, input positions]
            parts = parts.transpose(1, 2).view(len(parts), *[1] * (y.ndim - 3), columns.shape[1], rows.shape[1])
            y = (y.movedim(2 + d, -1) @ parts).movedim(-1, 2 + d)
        return y

    return OpPlan(compute, (ChangedRegion(after, region.axes, window),))


def _resampling_matrix(op: Op, state: PlanState, d: int, lengths: Sequence[int]) -> Tensor:
    """[outputs, inputs] matrix of a resampling op along axis d: its response to a unit impulse at each position."""
    n = lengths[d]
    reference = next(iter(state.trace.saved_values.values()))
    unit_impulses = torch.eye(n, dtype=reference.dtype, device=reference.device).view(
        1, n, *(n if e == d else 1 for e in range(len(lengths)))
    )
    output: Tensor = op.function(unit_impulses.expand(1, n, *lengths).contiguous(), *op.args[1:], **op.kwargs)
    for e in reversed(range(len(lengths))):
        output = output if e == d else output.select(2 + e, 0)
    return output[0].T.contiguous()


def _affected_rows(matrix: Tensor, window: Window, d: int) -> tuple[np.ndarray, np.ndarray]:
    """First row, and last row plus one, with a nonzero entry in the columns of each window. [M] each."""
    start, size = window.starts[:, d], window.size[d]
    before = np.pad((matrix != 0).cpu().numpy().cumsum(1), ((0, 0), (1, 0)))
    rows = (before[:, start + size] > before[:, start]).T
    return rows.argmax(1), rows.shape[1] - rows[:, ::-1].argmax(1)
