"""The layers, and the functions between them, that ran in one forward pass of one sample, in execution order.

A layer that ran more than once gets one name per call, such as "relu#2". A function is named after the layer that
called it, such as "layer1.0/add".
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from .forward import run_forward
from .observer import observe_calls
from .outputs import iter_tensors

if TYPE_CHECKING:
    from seewhy.model import Model
    from seewhy.types import Inputs

CONVOLUTION_OR_POOLING = re.compile(r"conv|pool", re.IGNORECASE)


class LayerCall(NamedTuple):
    """One call of a layer, or of a function between layers.

    Attributes:
        name: the layer's name, or "owner/function"; with "#2" for a second call.
        module: the layer; None for a function.
        type_name: the type of the layer, or the name of the function.
        shape: shape of the first tensor of the output, with the batch axis; None if the output has no tensor.
        edge: the first tensor of the output in the autograd graph, as it was before later in-place operations; None if
            it has no gradient.
    """

    name: str
    module: nn.Module | None
    type_name: str
    shape: tuple[int, ...] | None
    edge: GradientEdge | None


class ExecutionRecord(NamedTuple):
    """One forward pass with its autograd graph.

    Attributes:
        calls: every call, in the order in which the calls ended.
        target_output: the tensors of the output from which the target scores are computed.
        input_node: the node of the input in the autograd graph.
    """

    calls: list[LayerCall]
    target_output: list[Tensor]
    input_node: Node


def record_execution(model: Model, x: Inputs, reduction_layer: str | None = None) -> ExecutionRecord:
    """Run one sample and record every call of a layer or function.

    Args:
        model: the model; must have a module.
        x: the batch; only the first sample is run.
        reduction_layer: the layer whose output is explained; None: the model's output.
    """
    assert model.module is not None
    module, calls = model.module, []

    def record(name: str, layer: nn.Module | None, output: Any) -> None:
        first = next(iter(iter_tensors(output)), None)
        type_name = name.rpartition("/")[2] if layer is None else type(layer).__name__
        edge = get_gradient_edge(first) if first is not None and first.requires_grad else None
        calls.append(LayerCall(name, layer, type_name, None if first is None else tuple(first.shape), edge))

    def forward(x: Tensor) -> Any:
        with observe_calls(module, record):
            return model.forward(x)

    done = run_forward(replace(model, forward=forward), x[:1], graph=True, reduction_layer=reduction_layer)
    target_output = [t for t in iter_tensors(done.target_output) if t.is_floating_point()]
    return ExecutionRecord(_number_repeated_calls(calls), target_output, get_gradient_edge(done.x).node)


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


def spatial_grids(calls: list[LayerCall], x: Inputs, channels_last: bool) -> list[tuple[int, ...]]:
    """The spatial sizes of the outputs of convolutions and poolings, in execution order.

    Args:
        calls: the calls of a forward pass.
        x: the batch; outputs with another number of axes are skipped.
        channels_last: whether the model keeps its channels last.
    """
    grids = []
    for call in calls:
        shape = call.shape
        if shape is not None and len(shape) == len(x.shape) and CONVOLUTION_OR_POOLING.search(call.type_name):
            # torch's own layers always have channels first
            torch_layer = call.module is None or type(call.module).__module__.startswith("torch.")
            grids.append(shape[1:-1] if channels_last and not torch_layer else shape[2:])
    return grids
