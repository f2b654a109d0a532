"""The nonlinear ops of a recorded forward pass, with their inputs and outputs, also those for a reference input."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import Node

from seewhy.errors import ModelError
from seewhy.models.function_observer import FunctionObserver

from .autograd_graph import nodes_reachable_from, op_name, opaque_nodes

# Elementwise nonlinear functions of one tensor, by the name of the torch function.
ELEMENTWISE_FUNCTIONS = {
    "relu", "leaky_relu", "prelu", "rrelu", "relu6", "hardtanh", "clamp", "clip", "clamp_max", "clamp_min", "threshold",
    "sigmoid", "tanh", "softplus", "elu", "celu", "selu", "gelu", "silu", "mish", "hardswish", "hardsigmoid",
    "logsigmoid", "softshrink", "hardshrink", "abs", "exp", "log", "sqrt", "rsqrt", "reciprocal", "square", "pow",
    "sin", "cos", "erf",
}  # fmt: skip
# Nodes of max pooling, and the number of axes that are pooled.
MAX_POOL_NODES = {
    "MaxPool2DWithIndicesBackward0": 2,
    "MaxPool3DWithIndicesBackward0": 3,
    "AdaptiveMaxPool2DBackward0": 2,
    "AdaptiveMaxPool3DBackward0": 3,
}
DIFFERENT_GRAPHS = (
    "the network performs other operations for the baseline than for the input, so their activations cannot be "
    "compared. Give a baseline for which it performs the same, or use integrated_gradients."
)


class ElementwiseCall(NamedTuple):
    """A call of an elementwise function during a forward pass."""

    function: Callable[[Tensor], Tensor]
    input: Tensor

    def output(self) -> Tensor:
        """The function's output, computed again; in-place operations may have overwritten that of the forward pass."""
        with torch.no_grad():
            return self.function(self.input.clone())


class RecordedPass(NamedTuple):
    """A forward pass: the tensors at the end of its graph, and its elementwise calls by node."""

    outputs: list[Tensor]
    calls: Mapping[Node, ElementwiseCall]


class NonlinearOp(NamedTuple):
    """An elementwise function or a max pooling.

    Attributes:
        node: its node in the autograd graph.
        values: what a backward rule may read, besides the gradients.
        scatter: for a max pooling: returns values at the output at the positions, of the input, of the maxima.
    """

    node: Node
    values: Mapping[str, Callable[[], Tensor]]
    scatter: Callable[[Tensor], Tensor] | None = None


@contextmanager
def record_elementwise_calls() -> Iterator[dict[Node, ElementwiseCall]]:
    """Record the elementwise calls of this thread's forward passes; those inside scripted modules are not observed."""
    calls: dict[Node, ElementwiseCall] = {}

    def record(func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        first = args[0] if args else kwargs.get("input")
        if name not in ELEMENTWISE_FUNCTIONS or not isinstance(first, Tensor) or not first.requires_grad:
            return func(*args, **kwargs)
        copy = first.detach().clone()  # the function may overwrite its input
        result = func(*args, **kwargs)
        other = {key: value for key, value in kwargs.items() if key not in {"input", "out"}}
        calls[result.grad_fn] = ElementwiseCall(lambda z: func(z, *args[1:], **other), copy)
        return result

    with FunctionObserver(record):
        yield calls


def is_elementwise_node(node: Any) -> bool:
    """Whether a node is an elementwise nonlinear function of one tensor, by its name."""
    return op_name(node).lower() in {name.replace("_", "") for name in ELEMENTWISE_FUNCTIONS}


def nonlinear_ops_with_values(done: RecordedPass, reference: RecordedPass | None) -> list[NonlinearOp]:
    """The elementwise functions and max poolings of a forward pass, with their values.

    Args:
        done: the forward pass.
        reference: the forward pass of another input of the same shape, for the values `reference_input` and
            `reference_output`.

    Raises:
        ModelError: the network performs other operations for the reference, or ops whose values were not recorded.
    """
    nodes = list(nodes_reachable_from(t.grad_fn for t in done.outputs))
    unrecorded = {op_name(node) for node in nodes if is_elementwise_node(node) and node not in done.calls}
    unrecorded.update(opaque_nodes(nodes))
    if unrecorded:
        raise ModelError(
            f"the input of {', '.join(sorted(unrecorded))} was not recorded (inside a fused, scripted or compiled op), "
            "so the backward rule of the method cannot be applied. Use the original, uncompiled network, or 'gradient'."
        )
    pairs = {} if reference is None else _paired_nodes(done.outputs, reference.outputs)
    ops = []
    for node in nodes:
        pair = pairs.get(node)
        if node in done.calls:
            other = None if reference is None or pair is None else reference.calls[pair]
            ops.append(_elementwise_op(node, done.calls[node], other))
        elif node.name() in MAX_POOL_NODES:
            ops.append(_max_pool_op(node, pair))
    return ops


def _elementwise_op(node: Any, call: ElementwiseCall, reference: ElementwiseCall | None) -> NonlinearOp:
    values: dict[str, Callable[[], Tensor]] = {"input": lambda: call.input, "output": call.output}
    if reference is not None:
        if reference.input.shape != call.input.shape:
            raise ModelError(DIFFERENT_GRAPHS)
        values |= {"reference_input": lambda: reference.input, "reference_output": reference.output}
    return NonlinearOp(node, values)


def _max_pool_op(node: Any, reference: Any) -> NonlinearOp:
    """A max pooling, as an elementwise function of the maximal value of the pass in which it is larger."""
    axes = MAX_POOL_NODES[node.name()]
    x, positions = node._saved_self.detach().flatten(-axes), node._saved_result1.flatten(-axes)
    shape, flat_shape, pooled_shape = node._saved_self.shape, x.shape, node._saved_result1.shape
    output = x.gather(-1, positions)
    values = {"output": output}
    if reference is not None:
        other, other_positions = reference._saved_self.detach().flatten(-axes), reference._saved_result1.flatten(-axes)
        reference_output = other.gather(-1, other_positions)
        positions = torch.where(output >= reference_output, positions, other_positions)
        values |= {"reference_output": reference_output, "reference_input": other.gather(-1, positions)}
    values["input"] = x.gather(-1, positions)

    def scatter(at_output: Tensor) -> Tensor:
        empty = at_output.new_zeros(flat_shape)
        return empty.scatter_add_(-1, positions, at_output.flatten(-axes)).view(shape)

    return NonlinearOp(node, {name: partial(value.view, pooled_shape) for name, value in values.items()}, scatter)


def _paired_nodes(outputs: Sequence[Tensor], reference_outputs: Sequence[Tensor]) -> dict[Any, Any]:
    """For each node of a graph, the node at the same place of the graph of the reference.

    Raises:
        ModelError: the graphs differ.
    """
    pairs: dict[Any, Any] = {}
    pending = [(a.grad_fn, b.grad_fn) for a, b in zip(outputs, reference_outputs, strict=True)]
    while pending:
        node, pair = pending.pop()
        if (node is None and pair is None) or (node in pairs and pairs[node] is pair):
            continue
        if node is None or pair is None or node in pairs or _signature(node) != _signature(pair):
            raise ModelError(DIFFERENT_GRAPHS)
        pairs[node] = pair
        pending += [(a, b) for (a, _), (b, _) in zip(node.next_functions, pair.next_functions, strict=True)]
    return pairs


def _signature(node: Any) -> tuple[str, int]:
    return node.name(), len(node.next_functions)
