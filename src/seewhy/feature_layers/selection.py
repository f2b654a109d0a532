"""Default feature layer: selected from one recorded forward pass, with the reason, and cached per network.

The default is the last layer, in execution order, whose features are rectified and have positions, and through which
all paths from the input to the output pass. For token layers it is the last one through which the patch tokens still
reach the score.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from seewhy.axes.feature_layout import FeatureLayout, to_feature_grid
from seewhy.errors import ModelError, unknown_name_error
from seewhy.models import module_tree
from seewhy.tracing.autograd_graph import (
    CHECKPOINT_NODE,
    CHECKPOINT_REFUSED,
    nodes_reachable_from,
    producing_node,
)
from seewhy.tracing.backward_passes import repeat_with_saved_copies
from seewhy.tracing.backward_rules import is_activation
from seewhy.tracing.execution import LayerCall, feature_layouts, innermost_call, record_execution
from seewhy.tracing.layer_hooks import layers_unavailable_reason
from seewhy.tracing.network_cache import cached_per_network
from seewhy.types import Capability

if TYPE_CHECKING:
    from torch.autograd.graph import Node

    from seewhy.axes.factors import Axes
    from seewhy.model import Model
    from seewhy.types import Inputs

JOIN_NODES = {"AddBackward0", "CatBackward0", "StackBackward0"}
ACTIVATION_TYPE = re.compile(r"relu|elu|swish|silu|mish|sigmoid|tanh", re.IGNORECASE)
NO_GRADIENT = (
    "the score does not depend on the input through autograd (a detach, a no_grad, an inference_mode, a rounding, or "
    "numpy on the way)."
)
LAST_RECTIFIED = "the last layer whose features are rectified and have positions"
CHOICE_HINT = "to use another layer, give feature_layer (seewhy.layers lists them)"

_surveys: WeakKeyDictionary[nn.Module, dict[Any, LayerSurvey]] = WeakKeyDictionary()


class LayerInfo(NamedTuple):
    """One call of a layer, or of a function between layers, without its tensor."""

    name: str
    shape: tuple[int, ...] | None  # of the output for one sample, batch axis included; None: not a tensor
    where: FeatureLayout | None  # the axes of channels and positions; None: there are none
    axes: Axes | None  # the meaning of the axes of the output; None: it does not depend on the input


class LayerSurvey(NamedTuple):
    """The layers of a network, found by one forward pass, and the default feature layer."""

    network_parts: list[ref[Any]]  # the survey is valid while these are the same objects: forward and modules
    layers: list[LayerInfo]  # in execution order
    selected: LayerInfo | None  # the default feature layer
    reason: str  # why it was selected, or why none was
    output_layer: str | None  # the layer that returned the explained output, if one layer did


def survey_layers(model: Model, x: Inputs, end: str | None) -> LayerSurvey:
    """List the layers of a network and select the default feature layer; cached per network and input size.

    Args:
        model: the model; must have a module.
        x: the batch, of which the first sample is used.
        end: the layer whose output is explained; None: the network's output.

    Raises:
        ModelError: the layers of the model are not accessible.
    """
    if Capability.LAYERS not in model.capabilities:
        raise ModelError(layers_unavailable_reason(model))
    return cached_per_network(_surveys, _compute_survey, model, x, end)


def copy_survey(model: Model, twin: Model) -> None:
    """Use the cached surveys of a network also for a copy with other weights, so that both use the same layers."""
    assert model.module is not None and twin.module is not None
    parts = [ref(part) for part in (twin.forward, *module_tree.named_layers(twin.module).values())]
    surveys = _surveys.get(model.module, {}).items()
    _surveys[twin.module] = {key: survey._replace(network_parts=parts) for key, survey in surveys}


@repeat_with_saved_copies
def _compute_survey(model: Model, x: Inputs, end: str | None) -> LayerSurvey:
    calls, outputs, leaf, _ = record_execution(model, x, end)
    ends = [t.grad_fn for t in outputs if t.grad_fn is not None]
    layouts = feature_layouts(calls, tuple(x.shape[2:]))
    index, reason = _choose_layer(calls, layouts, outputs, leaf) if ends else (None, NO_GRADIENT)
    if index is None and any(node.name() == CHECKPOINT_NODE for node in nodes_reachable_from(ends)):
        reason = CHECKPOINT_REFUSED
    infos = [LayerInfo(c.name, c.shape, where, c.axes) for c, where in zip(calls, layouts, strict=True)]
    named = [c for c in calls if ends and c.edge is not None and producing_node(c.edge.node) is producing_node(ends[0])]
    output = end or (innermost_call(named).name if named and len(outputs) == 1 else None)
    if index is None:
        return LayerSurvey([], infos, None, reason, output)
    selected = infos[calls.index(innermost_call([c for c in calls if c.edge and c.edge == calls[index].edge]))]
    grid = " × ".join(map(str, layouts[index].grid))  # type: ignore[union-attr]
    return LayerSurvey([], infos, selected, f"{selected.name} ({grid}): {reason}; {CHOICE_HINT}", output)


def _choose_layer(
    calls: list[LayerCall], layouts: list[FeatureLayout | None], outputs: list[Tensor], leaf: Node
) -> tuple[int | None, str]:
    """Index of the default feature layer, or None; and the reason."""
    ends = [t.grad_fn for t in outputs if t.grad_fn is not None]
    ancestors = set(nodes_reachable_from(ends))
    spatial = [
        i for i, (c, where) in enumerate(zip(calls, layouts, strict=True))
        if where is not None and where.spatial and where.channel_axis is not None
        and c.edge is not None and c.edge.node in ancestors
    ]  # fmt: skip
    with_axes = [i for i in spatial if not layouts[i].on_token_axis]  # type: ignore[union-attr]
    tokens = [i for i in spatial if i not in with_axes and not _is_projection(calls[i])]
    rectified = [i for i in with_axes if _is_rectified(calls[i])]
    # exclude the output's own layer: its map would be the output itself
    output_nodes = {producing_node(end) for end in ends}
    rectified = [i for i in rectified if producing_node(calls[i].edge.node) not in output_nodes] or rectified  # type: ignore[union-attr]

    def on_all_paths(i: int) -> bool:
        return leaf not in nodes_reachable_from(ends, without=calls[i].edge.node)  # type: ignore[union-attr]

    bottleneck = next((i for i in reversed(rectified) if on_all_paths(i)), None)
    last_tokens = _last_with_patch_gradient(calls, layouts, tokens, outputs)
    if last_tokens is not None and (bottleneck is None or last_tokens > bottleneck):
        return last_tokens, "the last token layer through which the patch tokens reach the score"
    if bottleneck is not None:
        return bottleneck, f"{LAST_RECTIFIED}; all paths from the input to the score pass through it"
    if rectified:
        return rectified[-1], f"{LAST_RECTIFIED}; other paths from the input to the score bypass it"
    convolutions = [i for i in with_axes if calls[i].module is not None and _is_convolution(calls[i])]
    if convolutions:
        return convolutions[-1], "the last convolution, because no rectified features have positions"
    return None, "no layer keeps the input's positions"


def lies_on_all_paths(model: Model, x: Inputs, name: str, end: str | None) -> bool:
    """Whether every path from the input to the explained output passes through layer `name`, by the autograd graph."""
    calls, outputs, leaf, _ = record_execution(model, x, end)
    edge = next((c.edge for c in calls if c.name == name), None)
    ends = [t.grad_fn for t in outputs if t.grad_fn is not None]
    return edge is not None and bool(ends) and leaf not in nodes_reachable_from(ends, without=edge.node)


def _is_rectified(call: LayerCall) -> bool:
    """Whether a layer is an activation, or a sum or concatenation with an activation before it."""
    if ACTIVATION_TYPE.search(call.type_name):
        return True
    node = producing_node(call.edge.node)  # type: ignore[union-attr]
    if is_activation(node):
        return True
    operands = [operand for operand, _ in node.next_functions if operand is not None]
    # an addition with one differentiable operand adds a bias
    joins = node.name() in JOIN_NODES and (len(operands) > 1 or "Add" not in node.name())
    return joins and any(map(is_activation, nodes_reachable_from([node])))


def _is_convolution(call: LayerCall) -> bool:
    """Whether a layer's output comes from a convolution or pooling."""
    name = producing_node(call.edge.node).name()  # type: ignore[union-attr]
    return "Conv" in name or "Pool" in name


