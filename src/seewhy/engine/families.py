"""Families of methods: each computes what its kernels need from a model, and calls them.

A family handles all its methods of a call at once, so that they share forward and backward passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.autograd.graph import get_gradient_edge

from seewhy.axes.layout import to_feature_grid
from seewhy.errors import ModelError
from seewhy.feature_layers.selection import lies_on_all_paths
from seewhy.methods import METHODS
from seewhy.methods.gradient.guided_backprop import guided_backprop
from seewhy.methods.queries import Attribution
from seewhy.results import Evaluations
from seewhy.targets.scoring import compute_scores, score_gradients, score_values
from seewhy.tracing.attention import attention_per_sample
from seewhy.tracing.backward_rules import BackwardRule, apply_backward_rule, find_rectifiers
from seewhy.tracing.biases import record_biases
from seewhy.tracing.forward import run_forward
from seewhy.tracing.pooled_head import pooled_head_violation

from .batch import BatchContext, MethodResult, RequestedMethod, call_kernel, feature_activations
from .query_driver import run_query_methods
from .random_numbers import normal_sampler

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.axes.layout import FeatureLayout
    from seewhy.tracing.attention import AttentionWeights


def input_gradients(context: BatchContext, methods: list[RequestedMethod]) -> list[MethodResult]:
    """Compute gradients at the input: one backward pass per backward rule and target, from one forward pass."""
    rules = [_rule(requested) for requested in methods]
    rectifiers = find_rectifiers(context.forward_pass.output) if any(rules) else None
    gradients = {}
    distinct = list(dict.fromkeys(rules))
    for rule in distinct:
        with apply_backward_rule(rectifiers, rule):
            gradients[rule] = score_gradients(
                context.scores, context.forward_pass.x, context.model, free_graph=rule is distinct[-1]
            )
    rescaled = torch.stack([score.rescaled for score in context.scores], 1)
    notes = () if not rescaled.any() else (
        f"the score is saturated: the factor s(1-s) underflows and was omitted for {int(rescaled.sum())} maps, which "
        "changes their unit only",
    )  # fmt: skip
    results = []
    for requested, rule in zip(methods, rules, strict=True):
        x = context.forward_pass.x.detach()
        if rule is None:
            attribution = Attribution(call_kernel(requested, x=x, gradient=gradients[None]), notes=notes)
        else:
            attribution = Attribution(gradients[rule], notes=notes + (rectifiers.notes if rectifiers else ()))
        backward = gradients[rule].shape[0] * gradients[rule].shape[1]
        results.append(MethodResult(attribution, Evaluations(len(x), backward)))
    return results


def _rule(requested: RequestedMethod) -> BackwardRule | None:
    """Return the backward rule of a method, or None for ordinary backpropagation."""
    if requested.method.family != "rectifier_rule":
        return None
    return partial(requested.method.kernel, **requested.options) if requested.options else requested.method.kernel


def guided_layers(context: BatchContext, methods: list[RequestedMethod]) -> list[MethodResult]:
    """Compute the values of `layer_gradients` and the guided gradient at the input, from the same forward pass."""
    values, notes = _layer_values(context)
    rectifiers = find_rectifiers(context.forward_pass.output)
    x, k = context.forward_pass.x, len(context.scores)
    with apply_backward_rule(rectifiers, guided_backprop):
        values["guided_gradient"] = score_gradients(context.scores, x, context.model, free_graph=False)
    cost, notes = Evaluations(len(x), 2 * len(x) * k), notes + rectifiers.notes
    return [MethodResult(Attribution(call_kernel(one, **values), notes=notes), cost) for one in methods]


def full_gradients(context: BatchContext, methods: list[RequestedMethod]) -> list[MethodResult]:
    """Compute the gradient at the input, and each bias times the gradient at the place where it is added.

    This takes a forward pass of its own, which records the biases. Targets are handled one by one, since the gradients
    of all layers are large.
    """
    with record_biases() as terms:
        done = run_forward(context.model, context.forward_pass.x, graph=True, reduction_layer=context.reduction_layer)
    scores = compute_scores(context.targets, done.target_output, context.model)
    edges = [term.edge for term in terms]
    by_target: list[list[Attribution]] = [[] for _ in methods]
    for score in scores:
        input_gradient = score_gradients([score], done.x, context.model, free_graph=False)
        bias_gradients = (
            torch.autograd.grad(score.tensor, edges, score.weight, retain_graph=True, allow_unused=True)
            if edges
            else ()
        )
        biases = [
            (term.value * gradient).movedim(term.channel_axis, 1).unsqueeze(1)
            for term, gradient in zip(terms, bias_gradients, strict=True)
            if gradient is not None
        ]
        wrong = next((bias for bias in biases if len(bias) != len(done.x)), None)
        if wrong is not None:
            raise ModelError(
                f"{context.model.name} adds a bias to a tensor {list(wrong[:, 0].shape)} for {len(done.x)} samples: "
                "the first axis is not the batch (it may also hold windows), so the bias has no value per sample. Use "
                "another method."
            )
        values = {"x": done.x.detach(), "gradient": input_gradient, "biases": biases, "score": score.value.unsqueeze(1)}
        for attributions, requested in zip(by_target, methods, strict=True):
            attributions.append(call_kernel(requested, **values))
    cost = Evaluations(2 * len(done.x), 2 * len(done.x) * len(scores))
    return [MethodResult(_join_targets(attributions), cost) for attributions in by_target]


def _join_targets(attributions: list[Attribution]) -> Attribution:
    """Join K attributions of one target each into one attribution of K targets."""
    deltas = [a.convergence_delta for a in attributions]
    return Attribution(
        torch.cat([a.values for a in attributions], 1),
        convergence_delta=None if None in deltas else torch.cat(deltas, 1),  # type: ignore[arg-type]
        extras={key: torch.cat([a.extras[key] for a in attributions], 1) for key in attributions[0].extras},
        notes=tuple(dict.fromkeys(note for a in attributions for note in a.notes)),
    )


def layer_gradients(context: BatchContext, methods: list[RequestedMethod]) -> list[MethodResult]:
    """Compute activations [N, C, *S'] of the feature layer and the gradients of all targets there [N, K, C, *S']."""
    any_gradients = any("gradients" in requested.method.kernel_inputs for requested in methods)
    values, notes = _layer_values(context) if any_gradients else ({"activations": feature_activations(context)}, ())
    return _call_layer_kernels(context, methods, values, notes)


def pooled_head_gradients(context: BatchContext, methods: list[RequestedMethod]) -> list[MethodResult]:
    """Compute the values of `layer_gradients`, if the score is a linear layer of the mean over the layer's positions.

    Raises:
        ModelError: the score is computed otherwise.
    """
    values, notes = _layer_values(context)
    reason = _pooled_head_violation(context, values["gradients"])
    if reason:
        works = ", ".join(name for name, m in METHODS.items() if m.family == "layer_gradient")
        raise ModelError(
            f"{methods[0].name} needs a network that computes the score from layer {context.feature_layer.name!r} by "  # type: ignore[union-attr]
            f"the mean over its positions and one linear layer, but {reason}. Name the layer before the mean as "
            f"feature_layer, if there is one, or use {works}."
        )
    return _call_layer_kernels(context, methods, values, notes)


def _pooled_head_violation(context: BatchContext, gradients: Tensor) -> str | None:
    """Return why the score is not a linear layer of the mean over the feature layer's positions; None: it is."""
    layer, features = context.feature_layer, context.forward_pass.features
    assert layer is not None and layer.where is not None and features is not None
    if context.targets.score != "logit":
        return f"score={context.targets.score!r} is not linear in the logits: use score='logit'"
    if not lies_on_all_paths(context.model, context.forward_pass.x.detach(), layer.name, context.reduction_layer):
        return "other paths from the input to the score bypass it"
    nodes = [score.tensor.grad_fn for score in context.scores if score.tensor.grad_fn is not None]
    reason = pooled_head_violation(nodes, get_gradient_edge(features).node)
    if reason is not None:
        return reason
    if layer.where.prefix:
        return f"the layer has {layer.where.prefix} tokens that are not positions"
    flat = gradients.flatten(3)
    if bool((flat.amax(3) - flat.amin(3) > 100 * torch.finfo(flat.dtype).eps * flat.abs().amax(3)).any()):
        return "the positions have different weights"
    return None


