"""Families of methods: each computes what its kernels need from a model, and calls them.

A family handles all its methods of a call at once, so that they share forward and backward passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.graph import get_gradient_edge

from seewhy.axes.feature_layout import to_feature_grid
from seewhy.errors import ModelError, OptionError
from seewhy.feature_layers.selection import lies_on_all_paths
from seewhy.methods import METHODS
from seewhy.methods.perturbation.rise import MASK_BATCH_SIZE
from seewhy.methods.perturbation.segments import segment_labels
from seewhy.methods.queries import Attribution
from seewhy.results import Evaluations
from seewhy.targets.scoring import compute_scores, score_gradients, score_values
from seewhy.tracing.attention import attention_per_sample
from seewhy.tracing.backward_rules import Rectifiers, apply_backward_rules, find_rectifiers
from seewhy.tracing.biases import record_biases
from seewhy.tracing.forward import run_forward
from seewhy.tracing.linear_ops import nonlinear_ops
from seewhy.tracing.outputs import kernel_precision
from seewhy.tracing.pooled_head import pooled_head_violation
from seewhy.tracing.recorded_ops import RecordedPass, nonlinear_ops_with_values, record_elementwise_calls
from seewhy.types import VALUES_AT_OP

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

    from seewhy.axes.feature_layout import FeatureLayout
    from seewhy.model import Model
    from seewhy.targets.scoring import TargetScore
    from seewhy.tracing.attention import AttentionWeights
    from seewhy.types import BackwardRule, Inputs


def input_gradients(context: BatchContext, methods: list[RequestedMethod]) -> list[MethodResult]:
    """Compute gradients at the input: one backward pass per set of backward rules and target, from one forward pass.

    Raises:
        OptionError: a backward rule reads more than gradients.
    """
    for requested in methods:
        if any(set(rule.reads) & set(VALUES_AT_OP) for rule in requested.method.rules):
            raise OptionError(
                f"a backward rule of {requested.name} reads the input or output of an op, which the family "
                "'input_gradient' does not record: use the family 'recorded_gradient'."
            )
    x = context.forward_pass.x
    distinct = list(dict.fromkeys(one.method.rules for one in methods))
    by_rules = {rules: _rule_gradient(context, rules, free_graph=rules is distinct[-1]) for rules in distinct}
    results = []
    for requested in methods:
        gradient, notes = by_rules[requested.method.rules]
        values = {"x": x.detach(), "gradient": gradient, "score": score_values(context.scores)}
        attribution = _with_notes(bind_kernel(requested, **values)(), _saturation_notes(context) + notes)
        results.append(MethodResult(attribution, Evaluations(len(x), len(x) * len(context.scores))))
    return results


def _rule_gradient(
    context: BatchContext, rules: tuple[BackwardRule, ...], *, free_graph: bool
) -> tuple[Tensor, tuple[str, ...]]:
    """Return the gradient at the input with these rules at rectifiers, and notes on the rectifiers."""
    rectifiers = find_rectifiers(context.forward_pass.output) if rules else Rectifiers([], ())
    with apply_backward_rules(rectifiers.ops, rules):
        return (
            score_gradients(context.scores, context.forward_pass.x, context.model, free_graph=free_graph),
            rectifiers.notes,
        )


def _saturation_notes(context: BatchContext) -> tuple[str, ...]:
    count = sum(int(score.rescaled.sum()) for score in context.scores)
    return () if not count else (
        f"the score is saturated: the factor s(1-s) underflows and was omitted for {count} maps, which changes their "
        "unit only",
    )  # fmt: skip


def _with_notes(result: Any, notes: tuple[str, ...]) -> Attribution:
    """Return the result of a kernel, a tensor or an attribution, as an attribution with more notes."""
    attribution = result if isinstance(result, Attribution) else Attribution(result)
    return attribution._replace(notes=notes + attribution.notes)


def recorded_gradients(context: BatchContext, methods: list[RequestedMethod]) -> list[MethodResult]:
    """Compute gradients at the input with backward rules that read the inputs and outputs of ops.

    This takes a forward pass of its own, which records them, and another one for the baseline if a rule reads its
    values too.
    """
    return [_recorded_gradient(context, requested) for requested in methods]


def _recorded_gradient(context: BatchContext, requested: RequestedMethod) -> MethodResult:
    x, rules, notes = context.forward_pass.x.detach(), requested.method.rules, _saturation_notes(context)
    baseline = reference = reference_score = None
    if any(name.startswith("reference_") for rule in rules for name in rule.reads):
        _check_score_is_linear(context, requested)
        baseline = requested.options.get("baseline")  # resolved, if the method has this option
        if baseline is None:
            baseline, note = resolve_baseline(context.model, x, None)
            notes += (note,)
    leaf, scores, recorded = _recorded_pass(context, x)
    if baseline is not None:
        _check_linear_elsewhere(context, requested, recorded, leaf)
        _, reference_scores, reference = _recorded_pass(context, baseline)
        reference_score = score_values(reference_scores)
    with apply_backward_rules(nonlinear_ops_with_values(recorded, reference), rules):
        gradient = score_gradients(scores, leaf, context.model)
    values = {"x": x, "gradient": gradient, "score": score_values(scores), "reference_score": reference_score}
    passes = 2 if baseline is None else 3
    cost = Evaluations(passes * len(x), len(x) * len(scores))
    return MethodResult(_with_notes(bind_kernel(requested, **values)(), notes), cost)


def _recorded_pass(context: BatchContext, x: Inputs) -> tuple[Inputs, list[TargetScore], RecordedPass]:
    """Run a forward pass that records elementwise calls; return the leaf of its graph, the scores and the record."""
    with record_elementwise_calls() as calls:
        done = run_forward(context.model, x, graph=True, reduction_layer=context.reduction_layer)
        scores = compute_scores(context.targets, done.explained, context.model)
    context.advance(len(x))
    return done.x, scores, RecordedPass([score.tensor for score in scores], calls)


def _check_score_is_linear(context: BatchContext, requested: RequestedMethod) -> None:
    if context.targets.score != "logit":
        raise OptionError(
            f"score={context.targets.score!r}: {requested.name} is not defined for the log-sum-exp over classes in it. "
            "Use score='logit', a difference of classes such as target=lambda output: output[:, 3] - output[:, 7], or "
            "integrated_gradients."
        )


def _check_linear_elsewhere(
    context: BatchContext, requested: RequestedMethod, recorded: RecordedPass, leaf: Inputs
) -> None:
    """Refuse a network with nonlinear ops for which the method has no rule."""
    names = nonlinear_ops(recorded, leaf, {kind for rule in requested.method.rules for kind in rule.ops})
    if names:
        hint = " If softmax is the last operation, give the layer before it as reduction_layer."
        raise ModelError(
            f"{requested.name} is defined for networks of linear operations, elementwise nonlinear functions and max "
            f"pooling, but {context.model.name} contains {'; '.join(names)}. Methods that work: gradient, "
            f"input_x_gradient, integrated_gradients, occlusion.{hint * ('softmax' in names)}"
        )


def guided_layers(context: BatchContext, methods: list[RequestedMethod]) -> list[MethodResult]:
    """Compute the values of `layer_gradients` and the gradient at the input with the rules of each method."""
    values, notes = _layer_values(context)
    n, results = len(context.forward_pass.x), []
    for requested in methods:
        gradient, rule_notes = _rule_gradient(context, requested.method.rules, free_graph=False)
        attribution = _with_notes(bind_kernel(requested, guided_gradient=gradient, **values)(), notes + rule_notes)
        results.append(MethodResult(attribution, Evaluations(n, 2 * n * len(context.scores))))
    return results


def full_gradients(context: BatchContext, methods: list[RequestedMethod]) -> list[MethodResult]:
    """Compute the gradient at the input, and each bias times the gradient at the place where it is added.

    This takes a forward pass of its own, which records the biases. Targets are handled one by one, since the gradients
    of all layers are large.
    """
    with record_biases() as terms:
        done = run_forward(context.model, context.forward_pass.x, graph=True, reduction_layer=context.reduction_layer)
    scores = compute_scores(context.targets, done.explained, context.model)
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
            kernel_precision(term.value * gradient).movedim(term.channel_axis, 1).unsqueeze(1)
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
    """Compute activations [N, C, *S'] of the feature layer and the gradients of all targets there [N, K, C, *S'].

    Raises:
        ModelError: a method needs a linear layer of the mean over positions, and the score is computed otherwise.
    """
    any_gradients = any("gradients" in requested.method.kernel_inputs for requested in methods)
    values, notes = _layer_values(context) if any_gradients else ({"activations": feature_activations(context)}, ())
    values["score"] = score_values(context.scores)
    n, k = len(context.forward_pass.x), len(context.scores)
    results = []
    for requested in methods:
        if FAMILIES[requested.method.family].needs_pooled_head:
            _check_pooled_head(context, requested, values["gradients"])
        uses_gradients = "gradients" in requested.method.kernel_inputs
        attribution = _with_notes(bind_kernel(requested, **values)(), notes * uses_gradients)
        results.append(MethodResult(attribution, Evaluations(n, n * k * uses_gradients)))
    return results


def _check_pooled_head(context: BatchContext, requested: RequestedMethod, gradients: Tensor) -> None:
    reason = _pooled_head_violation(context, gradients)
    if reason:
        works = ", ".join(name for name, m in METHODS.items() if m.family == "layer_gradient")
        raise ModelError(
            f"{requested.name} needs a network that computes the score from layer {context.feature_layer.name!r} by "  # type: ignore[union-attr]
            f"the mean over its positions and one linear layer, but {reason}. Name the layer before the mean as "
            f"feature_layer, if there is one, or use {works}."
        )


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


def _layer_values(context: BatchContext) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return activations and gradients of the feature layer, and notes on gradients that are zero."""
    activations, layer = feature_activations(context), context.feature_layer
    features = context.forward_pass.features
    assert features is not None and layer is not None and layer.where is not None
    gradients = score_gradients(
        context.scores, features, context.model, free_graph=False, x_name=f"layer {layer.name!r}"
    )
    gradients = torch.stack([to_feature_grid(gradient, layer.where) for gradient in gradients.unbind(1)], 1)
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
    values: dict[str, Any] = {"attentions": [kernel_precision(attention.weights) for attention in attentions]}
    mean_token_gradients = _mean_token_gradients(context, plan.attention_count) if "block_gradients" in reads else []
    by_target: list[list[Attribution]] = [[] for _ in methods]
    for k, score in enumerate(context.scores):
        gradients = _attention_gradients(
            score.tensor, score.weight, attentions if "gradients" in reads else attentions[-1:]
        )
        # only queries of the last attention on which the score depends have a gradient
        used = (gradients[-1].abs().sum((1, 3)) > 0).to(gradients[-1])
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
            tokens = bind_kernel(requested, **{name: values[name] for name in requested.method.kernel_inputs})()
            attributions.append(Attribution(_tokens_on_grid(tokens, plan.patch_layout), notes=notes))
    cost = Evaluations(len(done.x), len(done.x) * len(context.scores))
    return [MethodResult(_join_targets(attributions), cost) for attributions in by_target]


