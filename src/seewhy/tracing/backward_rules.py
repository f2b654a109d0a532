"""Backward rules of rectifiers, applied by hooks on the autograd graph of one ordinary forward pass.

A rule is a function (grad_input, grad_output) -> modified gradient with respect to the rectifier's input, where
`grad_output` is dL/dZ at the rectifier's output and `grad_input` = slope(X) · dL/dZ is its ordinary gradient.
The model itself is not modified.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node

from seewhy.errors import ModelError

from .autograd_graph import nodes_reachable_from
from .outputs import iter_tensors

BackwardRule = Callable[[Tensor, Tensor], Tensor]

# Nodes that are always rectifiers. (An in-place ReLU records the same node.)
RECTIFIER_NODES = {"ReluBackward0", "LeakyReluBackward0", "PreluKernelBackward0", "RreluWithNoiseBackward0"}
# Nodes that are rectifiers only if their lower bound is 0 (clamp_min(eps) in a normalization is not), and the attribute
# that holds the bound.
LOWER_BOUND_ATTRIBUTES = {
    "HardtanhBackward0": "_saved_min_val",
    "ClampBackward1": "_saved_min",
    "ClampMinBackward0": "_saved_min",
    "ThresholdBackward0": "_saved_threshold",
}
SMOOTH_ACTIVATION_NODES = {
    f"{n}Backward0" for n in ("Gelu", "Silu", "Mish", "Elu", "Softplus", "Hardswish", "Celu", "Selu")
}
# Operations inside a scripted graph, or inside a custom autograd function (compiled and checkpointed code), are not
# recorded one by one.
SCRIPTED_NODE = "DifferentiableGraphBackward"


class Rectifiers(NamedTuple):
    """The rectifier nodes of one recorded forward pass, and notes for the reader of the map."""

    nodes: list[Node]
    notes: tuple[str, ...]


def find_rectifiers(output: Any) -> Rectifiers:
    """Find every rectifier in the autograd graph of an output.

    Raises:
        ModelError: the graph contains nodes whose operations were not recorded, or smooth activations and no rectifier.
    """
    nodes = list(nodes_reachable_from(t.grad_fn for t in iter_tensors(output)))
    opaque = sorted(
        {n.name().split("::")[-1] for n in nodes if isinstance(n, BackwardCFunction) or SCRIPTED_NODE in n.name()}
    )
    if opaque:
        raise ModelError(
            f"the recorded graph contains {', '.join(opaque)}, inside which rectifiers cannot be found, so a guided "
            "map could silently be the plain gradient. Use the original, uncompiled network, or method 'gradient'."
        )
    matched = [n for n in nodes if _is_rectifier(n)]
    smooth = Counter(n.name().removesuffix("Backward0") for n in nodes if n.name() in SMOOTH_ACTIVATION_NODES)
    listed = ", ".join(f"{count} {name}" for name, count in sorted(smooth.items()))
    if smooth and not matched:
        raise ModelError(
            f"the network has no ReLU-like activation ({listed} instead): guided backprop and Zeiler-Fergus are not "
            "defined for it. Methods that work: gradient, integrated_gradients."
        )
    if smooth:
        note = f"the rule is applied to {len(matched)} rectifiers; {listed} use their ordinary gradient."
        return Rectifiers(matched, (note,))
    if not matched:
        return Rectifiers(matched, ("the network has no rectifier, so this map is the plain gradient.",))
    return Rectifiers(matched, ())


@contextmanager
def apply_backward_rule(rectifiers: Rectifiers | None, rule: BackwardRule | None) -> Iterator[None]:
    """Context manager: backward passes through these rectifiers apply the rule; None: ordinary backpropagation."""

    def hook(grad_inputs: tuple[Tensor | None, ...], grad_outputs: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
        first = grad_inputs[0]
        return (first if first is None or rule is None else rule(first, grad_outputs[0]), *grad_inputs[1:])

    nodes = rectifiers.nodes if rectifiers is not None and rule is not None else []
    handles = [node.register_hook(hook) for node in nodes]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def nearest_rectifiers(output: Any) -> Rectifiers:
    """The rectifiers from which an output can be reached without passing another rectifier."""
    nodes = nodes_reachable_from((t.grad_fn for t in iter_tensors(output)), stop=_is_rectifier)
    return Rectifiers([node for node in nodes if _is_rectifier(node)], ())


def is_activation(node: Node) -> bool:
    """Whether a node is an activation function, rectifying or smooth."""
    return (
        node.name() in SMOOTH_ACTIVATION_NODES
        or node.name() in RECTIFIER_NODES
        or node.name() in LOWER_BOUND_ATTRIBUTES
    )


def _is_rectifier(node: Node) -> bool:
    name = node.name()
    return name in RECTIFIER_NODES or (
        name in LOWER_BOUND_ATTRIBUTES and getattr(node, LOWER_BOUND_ATTRIBUTES[name]) == 0
    )
