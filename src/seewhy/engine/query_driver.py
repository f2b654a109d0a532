"""Query driver: runs kernels that request gradients or scores while they compute, and replies to their queries."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import torch

from seewhy.axes.feature_layout import apply_feature_masks
from seewhy.errors import ModelError
from seewhy.feature_layers.selection import lies_on_all_paths
from seewhy.incremental import MIN_SAMPLES_TO_TRACE, PreparedNetwork, output_function, prepare_network
from seewhy.methods.queries import Attribution, GradientQuery, InputMaskQuery, LayerMaskQuery, ScoreQuery
from seewhy.results import Evaluations
from seewhy.targets.scoring import compute_scores, score_gradients, score_values
from seewhy.tracing.batch_norm_folding import to_channels_last
from seewhy.tracing.final_activation import output_from_logits
from seewhy.tracing.forward import run_forward

from .batch import (
    BatchContext,
    BatchLimit,
    MethodResult,
    RequestedMethod,
    bind_kernel,
    feature_activations,
    run_in_batches,
)

if TYPE_CHECKING:
    from torch import Tensor

MAX_POINTS_PER_QUERY = 32  # whose gradients exist at once; the passes themselves may use larger batches
MIN_WINDOWS = 8  # with fewer windows, incremental inference does not pay off
MAX_WINDOW_FRACTION = 0.5  # nor with windows that cover more than this fraction of the input
MASKS_PER_SLICE = 32  # whose patches are cut out at once
INCREMENTAL_BATCH_SIZE = 32  # masked samples per run of a prepared network, which splits its large layers itself
MASKED_FEATURES_BYTES = 2**25  # of masked copies of a layer's output per forward pass, up to MAX_MASKS_PER_PASS copies
MAX_MASKS_PER_PASS = 512

PrepareSample = Callable[[int], PreparedNetwork | str]  # sample index -> prepared network, or why there is none


@dataclass
class _QueryLog:
    """What the queries of one method took: forward and backward passes, and why whole networks were run for masks."""

    forward: int
    backward: int = 0
    full_pass_reason: str = ""


def run_query_methods(context: BatchContext, methods: list[RequestedMethod]) -> list[MethodResult]:
    """Run kernels that are generators: each yields queries and receives scores or gradients, computed in batches."""
    results = []
    for requested in methods:
        results.append(_run_query_method(context, requested))
    return results


def _run_query_method(context: BatchContext, requested: RequestedMethod) -> MethodResult:
    x = context.forward_pass.x.detach()
    log = _QueryLog(len(x))

    @lru_cache(maxsize=1)  # a prepared network holds large tensors
    def prepare_sample(n: int) -> PreparedNetwork | str:
        return prepare_network(context.model, x[n : n + 1], context.forward_pass.explained.activation)

    def reply(query: GradientQuery | ScoreQuery | LayerMaskQuery | InputMaskQuery) -> Tensor:
        if isinstance(query, LayerMaskQuery):
            return _scores_under_layer_masks(context, query, log)
        if isinstance(query, InputMaskQuery):
            return _scores_under_input_masks(context, query, prepare_sample, log)
        with_gradients = isinstance(query, GradientQuery)
        samples = range(len(x)) if query.sample_index is None else [query.sample_index]
        rows = torch.tensor(samples, device=x.device).repeat(len(query.points))
        points = query.points.flatten(0, 1).to(x)

        def compute(start: int, stop: int) -> Tensor:
            done = run_forward(
                context.model, points[start:stop], graph=with_gradients, reduction_layer=context.reduction_layer
            )
            targets = context.targets.take(rows[start:stop])
            scores = compute_scores(targets, done.explained, context.model, rescale=False)
            n, k = stop - start, len(scores)
            log.forward, log.backward = log.forward + n, log.backward + n * k * with_gradients
            context.advance(n)
            return score_gradients(scores, done.x, context.model) if with_gradients else score_values(scores)

        result = torch.cat(list(run_in_batches(compute, len(points), context.limit)))
        return result.reshape(*query.points.shape[:2], *result.shape[1:])

    score = score_values(context.scores)
    values = {
        "x": x if x.is_floating_point() else x.to(score.dtype),  # maps of whole numbers are not whole numbers
        "score": score,
        "max_points": max(1, min(context.limit.samples, MAX_POINTS_PER_QUERY) // len(x)),
    }
    if context.feature_layer is not None:
        values["activations"] = feature_activations(context)
    attribution = _run_kernel(bind_kernel(requested, **values, **context.draws)(), reply)
    if log.full_pass_reason:
        note = f"the whole network was run for every mask: {log.full_pass_reason}"
        attribution = attribution._replace(notes=(note, *attribution.notes))
    return MethodResult(attribution, Evaluations(log.forward, log.backward))


def _scores_under_input_masks(
    context: BatchContext,
    query: InputMaskQuery,
    prepare_sample: PrepareSample,
    log: _QueryLog,
) -> Tensor:
    """Return the scores [M, n, K] of masked inputs, by incremental inference where the network allows it."""
    x = context.forward_pass.x.detach()
    rows = torch.arange(len(x)) if query.sample_index is None else torch.tensor([query.sample_index])
    x, fill = x[rows], query.fill[rows]
    if query.windows is not None and context.reduction_layer is None:
        scores, reason = _scores_of_windows(context, query, prepare_sample, rows, x, fill)
        if scores is not None:
            log.forward += len(scores) * len(rows)
            return scores
        log.full_pass_reason = log.full_pass_reason or reason

    use_prepared = (
        context.reduction_layer is None
        and context.model.module is not None
        and query.n_masks * len(rows) >= MIN_SAMPLES_TO_TRACE
    )
    prepared = prepare_sample(int(rows[0])) if use_prepared else "too few masks"
    outputs = output_function(context.model, prepared, context.reduction_layer)
    x, fill = to_channels_last(x), to_channels_last(fill)

    def compute(start: int, stop: int) -> Tensor:
        mask = query.masks(start, stop).to(x.device)
        if not x.is_floating_point() and mask.is_floating_point():  # a whole number is either kept or replaced
            mask = mask.round().bool()
        points: Tensor = torch.where(mask, fill, x) if mask.dtype == torch.bool else x + mask.to(x) * (fill - x)
        output = outputs(points.flatten(0, 1))
        targets = context.targets.take(rows.repeat(stop - start).to(x.device))
        log.forward += (stop - start) * len(rows)
        context.advance((stop - start) * len(rows))
        values: Tensor = score_values(compute_scores(targets, output, context.model, rescale=False))
        return values.reshape(stop - start, len(rows), -1)

    batch_size = context.limit.samples
    if not context.limit.user_limited and not isinstance(prepared, str):
        batch_size = max(batch_size, INCREMENTAL_BATCH_SIZE)
    return torch.cat(list(run_in_batches(compute, query.n_masks, BatchLimit(max(1, batch_size // len(rows))))))


def _scores_of_windows(
    context: BatchContext, query: InputMaskQuery, prepare_sample: PrepareSample, rows: Tensor, x: Tensor, fill: Tensor
) -> tuple[Tensor | None, str]:
    """Return the scores [M, n, K] by incremental inference in windows, or None and the reason.

    The reason is empty where incremental inference would not be faster.
    """
    windows, size = query.windows, torch.tensor(x.shape[2:])
    assert windows is not None
    side = (windows[..., 1] - windows[..., 0]).amax(0)
    if context.model.module is None or len(windows) < MIN_WINDOWS or float((side / size).prod()) > MAX_WINDOW_FRACTION:
        return None, ""
    starts = torch.minimum(windows[..., 0], size - side)  # windows that end at the border are moved inside
    by_sample = []
    for n in range(len(rows)):
        patches = []
        for first in range(0, len(windows), MASKS_PER_SLICE):
            last = min(first + MASKS_PER_SLICE, len(windows))
            masks = query.masks(first, last)
            masks = masks if len(masks[0]) == 1 else masks[:, n : n + 1]
            for mask, start in zip(masks[:, 0].to(x.device), starts[first:last].tolist(), strict=True):
                box = (slice(None), *(slice(a, a + b) for a, b in zip(start, side.tolist(), strict=True)))
                patches.append(torch.where(mask.expand(x.shape[1:])[box], fill[n][box], x[n][box]))
        prepared = prepare_sample(int(rows[n]))
        output = prepared if isinstance(prepared, str) else prepared.masked_outputs(
            starts, torch.stack(patches), max_memory=context.limit.max_memory,
            **({"batch_size": context.limit.samples} if context.limit.user_limited else {})
        )  # fmt: skip
        if isinstance(output, str):
            return None, output
        targets = context.targets.take(rows[n].repeat(len(windows)).to(x.device))
        explained = output_from_logits(output, context.forward_pass.explained.activation, context.model)
        by_sample.append(score_values(compute_scores(targets, explained, context.model, rescale=False)))
        context.advance(len(windows))
    return torch.stack(by_sample, 1), ""


def _scores_under_layer_masks(context: BatchContext, query: LayerMaskQuery, log: _QueryLog) -> Tensor:
    """Return the scores [M, N, K] with the output of the feature layer masked, sample by sample.

    If the layer lies on all paths from input to output, one sample is run up to the layer, and only the rest of the
    network is run for each mask. Otherwise the whole network is run for each mask.
    """
    layer, features, x = context.feature_layer, context.forward_pass.features, context.forward_pass.x.detach()
    assert layer is not None and features is not None and layer.where is not None
    where = layer.where
    from_layer = lies_on_all_paths(context.model, x, layer.name, context.reduction_layer)
    expected = score_values(context.scores)

    def scores(n: int, replacement: Tensor, from_layer: bool) -> Tensor:
        count = len(replacement)
        inputs = x[n : n + 1] if from_layer else x[n : n + 1].expand(count, *x.shape[1:])
        done = run_forward(
            context.model, inputs, graph=False, reduction_layer=context.reduction_layer, feature_layer=layer.name,
            replacement=replacement,
        )  # fmt: skip
        targets = context.targets.take(torch.full((count,), n, device=x.device))
        return score_values(compute_scores(targets, done.explained, context.model, rescale=False))

    if from_layer:  # verify: with unchanged features the scores must be those of the forward pass
        try:
            twice = scores(0, features[:1].detach().repeat(2, *[1] * (features.ndim - 1)), from_layer=True)
            relative = max(1e-3, 8 * torch.finfo(features.dtype).eps)
            tolerance = relative * float(expected.abs().max())
            from_layer = torch.allclose(twice, expected[:1].expand_as(twice), rtol=relative, atol=tolerance)
        except ModelError:
            from_layer = False
    if not from_layer:
        log.full_pass_reason = log.full_pass_reason or f"layer {layer.name!r} is not on all paths to the output"
    batch_size = context.limit.samples
    if from_layer and not context.limit.user_limited:
        copies = MASKED_FEATURES_BYTES // (features[:1].numel() * features.element_size())
        batch_size = min(MAX_MASKS_PER_PASS, max(batch_size, copies))

    def compute(n: int, start: int, stop: int) -> Tensor:
        masks = query.masks(start, stop).to(features)
        values = scores(n, apply_feature_masks(features[n : n + 1].detach(), masks, where), from_layer)
        log.forward += stop - start
        context.advance(stop - start)
        return values

    limit = BatchLimit(batch_size)
    by_sample = [torch.cat(list(run_in_batches(partial(compute, n), query.n_masks, limit))) for n in range(len(x))]
    return torch.stack(by_sample, 1)


def _run_kernel(kernel: Generator[Any, Tensor, Attribution], reply: Callable[[Any], Tensor]) -> Attribution:
    """Run a kernel to its end, and return its attribution."""
    try:
        query = next(kernel)
        while True:
            query = kernel.send(reply(query))
    except StopIteration as finished:
        attribution: Attribution = finished.value
        return attribution