def _call_layer_kernels(
    context: BatchContext, methods: list[RequestedMethod], values: dict[str, Any], notes: tuple[str, ...]
) -> list[MethodResult]:
    """Call kernels with activations, and gradients there; `notes` are those on the gradients."""
    values["score"] = score_values(context.scores)
    n, k = len(context.forward_pass.x), len(context.scores)
    results = []
    for requested in methods:
        uses_gradients = "gradients" in requested.method.kernel_inputs
        attribution = call_kernel(requested, **values)
        attribution = attribution if isinstance(attribution, Attribution) else Attribution(attribution)
        attribution = attribution._replace(notes=attribution.notes + notes * uses_gradients)
        results.append(MethodResult(attribution, Evaluations(n, n * k * uses_gradients)))
    return results


def _layer_values(context: BatchContext) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return activations and gradients of the feature layer, and notes on gradients that are zero."""
    activations, layer = feature_activations(context), context.feature_layer
    features = context.forward_pass.features
    assert features is not None and layer is not None and layer.where is not None
    gradients = score_gradients(
        context.scores, features, context.model, free_graph=False, x_name=f"layer {layer.name!r}"
    )
    gradients = to_feature_grid(gradients.flatten(0, 1), layer.where).unflatten(0, gradients.shape[:2])
    zero = (gradients.flatten(2).abs().amax(2) == 0).nonzero().tolist()
    notes = tuple(f"the gradient of sample {n}, target {k} is zero everywhere in layer {layer.name!r}" for n, k in zero)
    return {"activations": activations, "gradients": gradients}, notes


def attention_maps(context: BatchContext, methods: list[RequestedMethod]) -> list[MethodResult]:
    """Compute attention weights and their gradients; token values are arranged on the grid of patches.

    Targets are handled one by one, since the gradients are large.
    """
    plan, done = context.attention_plan, context.forward_pass
    assert plan is not None
    attentions = attention_per_sample(context.attentions, plan, len(done.x), context.model)
    reads = {name for requested in methods for name in requested.method.kernel_inputs}
    values: dict[str, Any] = {"attentions": [attention.weights for attention in attentions]}
    mean_token_gradients = _mean_token_gradients(context, plan.attention_count) if "block_gradients" in reads else []
    by_target: list[list[Attribution]] = [[] for _ in methods]
    for k, score in enumerate(context.scores):
        gradients = _attention_gradients(
            score.tensor, score.weight, attentions if "gradients" in reads else attentions[-1:]
        )
        # only queries of the last attention on which the score depends have a gradient
        used = (gradients[-1].abs().sum((1, 3)) > 0).to(done.x)
        token_weights = used / used.sum(1, keepdim=True).clamp(min=1)
        values |= {"gradients": [g.unsqueeze(1) for g in gradients], "token_weights": token_weights.unsqueeze(1)}
        if mean_token_gradients:
            by_block = zip(
                done.mean_tokens, mean_token_gradients[k].chunk(plan.attention_count), attentions, strict=True
            )
            values["block_gradients"] = [_attention_gradients(m, g, [a])[0].unsqueeze(1) for m, g, a in by_block]
        independent = (~used.any(1)).nonzero().flatten().tolist()
        notes = tuple(f"the score of sample {n}, target {k} does not depend on the last attention" for n in independent)
        for attributions, requested in zip(by_target, methods, strict=True):
            tokens = call_kernel(requested, **{name: values[name] for name in requested.method.kernel_inputs})
            attributions.append(Attribution(_tokens_on_grid(tokens, plan.patch_layout), notes=notes))
    cost = Evaluations(len(done.x), len(done.x) * len(context.scores))
    return [MethodResult(_join_targets(attributions), cost) for attributions in by_target]


def _attention_gradients(tensor: Tensor, weight: Tensor, attentions: Sequence[AttentionWeights]) -> list[Tensor]:
    """Return the gradient of sum(weight * tensor) at the weights of each attention, [N, heads, T, T]."""
    edges = [attention.edge for attention in attentions]
    gradients = torch.autograd.grad(tensor, edges, weight, retain_graph=True)  # type: ignore[arg-type]
    return [gradient.reshape(a.weights.shape) for gradient, a in zip(gradients, attentions, strict=True)]


def _mean_token_gradients(context: BatchContext, blocks: int) -> list[Tensor]:
    """Return for each target the gradients of the blocks' own scores at their mean tokens, [blocks N, 1, D].

    The own score of a block is the score that the head of the network computes from the block's mean token.
    """
    done = context.forward_pass
    rows = torch.arange(len(done.x), device=done.x.device).repeat(blocks)
    scores = compute_scores(context.targets.take(rows), done.mean_token_outputs, context.model)
    gradients = [torch.autograd.grad(s.tensor, done.mean_tokens, s.weight, retain_graph=True) for s in scores]
    return [torch.cat(by_block) for by_block in gradients]


def _tokens_on_grid(tokens: Tensor, where: FeatureLayout) -> Tensor:
    """Arrange token values [N, K, T] as [N, K, 1, *grid], without the tokens that are not patches."""
    grid: Tensor = tokens[:, :, where.prefix or 0 :].unflatten(2, (1, *where.grid))
    return grid


def input_controls(context: BatchContext, methods: list[RequestedMethod]) -> list[MethodResult]:
    """Call the kernels of control methods, which use the input and random numbers but not the network."""
    x = context.forward_pass.x.detach()
    values = {"x": x, "score": score_values(context.scores), "normal": normal_sampler(context.seed, x)}
    return [MethodResult(call_kernel(requested, **values), Evaluations(len(x), 0)) for requested in methods]


class Family(NamedTuple):
    """How the kernels of a family are called, and what they need from the forward pass that all methods share."""

    run: Callable[[BatchContext, list[RequestedMethod]], list[MethodResult]]
    needs_input_graph: bool = False  # an autograd graph back to the input
    uses_layer: bool = False  # the activations of the feature layer
    needs_pooled_head: bool = False  # after the feature layer, only the mean over positions and one linear layer
    uses_rules: bool = False  # backward rules of rectifiers
    uses_attention: bool = False  # the weights of all attentions
    own_graphs: bool = False  # its own forward passes keep graphs back to the input, which need more memory


# in order of execution: "input_gradient" and "rectifier_rule" free the shared graph
FAMILIES = {
    "layer_gradient": Family(layer_gradients, uses_layer=True),
    "pooled_head": Family(pooled_head_gradients, uses_layer=True, needs_pooled_head=True),
    "layer_and_rule": Family(guided_layers, needs_input_graph=True, uses_layer=True, uses_rules=True),
    "layer_scores": Family(run_query_methods, uses_layer=True),
    "attention": Family(attention_maps, needs_input_graph=True, uses_attention=True),
    "input_gradient": Family(input_gradients, needs_input_graph=True),
    "rectifier_rule": Family(input_gradients, needs_input_graph=True, uses_rules=True),
    "full_gradient": Family(full_gradients, own_graphs=True),
    "masked_scores": Family(run_query_methods),
    "input": Family(input_controls),
    "path_gradient": Family(run_query_methods, own_graphs=True),
}
