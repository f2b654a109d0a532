"""The attention weights of a forward pass, for fused and unfused attention, and the layers at which its blocks end.

The model is not modified: a torch function mode observes, in this thread, the functions that compute attention. Fused
attention is computed in separate operations instead, so that its weights are part of the autograd graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional as F

from seewhy.axes.feature_layout import FeatureLayout
from seewhy.errors import ModelError, NoGradientError
from seewhy.models.function_observer import FunctionObserver

from .autograd_graph import nodes_reachable_from, producing_node
from .execution import ExecutionRecord, feature_layouts, innermost_call, record_execution
from .forward import run_forward
from .network_cache import cached_per_network
from .outputs import iter_tensors

if TYPE_CHECKING:
    from seewhy.model import Model
    from seewhy.types import Inputs

PRODUCT_FUNCTIONS = {"matmul", "rmatmul", "bmm", "einsum"}
WEIGHT_PRESERVING_FUNCTIONS = {
    "dropout", "to", "type", "type_as", "float", "half", "bfloat16", "double", "contiguous", "clone", "view", "reshape",
    "mul", "masked_fill", "nan_to_num",
}  # fmt: skip
ALTERNATIVES = "use gradcam, integrated_gradients or rise"

_plan_cache: WeakKeyDictionary[nn.Module, dict[Any, AttentionPlan]] = WeakKeyDictionary()


class AttentionWeights(NamedTuple):
    """The weights of one attention operation, as they were computed: they sum to 1 over the keys of each query.

    Attributes:
        weights: [N, heads, T, T] or [N · heads, T, T], detached.
        edge: the weights in the autograd graph; None if they have no gradient.
    """

    weights: Tensor
    edge: GradientEdge | None


class AttentionPlan(NamedTuple):
    """The attention of a model for one input size: the grid of patches among the tokens, and the blocks.

    Attributes:
        network_parts: the forward function and the layers; the plan is valid as long as these are the same objects.
        patch_layout: the position of the patch tokens among all tokens.
        attention_count: number of attention operations on the way from the input to the score.
        recorded_count: number of attention operations per forward pass.
        indices: the indices of those on the way, in execution order.
        description: the attention operations and the grid in words, for `layer_reason`.
        block_layers: the layer that ends each block, one per attention operation, in execution order; empty: not found.
        reason: why `block_layers` is empty.
    """

    network_parts: list[ref[Any]]
    patch_layout: FeatureLayout
    attention_count: int
    recorded_count: int
    indices: tuple[int, ...]
    description: str
    block_layers: tuple[str, ...]
    reason: str


@contextmanager
def record_attention() -> Iterator[list[AttentionWeights]]:
    """Record the attention weights of this thread's forward passes, in execution order.

    Attention inside scripted and compiled modules is not observed.
    """
    recorded: list[AttentionWeights] = []
    softmax_results: dict[int, Tensor] = {}  # results of softmax that no product has used yet

    def record(func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func in FUSED_FUNCTIONS:
            result, weights = FUSED_FUNCTIONS[func](*args, **kwargs)
            recorded.append(weights)
            return result
        if name in PRODUCT_FUNCTIONS and softmax_results:
            recorded.extend(_with_edge(t) for t in iter_tensors(args) if softmax_results.pop(id(t), None) is not None)
        result = func(*args, **kwargs)
        if not isinstance(result, Tensor) or not args or not isinstance(args[0], Tensor):
            return result
        if name == "softmax":
            axis = kwargs.get("dim", args[1] if len(args) > 1 else None)
            if result.ndim > 2 and axis in (-1, result.ndim - 1):
                softmax_results[id(result)] = result
        elif (
            name in WEIGHT_PRESERVING_FUNCTIONS
            and id(args[0]) in softmax_results
            and result.shape[-2:] == args[0].shape[-2:]
        ):
            softmax_results[id(result)] = result
        return result

    with FunctionObserver(record):
        yield recorded


def _with_edge(weights: Tensor) -> AttentionWeights:
    return AttentionWeights(weights.detach(), get_gradient_edge(weights) if weights.requires_grad else None)


def _attend(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
            is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
            ) -> tuple[Tensor, AttentionWeights]:  # fmt: skip
    """softmax(Q K^T · scale + mask) V, and the weights."""
    if enable_gqa:
        key, value = (t.repeat_interleave(query.shape[-3] // t.shape[-3], -3) for t in (key, value))
    scores = (query * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)) @ key.transpose(-2, -1)
    if is_causal:
        scores = scores.masked_fill(~torch.ones_like(scores, dtype=torch.bool).tril(), -torch.inf)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    weights = scores.softmax(-1)
    if dropout_p:
        weights = F.dropout(weights, dropout_p)
    return weights @ value, _with_edge(weights)


def _attend_multi_head(*args: Any, **kwargs: Any) -> tuple[tuple[Tensor, Tensor | None], AttentionWeights]:
    """The result of the attention of `nn.MultiheadAttention`, and its weights."""
    need_weights, average = kwargs.get("need_weights", True), kwargs.get("average_attn_weights", True)
    attend: Any = F.multi_head_attention_forward
    output, weights = attend(*args, **kwargs | {"need_weights": True, "average_attn_weights": False})
    # the returned weights are a view; the tensor that is multiplied with the values is the input of that view
    edge = weights.grad_fn.next_functions[0] if weights.grad_fn is not None else None
    recorded = AttentionWeights(weights.detach(), None if edge is None else GradientEdge(*edge))
    if not need_weights:
        return (output, None), recorded
    return (output, weights.mean(-3) if average else weights), recorded


FUSED_FUNCTIONS: dict[Any, Callable[..., tuple[Any, AttentionWeights]]] = {
    F.scaled_dot_product_attention: _attend,
    F.multi_head_attention_forward: _attend_multi_head,
}


def attention_plan(model: Model, x: Inputs, reduction_layer: str | None) -> AttentionPlan:
    """The attention plan of a model for inputs of this size, from one forward pass of one sample; cached.

    Args:
        model: the model.
        x: the batch.
        reduction_layer: the layer whose output is explained; None: the model's output.

    Raises:
        ModelError: no attention between all tokens was found, or the score does not depend on it by autograd.
    """
    return cached_per_network(_plan_cache, _make_plan, model, x, reduction_layer)


def _make_plan(model: Model, x: Inputs, reduction_layer: str | None) -> AttentionPlan:
    with record_attention() as attentions:
        record = record_execution(model, x, reduction_layer)
    name = model.name
    if not attentions:
        raise ModelError(
            f"no attention was found in {name}: neither scaled_dot_product_attention, nor nn.MultiheadAttention, nor a "
            "matrix product with the result of a softmax (compiled and scripted modules cannot be observed); "
            f"{ALTERNATIVES}."
        )
    reached = set(nodes_reachable_from(t.grad_fn for t in record.target_output))
    recorded_count = len(attentions)
    indices = tuple(i for i, a in enumerate(attentions) if a.edge is not None and a.edge.node in reached)
    if not indices or any(a.edge is None for a in attentions):
        raise NoGradientError(f"the score of {name} does not depend on its attention through autograd.")
    attentions = [attentions[i] for i in indices]
    shapes = ", ".join(dict.fromkeys(str(list(a.weights.shape)) for a in attentions))
    rectangular = next((a for a in attentions if a.weights.shape[-2] != a.weights.shape[-1]), None)
    if rectangular is not None:
        queries, keys = rectangular.weights.shape[-2:]
        raise ModelError(
            f"{name} has attention of {queries} queries to {keys} keys (pooled, reduced or cross-attention), so tokens "
            f"do not correspond from one attention layer to the next; {ALTERNATIVES}."
        )
    count = attentions[0].weights.shape[-1]
    if len({a.weights.shape[-1] for a in attentions}) > 1 or any(a.weights.ndim not in (3, 4) for a in attentions):
        raise ModelError(
            f"the attention of {name} is not between all tokens: its weights have the shapes {shapes}, as in windowed "
            f"or hierarchical networks; {ALTERNATIVES}."
        )
    layout = _patch_layout(record, count, x)
    if layout is None or any(a.weights.ndim == 4 and a.weights.shape[0] != 1 for a in attentions):
        raise ModelError(
            f"the attention weights of {name} have the shapes {shapes} for one input of size {list(x.shape[2:])}: that "
            f"is not one matrix per head over a grid of patches (but possibly over windows or channels); "
            f"{ALTERNATIVES}."
        )
    if any(a.weights.ndim == 3 for a in attentions):
        _check_sample_order(model, x, attentions, indices)
    grid = " × ".join(map(str, layout.grid))
    prefix = f" after {layout.prefix} other token{'s' * (layout.prefix > 1)}" if layout.prefix else ""
    description = f"{len(attentions)} attention layers with {count} tokens: {grid} patches{prefix}"
    if len(indices) < recorded_count:
        description += f"; {recorded_count - len(indices)} not on the way from the input to the score are not used"
    block_layers, reason = _block_layers(record, attentions, count)
    if block_layers:
        reason = _why_tokens_cannot_be_appended(model, x, reduction_layer, block_layers, record)
    used = () if reason else block_layers
    return AttentionPlan([], layout, len(attentions), recorded_count, indices, description, used, reason)


def _patch_layout(record: ExecutionRecord, count: int, x: Inputs) -> FeatureLayout | None:
    """The layout of one value for each of `count` tokens, [N, T, 1], from the first layer that returns so many."""
    for call, layout in zip(record.calls, feature_layouts(record.calls, tuple(x.shape[2:])), strict=True):
        shape = call.shape or ()
        if layout is None or not layout.spatial or len(shape) != 3 or shape[1] != count or layout.channel_axis != 2:
            continue
        if {layout.axis_of(i) for i in layout.positions} == {1}:  # not partly on the axis of the samples, as in windows
            return layout._replace(sizes=(*layout.sizes[:-1], 1))
    return None


def _check_sample_order(
    model: Model, x: Inputs, attentions: Sequence[AttentionWeights], indices: tuple[int, ...]
) -> None:
    """Refuse weights [N · heads, T, T] in which the heads of one sample are not adjacent."""
    two_samples = torch.cat([x[:1], torch.zeros_like(x[:1])])
    with record_attention() as pair_attentions:
        run_forward(model, two_samples, graph=False)
    for single, pair in zip(attentions, [pair_attentions[i] for i in indices], strict=True):
        head_count = len(single.weights)
        if single.weights.ndim == 3 and not torch.allclose(pair.weights[:head_count], single.weights, atol=1e-4):
            raise ModelError(
                f"{model.name} computes its attention weights {list(pair.weights.shape)} with heads before samples on "
                f"one axis, so they cannot be assigned to the samples; {ALTERNATIVES}."
            )


def _block_layers(
    record: ExecutionRecord, attentions: Sequence[AttentionWeights], count: int
) -> tuple[tuple[str, ...], str]:
    """The name of the layer that ends each block, or the reason why they cannot be identified.

    All paths from the input to the target output pass through the output of a block, and it depends only on the
    attention operations up to the block's own. Usually two tensors after each attention have both properties: the sum
    before the block's MLP, and the sum after it. The last one before the next attention is the output of the block.
    After the last attention, where the head of the model follows, it is the one with the same index.
    """
    output_nodes = [t.grad_fn for t in record.target_output]
    reached = set(nodes_reachable_from(output_nodes))
    calls = {
        c.edge: c
        for c in reversed(record.calls)
        if c.shape is not None and len(c.shape) == 3 and c.shape[:2] == (1, count) and c.edge is not None
    }
    attention_nodes = [a.edge.node for a in attentions if a.edge is not None]
    candidates: list[list[GradientEdge]] = [[] for _ in range(len(attentions) + 1)]  # by the attentions before them
    for edge in reversed(calls):
        if edge.node in reached and record.input_node not in nodes_reachable_from(output_nodes, without=edge.node):
            ancestors = set(nodes_reachable_from([edge.node]))
            candidates[sum(node in ancestors for node in attention_nodes)].append(edge)
    blocks = candidates[1:]
    if not all(blocks):
        return (), "some paths from the input to the output bypass the output of a block"
    if len(blocks) > 1:
        index = len(blocks[-2])
        block_ends = [block[-1] for block in blocks[:-1]]
        block_ends.append(blocks[-1][min(index, len(blocks[-1])) - 1])
        if len(blocks[-1]) < index or len({calls[edge].shape for edge in block_ends}) > 1:
            return (), "its last block differs from the others"
    else:
        sums = [edge for edge in blocks[0] if producing_node(edge.node).name() == "AddBackward0"]
        if not sums:
            return (), "the end of its only block cannot be identified"
        block_ends = [sums[-1]]
    return tuple(innermost_call([c for c in record.calls if c.edge == edge]).name for edge in block_ends), ""


def _why_tokens_cannot_be_appended(
    model: Model, x: Inputs, reduction_layer: str | None, layers: tuple[str, ...], record: ExecutionRecord
) -> str:
    """The reason why additional samples of tokens cannot be run through the layers after the last block.

    Empty if they can, and the target output of the original sample does not change.
    """
    try:
        done = run_forward(model, x[:1], graph=False, reduction_layer=reduction_layer, mean_token_layers=layers)
    except ModelError as error:
        return f"the layers after the last block fail on additional samples ({error})"
    outputs = (t for t in iter_tensors(done.target_output) if t.is_floating_point())
    for output, recorded in zip(outputs, record.target_output, strict=True):
        expected = recorded.detach()
        allowed = max(1e-3, 8 * torch.finfo(expected.dtype).eps) * expected.abs().max()
        if output.shape != expected.shape or not bool((output - expected).abs().max() <= allowed):
            return "the output of the layers after the last block depends on the number of samples"
    return ""


def attention_per_sample(
    attentions: Sequence[AttentionWeights], plan: AttentionPlan, count: int, model: Model
) -> list[AttentionWeights]:
    """The attention weights of `count` samples as [N, heads, T, T].

    Args:
        attentions: the weights recorded in a forward pass.
        plan: the attention plan of the model for this input size.
        count: number of samples N.
        model: the model, for the message.

    Raises:
        ModelError: their number or shapes differ from the plan.
    """
    recorded_count = len(attentions)
    attentions = [attentions[i] for i in plan.indices if i < recorded_count]
    tokens = math.prod(plan.patch_layout.grid) + sum(plan.patch_layout.tokens or ())
    wrong = [
        a for a in attentions
        if a.weights.shape[-2:] != (tokens, tokens) or a.weights.shape[0] % count
        or (a.weights.ndim == 4 and len(a.weights) != count)
    ]  # fmt: skip
    if wrong or recorded_count != plan.recorded_count:
        shapes = [list(a.weights.shape) for a in wrong or attentions]
        raise ModelError(
            f"{model.name} computes {recorded_count} attentions with weights of shape {shapes[:3]} for {count} "
            f"samples, but {plan.recorded_count} with {tokens} tokens for the first sample alone: its attention "
            "depends on the batch."
        )
    return [AttentionWeights(a.weights.reshape(count, -1, tokens, tokens), a.edge) for a in attentions]
