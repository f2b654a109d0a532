"""Backward rules of ReLU-like steps, on the recorded graph of one ordinary forward. Nothing is patched.

A rule is a function (passed, arriving) -> what goes on towards the input, where `arriving` is dL/dZ at the
step's output and `passed` what its ordinary backward makes of it, slope(X) · dL/dZ.
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

from .outputs import tensors

Rule = Callable[[Tensor, Tensor], Tensor]

# Nodes that are rectifiers whatever their numbers. (An in-place ReLU records the same node.)
RECTIFIERS = {"ReluBackward0", "LeakyReluBackward0", "PreluKernelBackward0", "RreluWithNoiseBackward0"}
# Nodes that are rectifiers only if their lower bound is 0: clamp_min(eps) in a normalisation is none.
BOUNDED = {
    "HardtanhBackward0": "_saved_min_val",
    "ClampBackward1": "_saved_min",
    "ClampMinBackward0": "_saved_min",
    "ThresholdBackward0": "_saved_threshold",
}
SMOOTH = {f"{n}Backward0" for n in ("Gelu", "Silu", "Mish", "Elu", "Softplus", "Hardswish", "Celu", "Selu")}
# What runs inside a scripted graph, or a function of one's own (compiled and checkpointed ones are), is not recorded.
SCRIPTED = "DifferentiableGraphBackward"


class Rectifiers(NamedTuple):
    """The rectifiers of one recorded forward, and what else a reader must know."""

    nodes: list[Node]
    notes: tuple[str, ...]


def find(output: Any) -> Rectifiers:
    """Every rectifier between an output and what it was computed from.

    Raises:
        ModelError: steps that the graph does not show, or smooth activations and no rectifier at all.
    """
    nodes = list(_walk(output))
    opaque = sorted(
        {n.name().split("::")[-1] for n in nodes if isinstance(n, BackwardCFunction) or SCRIPTED in n.name()}
    )
    if opaque:
        raise ModelError(
            f"the recorded graph holds {', '.join(opaque)}, inside which rectifiers cannot be seen, so a guided map "
            "could silently be the plain gradient. Use the original, uncompiled network, or method 'gradient'."
        )
    matched = [n for n in nodes if _rectifies(n)]
    smooth = Counter(n.name().removesuffix("Backward0") for n in nodes if n.name() in SMOOTH)
    listed = ", ".join(f"{count} {name}" for name, count in sorted(smooth.items()))
    if smooth and not matched:
        raise ModelError(
            f"the network has no ReLU-like step ({listed} instead): guided backprop and Zeiler-Fergus are not "
            "defined for it. Methods that work: gradient, integrated_gradients."
        )
    if smooth:
        return Rectifiers(matched, (f"the rule acts on {len(matched)} rectifiers; {listed} backpropagate plainly.",))
    if not matched:
        return Rectifiers(matched, ("the network has no rectifier, so this map is the plain gradient.",))
    return Rectifiers(matched, ())


@contextmanager
def rectified(rectifiers: Rectifiers | None, rule: Rule | None) -> Iterator[None]:
    """Inside, backward passes through this graph follow the rule; None is ordinary backpropagation."""

    def hook(passed: tuple[Tensor | None, ...], arriving: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
        first = passed[0] if passed[0] is None or rule is None else rule(passed[0], arriving[0])
        return (first, *passed[1:])

    nodes = rectifiers.nodes if rectifiers is not None and rule is not None else []
    handles = [node.register_hook(hook) for node in nodes]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _walk(output: Any) -> Iterator[Node]:
    waiting = [t.grad_fn for t in tensors(output) if t.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        yield node
        for after, _ in node.next_functions:
            if after is not None and after not in seen:
                seen.add(after)
                waiting.append(after)


def outermost(output: Any) -> Rectifiers:
    """The rectifiers nearest to an output, with no other between."""
    found, waiting = [], [t.grad_fn for t in tensors(output) if t.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if _rectifies(node):
            found.append(node)
            continue
        fresh = [after for after, _ in node.next_functions if after is not None and after not in seen]
        seen.update(fresh)
        waiting += fresh
    return Rectifiers(found, ())


def is_activation(node: Node) -> bool:
    """Whether a step is an activation function, smooth ones included."""
    return node.name() in SMOOTH or node.name() in RECTIFIERS or node.name() in BOUNDED


def _rectifies(node: Node) -> bool:
    name = node.name()
    return name in RECTIFIERS or (name in BOUNDED and getattr(node, BOUNDED[name]) == 0)