def _attention_gradients(tensor: Tensor, weight: Tensor, attentions: Sequence[AttentionWeights]) -> list[Tensor]:
    """Return the gradient of sum(weight * tensor) at the weights of each attention, [N, heads, T, T]."""
    edges = [attention.edge for attention in attentions]
    gradients = torch.autograd.grad(tensor, edges, weight, retain_graph=True)  # type: ignore[arg-type]
    return [
        kernel_precision(gradient).reshape(a.weights.shape) for gradient, a in zip(gradients, attentions, strict=True)
    ]


def _mean_token_gradients(context: BatchContext, blocks: int) -> list[Tensor]:
    """Return for each target the gradients of the blocks' own scores at their mean tokens, [blocks N, 1, D].

    The own score of a block is the score that the head of the network computes from the block's mean token.
    """
    done = context.forward_pass
    assert done.mean_token_outputs is not None
    rows = torch.arange(len(done.x), device=done.x.device).repeat(blocks)
    scores = compute_scores(context.targets.take(rows), done.mean_token_outputs, context.model)
    gradients = [torch.autograd.grad(s.tensor, done.mean_tokens, s.weight, retain_graph=True) for s in scores]
    return [torch.cat(by_block) for by_block in gradients]


def _tokens_on_grid(tokens: Tensor, where: FeatureLayout) -> Tensor:
    """Arrange token values [N, K, T] as [N, K, 1, *grid], without the tokens that are not patches."""
    by_target = tokens.flatten(0, 1).unsqueeze(2)
    grid: Tensor = to_feature_grid(by_target, where).unflatten(0, tokens.shape[:2])
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
    return (20 if requested.method.stochastic else 4) * number_bytes * batch


def _mask_bytes_per_value(requested: RequestedMethod, number_bytes: int, samples: int, batch: int) -> int:
    """Bytes for the maps of a batch of random masks, in double precision; scores of segments need next to nothing."""
    if not requested.method.stochastic:
        return gradient_bytes_per_value(requested, number_bytes, samples, batch)
    if "segments" in requested.options:
        return 0
    pairs: int = requested.options["samples"] // 2 + 1
    return 20 * 8 * min(MASK_BATCH_SIZE, pairs)


FAMILIES = {
    "layer_gradient": Family(layer_gradients, uses_layer=True),
    "pooled_head": Family(layer_gradients, uses_layer=True, needs_pooled_head=True),
    "layer_and_rule": Family(guided_layers, needs_input_graph=True, uses_layer=True),
    "layer_scores": Family(run_query_methods, uses_layer=True),
    "attention": Family(attention_maps, needs_input_graph=True, uses_attention=True),
    "input_gradient": Family(input_gradients, needs_input_graph=True, frees_graph=True),
    "recorded_gradient": Family(recorded_gradients, own_graphs=True, resolvers={"baseline": _resolve_baseline}),
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