def _is_projection(call: LayerCall) -> bool:
    """Whether a layer is only a linear map, such as the query, key or value projection of an attention."""
    return isinstance(call.module, nn.Linear) or (call.module is None and call.type_name in {"linear", "matmul"})


def _last_with_patch_gradient(
    calls: list[LayerCall], layouts: list[FeatureLayout | None], tokens: list[int], outputs: list[Tensor]
) -> int | None:
    """The last token layer with a non-zero gradient at its patch tokens (the prefix excluded); None: there is none."""
    if not tokens:
        return None
    generator = torch.Generator().manual_seed(0)
    score = sum(
        (o * torch.randn(o.shape, generator=generator, dtype=torch.float64).to(o)).sum()
        for o in outputs
        if o.requires_grad
    )
    edges = [calls[i].edge for i in tokens]
    gradients = torch.autograd.grad(score, edges, allow_unused=True)  # type: ignore[arg-type]
    for i, gradient in reversed(list(zip(tokens, gradients, strict=True))):
        if gradient is not None and bool(to_feature_grid(gradient, layouts[i]).any()):  # type: ignore[arg-type]
            return i
    return None


def find_layer(layer_survey: LayerSurvey, name: str, model: Model) -> LayerInfo:
    """Return the layer or function call with this name.

    Raises:
        UnknownNameError: no layer or function has this name.
        ModelError: the layer ran more than once, or it exists but did not run.
    """
    exact = [call for call in layer_survey.layers if call.name == name]
    if exact:
        return exact[0]
    calls = [call.name for call in layer_survey.layers if "#" in call.name and call.name.rpartition("#")[0] == name]
    if calls:
        raise ModelError(
            f"layer {name!r} ran {len(calls)} times in one forward pass: name the call, {', '.join(calls)}."
        )
    if name and model.module is not None and name in module_tree.named_layers(model.module):
        raise ModelError(f"layer {name!r} exists, but it did not run in the forward pass: name another layer.")
    raise unknown_name_error("layer", name, [call.name for call in layer_survey.layers if "/" not in call.name])
