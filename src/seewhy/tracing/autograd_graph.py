"""The recorded autograd graph: reachable nodes, and a correction of torch's backward pass of batch norm."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node

# Operations inside a scripted graph, or inside a custom autograd function (compiled and checkpointed code), are not
# recorded one by one.
SCRIPTED_NODE = "DifferentiableGraphBackward"
BATCH_NORM_NODE = "NativeBatchNormBackward0"
CHECKPOINT_NODE = "CheckpointFunctionBackward"  # of use_reentrant=True
CHECKPOINT_REFUSED = (
    "the network uses gradient checkpointing (torch.utils.checkpoint), which torch.autograd.grad does not support "
    "here: turn it off, or use use_reentrant=False."
)
# Nodes that only move or copy values (dropout does in evaluation mode).
VALUE_PRESERVING_NODES = {f"{name}Backward{i}" for i in (0, 1) for name in (
    "View", "UnsafeView", "ReshapeAlias", "Permute", "Transpose", "Clone", "Alias", "Squeeze", "Unsqueeze", "Slice",
    "NativeDropout")}  # fmt: skip


def nodes_reachable_from(
    starts: Iterable[Node | None], without: Node | None = None, stop: Callable[[Node], bool] | None = None
) -> Iterator[Node]:
    """Iterate over the graph nodes on paths from `starts` towards the input, each once, depth first.

    Args:
        starts: the nodes to start at, which are included, such as those of the outputs.
        without: a node that is treated as removed from the graph.
        stop: whether the nodes that a node uses are left out.
    """
    pending, reached = list(starts), {without}
    while pending:
        node = pending.pop()
        if node is not None and node not in reached:
            reached.add(node)
            yield node
            if stop is None or not stop(node):
                pending += (following for following, _ in node.next_functions)


def opaque_nodes(nodes: Iterable[Any]) -> list[str]:
    """Names of the nodes whose operations are not recorded one by one, sorted."""
    opaque = {n.name() for n in nodes if isinstance(n, BackwardCFunction) or SCRIPTED_NODE in n.name()}
    return sorted(name.split("::")[-1] for name in opaque)


def op_name(node: Any) -> str:
    """The name of a node without namespace and suffix, such as "Addmm"."""
    return re.sub(r"Backward\w*$", "", node.name().split("::")[-1])


def fix_batch_norm_gradients(outputs: Iterable[Tensor]) -> None:
    """Correct the gradient of batch norm for a batch of one sample, in the graph of these outputs.

    On a CPU, with a batch of 1, torch 2.15 misreads an incoming gradient whose memory layout is channels last (as after
    `flatten(2).transpose(1, 2)`) as contiguous: the result is permuted, without an error. Instance norm always calls
    batch norm with a batch of 1. Making the incoming gradient contiguous avoids it.
    """
    for node in nodes_reachable_from(t.grad_fn for t in outputs):
        if node.name() == BATCH_NORM_NODE:
            node.register_prehook(_contiguous_gradients)


def _contiguous_gradients(gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    return tuple(g.contiguous() if g is not None and len(g) == 1 else g for g in gradients)


def producing_node(node: Node) -> Node:
    """The node that computed the values of `node`, before any nodes that only moved them."""
    *_, last = nodes_reachable_from([node], stop=lambda n: n.name() not in VALUE_PRESERVING_NODES)
    return last
