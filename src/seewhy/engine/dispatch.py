"""Dispatch: turns a call of `explain` into a flat list of jobs, runs them, and arranges their results."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from seewhy.errors import NoFeatureLayerError
from seewhy.inputs.arrays import tensor_of
from seewhy.model import Model
from seewhy.models import wrap
from seewhy.models.module_tree import resolve_layer_name
from seewhy.results import Explanation, Explanations
from seewhy.targets.parsing import ClassIndices, check_target, split_target
from seewhy.tracing.multi_input import are_several_inputs
from seewhy.tracing.probe import with_probe
from seewhy.tracing.validation import prepare_model_and_input

from .assembly import average_layers, make_explanations
from .batch import RequestedMethod
from .ensembles import CopyMean, add_copy, copy_of_input, mean_explanation
from .families import FAMILIES
from .job import Job, run_job
from .multi_input import InputItem, InputPlan, plan_multi_input
from .progress import track_progress
from .validation import (
    Arguments,
    check_arguments,
    check_capabilities,
    is_single_method,
    method_names,
    requested_methods,
)


def run_call(model: Any, x: Any, method: Any, options: Mapping[str, Any], arguments: Arguments) -> Any:
    """Compute the results of `explain` for everything but data sets; see there.

    Args:
        model: the network.
        x: a batch, a list of unbatched tensors, or a tuple or dictionary of inputs.
        method: one method, or a list of methods.
        options: options of the methods.
        arguments: the common arguments.
    """
    methods = requested_methods(method, options)
    check_arguments(methods, arguments)
    plan = _plan_inputs(wrap(model), x, arguments.target)
    results = defaultdict[tuple[int, int], list[CopyMean]](list)  # per input and method: one item per feature layer
    without_layer: dict[int, NoFeatureLayerError] = {}  # per input
    with track_progress(method_names(methods), arguments.progress) as advance:
        start_time = time.perf_counter()
        for job in _plan_jobs(plan, methods, arguments):
            if job.item in without_layer:
                continue
            try:
                done = run_job(_with_targets_of_original(job, results), advance)
            except NoFeatureLayerError as error:
                if not plan.layers_optional:
                    raise
                without_layer[job.item] = error
                continue
            start_time, seconds = time.perf_counter(), time.perf_counter() - start_time
            for i, requested, e in zip(job.indices, job.methods, make_explanations(done, seconds), strict=True):
                if job.copy is None:
                    results[job.item, i].append(CopyMean(requested, e))
                else:
                    results[job.item, i][-1] = add_copy(results[job.item, i][-1], e, job.copy)
    if len(without_layer) == len(plan.items):
        raise without_layer[0]
    reasons = {item: str(error) for item, error in without_layer.items()}
    by_method = [
        [reasons.get(item) or _mean_of_layers(results[item, i]) for item in range(len(plan.items))]
        for i in range(len(methods))
    ]
    return plan.arrange(by_method, is_single_method(method))


def _mean_of_layers(results: list[CopyMean]) -> Explanation:
    return average_layers([mean_explanation(one) for one in results])


def _plan_inputs(model: Model, x: Any, target: Any) -> InputPlan:
    """Return the batches to explain one after the other, each with its model, and how their results are arranged."""
    if are_several_inputs(x):
        return plan_multi_input(model, x, target)
    if isinstance(x, list) and x and all(_is_unbatched_sample(item, model) for item in x):
        axis = (model.layout or "N").index("N")
        samples = [tensor_of(item) if model.data_layout else tensor_of(item).unsqueeze(axis) for item in x]
        pairs = zip(samples, split_target(target, len(x)), strict=True)
        return InputPlan([InputItem(model, sample, one) for sample, one in pairs], _arrange_list)
    return InputPlan([InputItem(model, x, target)], _arrange_batch)


def _is_unbatched_sample(item: Any, model: Model) -> bool:
    return isinstance(item, Tensor) or (isinstance(item, np.ndarray) and model.preparation is None)


def _arrange_batch(by_method: list[list[Explanation]], single: bool) -> Any:
    return by_method[0][0] if single else Explanations([by_item[0] for by_item in by_method])


def _arrange_list(by_method: list[list[Explanation]], single: bool) -> Any:
    return Explanations(by_method[0]) if single else [Explanations(by_item) for by_item in by_method]


def _plan_jobs(plan: InputPlan, methods: list[RequestedMethod], arguments: Arguments) -> Iterator[Job]:
    """Yield the jobs: per input, group of methods and feature layer one job, and one for each copy of an ensemble."""
    for number, item in enumerate(plan.items):
        layers = [resolve_layer_name(item.model, layer) for layer in arguments.layers]
        reduction_layer = resolve_layer_name(item.model, arguments.reduction_layer)
        model, inputs = prepare_model_and_input(item.model, item.x, arguments.device)
        if arguments.probe:
            model = with_probe(model, inputs)
        if model.conversion is None:  # otherwise the capabilities are known only after the conversion
            check_capabilities(model, methods)
        check_target(item.target, len(inputs), model)
        for group in _groups_of_methods(model, methods, reduction_layer):
            for i, layer in enumerate(layers):
                # methods without a feature layer run once, together with those of the first layer
                indices = [m for m in group if i == 0 or FAMILIES[methods[m].method.family].uses_layer]
                if not indices:
                    continue
                members = [methods[m] for m in indices]
                job = Job(model, inputs, item.target, members, layer, reduction_layer, arguments, number, indices)
                yield job
                if (ensemble := members[0].ensemble) is not None:
                    for j in range(ensemble.samples):
                        yield job._replace(inputs=copy_of_input(ensemble, inputs, j, arguments.seed), copy=j)


def _groups_of_methods(model: Model, methods: list[RequestedMethod], reduction_layer: str | None) -> list[list[int]]:
    """Return the indices of the methods that share their forward passes.

    An ensemble is a group of its own, since it runs on copies of the input. For a model with a conversion, the methods
    that the model itself supports and those that need its conversion are separate groups.
    """
    plain = [i for i, requested in enumerate(methods) if requested.ensemble is None]
    native = [i for i in plain if methods[i].method.requires in model.capabilities]
    converted = [i for i in plain if i not in native]
    shared = [plain] if model.conversion is None or reduction_layer is not None else [native, converted]
    return [*filter(None, shared), *([i] for i, requested in enumerate(methods) if requested.ensemble is not None)]


def _with_targets_of_original(job: Job, results: Mapping[tuple[int, int], list[CopyMean]]) -> Job:
    """Return a job for a copy of the input with the classes of the original input, so that all explain the same."""
    if job.copy is None:
        return job
    targets = results[job.item, job.indices[0]][-1].original.targets
    return job if targets is None else job._replace(target=ClassIndices(targets))
