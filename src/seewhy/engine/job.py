"""Jobs: methods that share the forward passes of one input. A job is run batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial, reduce
from operator import or_
from typing import TYPE_CHECKING, Any, NamedTuple

from seewhy.errors import ModelError, NoGradientError, OptionError
from seewhy.models.torchscript import without_fusion
from seewhy.targets import scoring
from seewhy.targets.parsing import is_all_classes
from seewhy.targets.predict import ALREADY_PROBABILITIES, class_probabilities
from seewhy.tracing.attention import AttentionPlan, attention_plan, record_attention
from seewhy.tracing.backward_passes import Attempt, next_attempt, saved_value_copies
from seewhy.tracing.forward import eval_mode, run_forward
from seewhy.tracing.layer_hooks import check_layer
from seewhy.tracing.onnx_verification import with_verified_conversion
from seewhy.tracing.outputs import concatenate_outputs
from seewhy.types import Capability

from .batch import BatchContext, BatchLimit, Family, FamilyFunction, MethodResult, RequestedMethod, run_in_batches
from .families import FAMILIES
from .memory import check_all_classes_fit, choose_batch_size
from .random_numbers import normal_sampler, uniform_sampler
from .validation import Arguments, ResolvedLayers, check_capabilities, methods_that_work, resolve_layers

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.model import Model
    from seewhy.tracing.final_activation import NetworkOutput
    from seewhy.types import Indices, Inputs, Scores


def run_order(families: Iterable[Family]) -> tuple[FamilyFunction, ...]:
    """Return the run functions of families; those that free the shared graph come last, wherever they are listed."""
    return tuple(dict.fromkeys(family.run for family in sorted(families, key=lambda family: family.frees_graph)))


RUN_ORDER = run_order(FAMILIES.values())


class Job(NamedTuple):
    """Methods that share the forward passes of one input and one feature layer.

    Attributes:
        model: the model of one input.
        inputs: [N, C, *S], on the model's device.
        target: as for `seewhy.explain`.
        methods: the methods.
        feature_layer: name of the feature layer; None: the default.
        reduction_layer: name of the layer whose output is explained; None: the model's output.
        arguments: the common arguments of the call.
        item: index of the input to which the results belong.
        indices: for each method its index in the call.
        copy: number of the copy of the input, for an ensemble; None: the input itself.
    """

    model: Model
    inputs: Inputs
    target: Any
    methods: list[RequestedMethod]
    feature_layer: str | None
    reduction_layer: str | None
    arguments: Arguments
    item: int
    indices: list[int]
    copy: int | None = None


class BatchResult(NamedTuple):
    """The results of all methods for one batch."""

    output: Any
    indices: Indices | None
    labels: tuple[tuple[str, ...], ...]  # of the classes
    scores: Scores
    probabilities: Tensor | None
    results: list[MethodResult]
    notes: tuple[str, ...]


class PreparedJob(NamedTuple):
    """A job with what all of its batches share."""

    job: Job
    layers: ResolvedLayers
    attention_plan: AttentionPlan | None
    graph: bool  # whether a method needs an autograd graph back to the input
    limit: BatchLimit
    advance: Callable[[int], None]  # called with the number of samples of each forward pass


class JobResult(NamedTuple):
    """The results of a job: the job as it was run, the layers that were used, and the results of its batches."""

    job: Job
    layers: ResolvedLayers
    attention_plan: AttentionPlan | None
    batches: list[BatchResult]


def run_job(job: Job, advance: Callable[[int], None]) -> JobResult:
    """Run all batches of a job.

    Args:
        job: the job.
        advance: called with the number of samples of each forward pass.

    Raises:
        ModelError: the model lacks a capability, or its forward pass fails.
        OptionError: memory does not suffice, or a target or option does not fit the model's output.
        UnknownNameError: a layer or class does not exist.
    """
    job, attempt = _with_capable_model(job), Attempt()
    while True:
        try:
            with eval_mode(job.model), saved_value_copies(attempt):
                prepared = _prepare_job(job, advance, attempt)
                batches = list(run_in_batches(partial(_run_batch, prepared), len(job.inputs), prepared.limit))
                return JobResult(job, prepared.layers, prepared.attention_plan, batches)
        except NoGradientError as error:
            works = methods_that_work(job.model.capabilities & ~Capability.GRADIENTS)
            raise ModelError(f"{error} Methods that need no gradient: {works}.") from error
        except RuntimeError as error:
            attempt = next_attempt(attempt, error)


def _prepare_job(job: Job, advance: Callable[[int], None], attempt: Attempt) -> PreparedJob:
    """Select the layers and the batch size of a job."""
    model, inputs, arguments = job.model, job.inputs, job.arguments
    families = [FAMILIES[requested.method.family] for requested in job.methods]
    graph = attempt.graph_from_input or any(family.needs_input_graph for family in families)
    any_graph = graph or any(family.own_graphs for family in families)
    layers = ResolvedLayers()
    if any(family.uses_layer for family in families):
        layers = resolve_layers(model, inputs, job.feature_layer, job.reduction_layer)
    plan = _attention_plan_for(model, inputs, job.reduction_layer, job.methods)
    size = choose_batch_size(model, inputs, arguments.batch_size, arguments.max_memory, any_graph)
    limit = BatchLimit(
        size,
        arguments.batch_size != "auto" or arguments.max_memory is not None or model.max_batch == 1,
        arguments.max_memory,
    )
    if is_all_classes(job.target, model):
        check_all_classes_fit(model, inputs, job.methods, families, layers.feature_layer, job.reduction_layer, limit)
    return PreparedJob(job, layers, plan, graph, limit, advance)


def _with_capable_model(job: Job) -> Job:
    """Return a job with its model converted to torch if its methods require it, and the inputs in its precision."""
    requires = reduce(or_, (requested.method.requires for requested in job.methods))
    if job.reduction_layer is not None:
        requires |= Capability.LAYERS
    model, inputs = job.model, job.inputs
    if requires not in model.capabilities and model.conversion is not None:
        model, inputs = with_verified_conversion(model, inputs)
    check_capabilities(model, job.methods)
    if any(requested.method.rules for requested in job.methods):
        model = without_fusion(model)
    if job.reduction_layer is not None:
        check_layer(model, job.reduction_layer)
    return job._replace(model=model, inputs=inputs)


def _attention_plan_for(
    model: Model, x: Inputs, reduction_layer: str | None, methods: list[RequestedMethod]
) -> AttentionPlan | None:
    """Return the attention plan if a method uses attention; it names block layers only if a method needs them."""
    if not any(FAMILIES[requested.method.family].uses_attention for requested in methods):
        return None
    plan = attention_plan(model, x, reduction_layer)
    by_block = [requested.name for requested in methods if "block_gradients" in requested.method.kernel_inputs]
    if by_block and not plan.block_layers:
        raise ModelError(
            f"{by_block[0]} computes a score from the output of each block, which is not possible for {model.name}: "
            f"{plan.reason}. rollout and attention_gradient do not need it."
        )
    return plan if by_block else plan._replace(block_layers=())


def _run_batch(prepared: PreparedJob, start: int, stop: int) -> BatchResult:
    """Run the shared forward pass of the samples from `start` to `stop`, and all methods on it."""
    job, context = prepared.job, _batch_context(prepared, start, stop)
    results: dict[int, MethodResult] = {}
    for run_family in RUN_ORDER:
        indices = [i for i, one in enumerate(job.methods) if FAMILIES[one.method.family].run is run_family]
        methods = [_with_resolved_options(job.methods[i], job.model, job.inputs[start:stop]) for i in indices]
        for i, requested, result in zip(indices, methods, run_family(context, methods) if methods else [], strict=True):
            attribution = result.attribution
            attribution = attribution._replace(notes=requested.notes + attribution.notes)
            results[i] = result._replace(attribution=attribution)
    done, targets = context.forward_pass, context.targets
    probabilities, notes = _target_probabilities(targets, done.explained, job.model)
    by_method, scores = [results[i] for i in range(len(job.methods))], scoring.score_values(context.scores)
    output, notes = concatenate_outputs([done.output]), targets.notes + notes
    return BatchResult(output, targets.indices, targets.labels, scores, probabilities, by_method, notes)


def _batch_context(prepared: PreparedJob, start: int, stop: int) -> BatchContext:
    """Run the shared forward pass of the samples from `start` to `stop`, and compute the target scores."""
    job, plan, layer = prepared.job, prepared.attention_plan, prepared.layers.feature_layer
    model, x, seed = job.model, job.inputs[start:stop], job.arguments.seed
    with record_attention() if plan else nullcontext(()) as attentions:
        done = run_forward(
            model,
            x,
            graph=prepared.graph,
            reduction_layer=job.reduction_layer,
            feature_layer=None if layer is None else layer.name,
            mean_token_layers=plan.block_layers if plan else (),
        )
    prepared.advance(len(x))
    targets = scoring.resolve_target(
        job.target, job.arguments.score, model, done.explained, slice(start, stop), job.reduction_layer
    )
    return BatchContext(
        model=model,
        forward_pass=done,
        targets=targets,
        scores=scoring.compute_scores(targets, done.explained, model),
        limit=prepared.limit,
        reduction_layer=job.reduction_layer,
        draws={"normal": normal_sampler(seed, x), "uniform": uniform_sampler(seed)},
        advance=prepared.advance,
        feature_layer=layer,
        attention_plan=plan,
        attentions=attentions,
    )


def _with_resolved_options(requested: RequestedMethod, model: Model, x: Inputs) -> RequestedMethod:
    """Return the method with the options that its kernel receives for this batch, and notes on them."""
    options, notes = dict(requested.options), requested.notes
    for name, resolve in FAMILIES[requested.method.family].resolvers.items():
        if name in requested.options:
            options[name], resolved_notes = resolve(model, x, requested.options)
            notes += resolved_notes
    return requested._replace(options=options, notes=notes)


def _target_probabilities(
    targets: scoring.Targets, output: NetworkOutput, model: Model
) -> tuple[Tensor | None, tuple[str, ...]]:
    """Return the probability of the target classes, or None for outputs that are not one score per class; and notes."""
    if targets.indices is None:
        return None, ()
    probabilities, already = class_probabilities(output, model)
    if already and targets.score != "logit":
        raise OptionError(f"score={targets.score!r} adds a softmax, but {ALREADY_PROBABILITIES}.")
    notes = (ALREADY_PROBABILITIES,) * already
    if probabilities is None or probabilities.ndim > 2:
        return None, notes
    return probabilities.detach().gather(1, targets.indices), notes
