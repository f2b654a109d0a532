"""Which ops of a recorded forward pass are linear functions of the input, and the usual names of the others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container
from typing import Any

from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from .autograd_graph import nodes_reachable_from, op_name
from .recorded_ops import MAX_POOL_NODES, RecordedPass, is_elementwise_node

# Operations that are linear in all of their operands together.
LINEAR_OPS = {
    "Add", "Sub", "Rsub", "Neg", "Sum", "Mean", "Cumsum", "View", "UnsafeView", "ReshapeAlias", "Permute", "Transpose",
    "T", "Clone", "Alias", "Squeeze", "Unsqueeze", "Slice", "Select", "Expand", "AsStrided", "Split", "SplitWithSizes",
    "UnsafeSplit", "Unbind", "Unfold", "Im2Col", "Col2Im", "Flip", "Roll", "Repeat", "Cat", "Stack", "Diagonal", "Tril",
    "Triu", "ToCopy", "Copy", "NativeDropout", "Index", "IndexSelect", "Gather", "PixelShuffle", "PixelUnshuffle",
    "NativeChannelShuffle", "ConstantPadNd", "ReflectionPad1D", "ReflectionPad2D", "ReflectionPad3D",
    "ReplicationPad1D", "ReplicationPad2D", "ReplicationPad3D", "AvgPool2D", "AvgPool3D", "AdaptiveAvgPool2D",
    "AdaptiveAvgPool3D", "UpsampleNearest1D", "UpsampleNearest2D", "UpsampleNearest3D", "UpsampleNearestExact1D",
    "UpsampleNearestExact2D", "UpsampleNearestExact3D", "UpsampleLinear1D", "UpsampleBilinear2D", "UpsampleBicubic2D",
    "UpsampleTrilinear3D", "UpsampleBilinear2DAa", "UpsampleBicubic2DAa",
}  # fmt: skip
# Products: the positions of their factors among the operands. They are linear if only one factor depends on the input.
FACTORS = {
    "Mul": (0, 1), "Mm": (0, 1), "Bmm": (0, 1), "Mv": (0, 1), "Dot": (0, 1), "Addmm": (1, 2), "Addmv": (1, 2),
    "Baddbmm": (1, 2), "Linear": (0, 1), "Convolution": (0, 1),
}  # fmt: skip
# Operations that are linear in their first operand if the others are constant.
LINEAR_IN_FIRST = {"Div", "GridSampler2D", "GridSampler3D"}
BATCH_NORMS = {"NativeBatchNorm", "CudnnBatchNorm", "MiopenBatchNorm"}
USUAL_NAMES = {
    "Softmax": "softmax", "LogSoftmax": "log-softmax", "Logsumexp": "log-sum-exp", "NativeLayerNorm": "LayerNorm",
    "NativeGroupNorm": "GroupNorm", "FusedRmsNorm": "RMSNorm", "LinalgVectorNorm": "a norm", "Norm": "a norm",
    "MaxPool2DWithIndices": "max pooling", "MaxPool3DWithIndices": "max pooling", "AdaptiveMaxPool2D": "max pooling",
    "AdaptiveMaxPool3D": "max pooling", "Max": "a maximum over an axis (max)",
    "Amax": "a maximum over an axis (amax)", "Min": "a minimum over an axis (min)",
    "Amin": "a minimum over an axis (amin)",
    "Maximum": "the larger of two values (maximum)", "Minimum": "the smaller of two values (minimum)",
    "Where": "a selection by a condition (where)", "MaskedFill": "a selection by a mask (masked_fill)",
    "CopySlices": "an in-place operation on a part of a tensor", "Glu": "a gated linear unit (glu)",
    "DifferentiableGraph": "scripted code, whose operations are not recorded one by one",
    "CompiledFunction": "compiled code, whose operations are not recorded one by one",
    "MkldnnRnnLayer": "a recurrent layer", "CudnnRnn": "a recurrent layer",
}  # fmt: skip


def nonlinear_ops(done: RecordedPass, x: Tensor, kinds: Container[str]) -> list[str]:
    """Usual names of the ops of a forward pass that are neither known to be linear nor of these kinds, sorted.

    Args:
        done: the forward pass.
        x: the leaf of its graph; what does not depend on it is constant.
        kinds: kinds of op that are not reported, of `OP_KINDS`.
    """
    dependent = _nodes_depending_on(x, [t.grad_fn for t in done.outputs if t.grad_fn is not None])
    found = set()
    for node in dependent - {get_gradient_edge(x).node}:
        operands = [following in dependent for following, _ in node.next_functions]
        kind = "max_pool" if node.name() in MAX_POOL_NODES else "elementwise" if node in done.calls else ""
        name = None if kind in kinds and sum(operands) == 1 else _nonlinearity(node, operands)
        if name is not None:
            found.add(name)
    return sorted(found)


def _nonlinearity(node: Any, operands: list[bool]) -> str | None:
    """The usual name of an op, or None if it is linear; `operands`: which of them depend on the input."""
    op = op_name(node)
    if op in FACTORS and sum(operands) > 1:
        factors = sum(operands[i] for i in FACTORS[op])
        return f"a product of two values that both depend on the input ({op.lower()})" if factors > 1 else None
    if op in LINEAR_IN_FIRST:
        by_variable = any(operands[1:])
        return f"a division by a value that depends on the input ({op.lower()})" if by_variable else None
    if op in BATCH_NORMS:
        by_input = node._saved_training
        return "a normalization by the statistics of the input itself (such as instance norm)" if by_input else None
    if op in LINEAR_OPS or op in FACTORS:
        return None
    if is_elementwise_node(node) and sum(operands) == 1:
        return f"{op}, whose input was not recorded (inside a fused or scripted op)"
    return "attention" if op.startswith("ScaledDotProduct") else USUAL_NAMES.get(op, op)


def _nodes_depending_on(x: Tensor, outputs: list[Any]) -> set[Any]:
    """All nodes on paths from the outputs to a leaf, both ends included."""
    users = defaultdict(list)
    for node in nodes_reachable_from(outputs):
        for following, _ in node.next_functions:
            users[following].append(node)
    leaf = get_gradient_edge(x).node
    dependent, pending = {leaf}, [leaf]
    while pending:
        new = [user for user in users[pending.pop()] if user not in dependent]
        dependent.update(new)
        pending += new
    return dependent
