"""Whether a score is the mean of a layer over its positions followed by one linear layer, by the autograd graph."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch.autograd.graph import Node

from .autograd_graph import VALUE_PRESERVING_NODES

MEAN_NODES = {"MeanBackward0", "MeanBackward1", "SumBackward0", "SumBackward1", "AvgPool2DBackward0",
              "AvgPool3DBackward0", "AdaptiveAvgPool2DBackward0", "AdaptiveAvgPool3DBackward0"}  # fmt: skip
LINEAR_NODES = {f"{name}Backward0" for name in ("Addmm", "Addmv", "Mm", "Mv", "Bmm", "Linear", "Convolution")}
SUM_NODES = {f"{name}Backward{i}" for i in (0, 1) for name in ("Add", "Sub")}
COPY_NODE = (
    "torch::autograd::CopyBackwards"  # a copy into a tensor: its operands are the overwritten values and the new ones
)
# nodes that only select values or multiply them by constants
SELECTING_NODES = {COPY_NODE} | {f"{name}Backward{i}" for i in (0, 1) for name in (
    "Gather", "Select", "Index", "IndexSelect", "Unbind", "Split", "SplitWithSizes", "AsStrided", "Expand", "ToCopy",
    "Mul", "Div", "Neg")}  # fmt: skip
AFFINE_NODES = MEAN_NODES | LINEAR_NODES | SUM_NODES | SELECTING_NODES | VALUE_PRESERVING_NODES


def pooled_head_violation(scores: Sequence[Node], features: Node) -> str | None:
    """Return why scores are not computed from features by a mean over positions and one linear layer; None: they are.

    All operations between them are then affine, so that the gradient at the features does not depend on the input.
    Whether the mean has equal weights for all positions is left to the caller: the gradient shows it.

    Args:
        scores: the graph nodes of the scores.
        features: the graph node of the features.
    """
    nodes = _nodes_between(scores, features)
    linear = [node for node in nodes if node.name() in LINEAR_NODES]
    other = next((node for node in nodes if node.name() not in AFFINE_NODES), None)
    if other is not None:
        operands = _operands(other)
        if len(linear) == 1 and operands and pooled_head_violation(operands, features) is None:
            return f"{operation_name(other)} is applied to the result: explain its input, as by reduction_layer"
        return f"the score is computed from it with {operation_name(other)}"
    before_linear = [node for node in _nodes_between(linear, features) if node not in linear]
    for node in nodes:
        if len(_operands(node)) > 1 and (node.name() not in SUM_NODES or node in before_linear):
            return f"several branches are joined by {operation_name(node)}"
        if node.name() in SUM_NODES and node in before_linear:
            return f"{operation_name(node)} comes before the linear layer"
    if len(linear) != 1:
        kinds = ", ".join(map(operation_name, linear))
        return f"{len(linear)} linear layers follow it ({kinds})" if linear else "no linear layer follows it"
    if not any(node.name() in MEAN_NODES for node in before_linear):
        return f"{operation_name(linear[0])} is applied to it without a mean over the positions before"
    return None


def _operands(node: Node) -> list[Node]:
    """The nodes of the differentiable operands; of a copy, only the new values."""
    edges = node.next_functions[-1:] if node.name() == COPY_NODE else node.next_functions
    return [operand for operand, _ in edges if operand is not None]


def _nodes_between(starts: Sequence[Node], end: Node) -> list[Node]:
    """The nodes on paths from `starts` to `end` and to other leaves, without `end`, in the order of execution."""
    pending, found = list(starts), set(starts)
    while pending:
        new = {operand for operand in _operands(pending.pop()) if operand is not end} - found
        found |= new
        pending += new
    return sorted(found, key=lambda node: node._sequence_nr())


def operation_name(node: Node) -> str:
    """The usual name of the operation that a graph node belongs to, such as "max_pool2d" or "relu"."""
    name = re.sub(r"Backward\d*$", "", node.name().rpartition("::")[2])
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", re.sub(r"(\d)D", r"\1d", name)).lower()
    if words.startswith("scaled_dot_product"):
        return "attention"
    usual = {"addmm": "linear", "mm": "matmul", "bmm": "matmul", "mv": "matmul", "safe_softmax": "softmax"}
    return usual.get(words, words.removeprefix("native_").removesuffix("_with_indices"))
