"""Backward rules, applied by hooks on the autograd graph of one ordinary forward pass. The model is not modified."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor
from torch.autograd.graph import Node

from seewhy.errors import ModelError
from seewhy.types import BackwardRule

from .autograd_graph import nodes_reachable_from, opaque_nodes
from .outputs import iter_tensors
from .recorded_ops import NonlinearOp

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


class Rectifiers(NamedTuple):
    """The rectifiers of one recorded forward pass, and notes for the reader of the map."""

    ops: list[NonlinearOp]
    notes: tuple[str, ...]


def find_rectifiers(output: Any) -> Rectifiers:
    """Find every rectifier in the autograd graph of an output.

    Raises:
        ModelError: the graph contains nodes whose operations were not recorded, or smooth activations and no rectifier.
    """
    nodes = list(nodes_reachable_from(t.grad_fn for t in iter_tensors(output)))
    opaque = opaque_nodes(nodes)
    if opaque:
        raise ModelError(
            f"the recorded graph contains {', '.join(opaque)}, inside which rectifiers cannot be found, so a guided "
            "map could silently be the plain gradient. Use the original, uncompiled network, or method 'gradient'."
        )
    matched = [NonlinearOp(n, {}) for n in nodes if _is_rectifier(n)]
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
def apply_backward_rules(ops: Iterable[NonlinearOp], rules: Sequence[BackwardRule]) -> Iterator[None]:
    """Context manager: at each op, backward passes apply the first rule for ops of its kind, if there is one."""
    with ExitStack() as stack:
        for op in ops:
            kinds = {"max_pool"} if op.scatter else {"elementwise", *["rectifier"] * _is_rectifier(op.node)}
            rule = next((rule for rule in rules if kinds & set(rule.ops)), None)
            if rule is not None:
                stack.callback(op.node.register_hook(partial(_modified_gradients, op, rule)).remove)
        yield


def _modified_gradients(
    op: NonlinearOp, rule: BackwardRule, grad_inputs: tuple[Tensor | None, ...], grad_outputs: tuple[Tensor, ...]
) -> tuple[Tensor | None, ...]:
    """The gradients at the inputs of an op, of which the first is that of the rule; called by torch."""
    grad_input, *others = grad_inputs
    if grad_input is None:
        return grad_inputs
    gradients = {"grad_output": grad_outputs[0], "grad_input": grad_outputs[0] if op.scatter else grad_input}
    modified = rule.fn(*(gradients[name] if name in gradients else op.values[name]() for name in rule.reads))
    return op.scatter(modified) if op.scatter else modified, *others


def nearest_rectifiers(output: Any) -> list[NonlinearOp]:
    """The rectifiers from which an output can be reached without passing another rectifier."""
    nodes = nodes_reachable_from((t.grad_fn for t in iter_tensors(output)), stop=_is_rectifier)
    return [NonlinearOp(node, {}) for node in nodes if _is_rectifier(node)]


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
