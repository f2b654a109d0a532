"""The layers, and the functions between them, that ran in one forward pass of one sample, in execution order.

A layer that ran more than once gets one name per call, such as "relu#2". A function is named after the layer that
called it, such as "layer1.0/add".
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from seewhy.axes.feature_layout import FeatureLayout, conventional_axes, feature_layout

from .axis_trace import AxisTrace, axes_of_layout, trace_axes
from .forward import run_forward
from .observer import observe_calls
from .outputs import iter_tensors

if TYPE_CHECKING:
    from seewhy.axes.factors import Axes
    from seewhy.model import Model
    from seewhy.types import Inputs


class LayerCall(NamedTuple):
    """One call of a layer, or of a function between layers.

    Attributes:
        name: the layer's name, or "owner/function"; with "#2" for a second call.
        module: the layer; None for a function.
        type_name: the type of the layer, or the name of the function.
        shape: shape of the first tensor of the output, with the batch axis; None if the output has no tensor.
        edge: the first tensor of the output in the autograd graph, as it was before later in-place operations; None if
            it has no gradient.
        axes: the meaning of its axes; None if it does not depend on the input.
    """

    name: str
    module: nn.Module | None
    type_name: str
    shape: tuple[int, ...] | None
    edge: GradientEdge | None
    axes: Axes | None


class ExecutionRecord(NamedTuple):
    """One forward pass with its autograd graph.

    Attributes:
        calls: every call, in the order in which the calls ended.
        target_output: the tensors of the output from which the target scores are computed.
        input_node: the node of the input in the autograd graph.
        output_axes: the meaning of the axes of each of these tensors; None if it does not depend on the input.
    """

    calls: list[LayerCall]
    target_output: list[Tensor]
    input_node: Node
    output_axes: list[Axes | None]


def record_execution(model: Model, x: Inputs, reduction_layer: str | None = None) -> ExecutionRecord:
    """Run one sample and record every call of a layer or function.

    Args:
        model: the model; must have a module.
        x: the batch; only the first sample is run.
        reduction_layer: the layer whose output is explained; None: the model's output.
    """
    assert model.module is not None
    module, calls = model.module, []
    trace: AxisTrace

    def record(name: str, layer: nn.Module | None, output: Any) -> None:
        first = next(iter(iter_tensors(output)), None)
        type_name = name.rpartition("/")[2] if layer is None else type(layer).__name__
        edge = get_gradient_edge(first) if first is not None and first.requires_grad else None
        shape, axes = (None, None) if first is None else (tuple(first.shape), trace.axes_of(first))
        calls.append(LayerCall(name, layer, type_name, shape, edge, axes))

    def forward(x: Tensor) -> Any:
        nonlocal trace
        axes = axes_of_layout(tuple(x.shape), model.layout)
        with trace_axes(module, x, axes) as trace, observe_calls(module, record):
            return model.forward(x)

    done = run_forward(replace(model, forward=forward), x[:1], graph=True, reduction_layer=reduction_layer)
    target_output = [t for t in iter_tensors(done.target_output) if t.is_floating_point()]
    output_axes = [trace.axes_of(t) for t in target_output]
    return ExecutionRecord(_number_repeated_calls(calls), target_output, get_gradient_edge(done.x).node, output_axes)


def _number_repeated_calls(calls: list[LayerCall]) -> list[LayerCall]:
    """The calls, with "#1", "#2" and so on appended to names that occur more than once."""
    counts, current = Counter(call.name for call in calls), Counter[str]()
    numbered = []
    for call in calls:
        current[call.name] += 1
        numbered.append(call if counts[call.name] == 1 else call._replace(name=f"{call.name}#{current[call.name]}"))
    return numbered


def innermost_call(calls: list[LayerCall]) -> LayerCall:
    """Of calls that returned the same tensor, that of the innermost layer that ran exactly once; else the first."""
    return next((c for c in calls if c.module is not None and "#" not in c.name), calls[0])


def feature_layouts(calls: list[LayerCall], size: tuple[int, ...]) -> list[FeatureLayout | None]:
    """The layout of the output of each call, from the operations that made it, else by a convention."""
    layouts, grids = [], [size]
    for call in calls:
        layout = None if call.axes is None else feature_layout(call.axes, len(size))
        if layout is None and call.axes is not None and any("?" in axis.letters for axis in call.axes):
            layout = _conventional_layout(call, grids)
        elif layout is not None:
            grids.append(layout.grid)
        layouts.append(layout)
    return layouts


def _conventional_layout(call: LayerCall, grids: list[tuple[int, ...]]) -> FeatureLayout | None:
    """The layout by convention, if exactly one reading of the axes fits what is known."""
    assert call.axes is not None
    readings = conventional_axes(call.axes, grids)
    if len(readings) != 1:
        return None
    layout = feature_layout(readings[0], len(grids[0]))
    return layout and layout._replace(
        convention=f"the operations that make the output of layer {call.name!r}, {list(call.shape or ())}, do not show "
        f"what its axes mean; by its shape, {layout.grid} were taken as positions"
    )
