"""The recorded graph: what hangs on what, and one step back that torch gets wrong."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.autograd.graph import Node

BATCH_NORM = "NativeBatchNormBackward0"


def nodes_before(nodes: list[Any], without: Node | None = None) -> set[Any]:
    """Every node of the graph that these hang on, themselves included; `without` is not passed."""
    waiting = [node for node in nodes if node is not without]
    seen = set(waiting)
    while waiting:
        for after, _ in waiting.pop().next_functions:
            if after is not None and after is not without and after not in seen:
                seen.add(after)
                waiting.append(after)
    return seen


def straightened(outputs: Iterable[Tensor]) -> None:
    """Make torch's batch norm give the gradient of a single sample right, in this graph.

    On a CPU its way back takes a gradient that comes with channels last, as from `flatten(2).transpose(1, 2)`, for one
    in the usual order when the batch is 1 (torch 2.15); the numbers end at wrong places, without a word. Instance norm
    calls it with a batch of 1 always.
    """
    nodes = [t.grad_fn for t in outputs if t.grad_fn is not None]
    for node in nodes_before(nodes):
        if node.name() == BATCH_NORM:
            node.register_prehook(_in_order)


def _in_order(gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    return tuple(g.contiguous() if g is not None and len(g) == 1 else g for g in gradients)
