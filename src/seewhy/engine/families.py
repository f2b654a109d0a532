"""Families of methods: each computes what its kernels need from a model, and calls them.

A family handles all its methods of a call at once, so that they share forward and backward passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from seewhy.axes.layout import to_feature_grid
from seewhy.errors import ModelError
from seewhy.methods.gradient.guided_backprop import guided_backprop
from seewhy.methods.perturbation.rise import MASK_BATCH_SIZE
from seewhy.methods.perturbation.segments import segment_labels
from seewhy.methods.queries import Attribution
from seewhy.results import Evaluations
from seewhy.targets.scoring import compute_scores, score_gradients, score_values
from seewhy.tracing.attention import attention_per_sample
from seewhy.tracing.backward_rules import BackwardRule, apply_backward_rule, find_rectifiers
from seewhy.tracing.biases import record_biases
from seewhy.tracing.forward import run_forward

from .baselines import resolve_baseline, resolve_fill, resolve_references
from .batch import (
    BatchContext,
    Family,
    MethodResult,
    RequestedMethod,
    bind_kernel,
    feature_activations,
    gradient_bytes_per_value,
)
from .query_driver import run_query_methods

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.axes.layout import FeatureLayout
    from seewhy.model import Model
    from seewhy.tracing.attention import AttentionWeights
    from seewhy.types import Inputs


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
            attribution = Attribution(bind_kernel(requested, x=x, gradient=gradients[None])(), notes=notes)
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
    return [MethodResult(Attribution(bind_kernel(one, **values)(), notes=notes), cost) for one in methods]


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
            attributions.append(bind_kernel(requested, **values)())
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
    any_gradients = any("gradients" in requested.method.reads for requested in methods)
    values, notes = _layer_values(context) if any_gradients else ({"activations": feature_activations(context)}, ())
    values["score"] = score_values(context.scores)
    n, k = len(context.forward_pass.x), len(context.scores)
    results = []
    for requested in methods:
        uses_gradients = "gradients" in requested.method.reads
        attribution = bind_kernel(requested, **values)()
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
    reads = {name for requested in methods for name in requested.method.reads}
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
            tokens = bind_kernel(requested, **{name: values[name] for name in requested.method.reads})()
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
    values = {"x": x, "score": score_values(context.scores), **context.draws}
    return [MethodResult(bind_kernel(requested, **values)(), Evaluations(len(x), 0)) for requested in methods]


def _resolve_baseline(model: Model, x: Inputs, options: Mapping[str, Any]) -> tuple[Inputs, tuple[str, ...]]:
    baseline, note = resolve_baseline(model, x, options["baseline"])
    return baseline, (note,)


def _resolve_mask_value(model: Model, x: Inputs, options: Mapping[str, Any]) -> tuple[Inputs, tuple[str, ...]]:
    fill, note = resolve_fill(model, x, options["mask_value"])
    return fill, (note,)


def _resolve_references(model: Model, x: Inputs, options: Mapping[str, Any]) -> tuple[Any, tuple[str, ...]]:
    references, note = resolve_references(model, x, options["references"])
    return references, (note,)


def _resolve_segments(model: Model, x: Inputs, options: Mapping[str, Any]) -> tuple[Tensor, tuple[str, ...]]:
    return segment_labels(x, options["segments"], options["features"], model.layout)


def _path_bytes_per_value(requested: RequestedMethod, number_bytes: int, _samples: int, batch: int) -> int:
    """Bytes for the gradients at a batch of points; sampled methods also hold sums of their powers."""
    return (20 if _draws_numbers(requested) else 4) * number_bytes * batch


def _mask_bytes_per_value(requested: RequestedMethod, number_bytes: int, samples: int, batch: int) -> int:
    """Bytes for the maps of a batch of random masks, in double precision; scores of segments need next to nothing."""
    if not _draws_numbers(requested):
        return gradient_bytes_per_value(requested, number_bytes, samples, batch)
    if "segments" in requested.options:
        return 0
    pairs: int = requested.options["samples"] // 2 + 1
    return 20 * 8 * min(MASK_BATCH_SIZE, pairs)


def _draws_numbers(requested: RequestedMethod) -> bool:
    return bool({"normal", "uniform"} & set(requested.method.reads))


FAMILIES = {
    "layer_gradient": Family(layer_gradients, uses_layer=True),
    "layer_and_rule": Family(guided_layers, needs_input_graph=True, uses_layer=True, uses_rules=True),
    "layer_scores": Family(run_query_methods, uses_layer=True),
    "attention": Family(attention_maps, needs_input_graph=True, uses_attention=True),
    "input_gradient": Family(input_gradients, needs_input_graph=True, frees_graph=True),
    "rectifier_rule": Family(input_gradients, needs_input_graph=True, frees_graph=True, uses_rules=True),
    "full_gradient": Family(full_gradients, own_graphs=True),
    "masked_scores": Family(
        run_query_methods,
        resolvers={"mask_value": _resolve_mask_value, "segments": _resolve_segments},
        bytes_per_value=_mask_bytes_per_value,
    ),
    "input": Family(input_controls),
    "path_gradient": Family(
        run_query_methods,
        own_graphs=True,
        resolvers={"baseline": _resolve_baseline, "references": _resolve_references},
        bytes_per_value=_path_bytes_per_value,
    ),
}
