"""explain(): attribution maps of a network's output for a batch of inputs."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cache, reduce
from importlib.metadata import PackageNotFoundError, version
from operator import or_
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import torch
from torch import Tensor
from torch.nn import Module

from seewhy import maps
from seewhy.axes.layout import from_canonical
from seewhy.errors import ModelError, OptionError, check_choice
from seewhy.feature_layers.selection import LayerInfo
from seewhy.inputs.preprocessing import Preprocessing
from seewhy.methods import DEFAULT_METHOD, method_identity
from seewhy.methods.method import Method
from seewhy.models import wrap
from seewhy.models.module_tree import resolve_layer_name
from seewhy.models.torchscript import without_fusion
from seewhy.results import Evaluations, Explanation, Explanations, MethodCall
from seewhy.targets import scoring
from seewhy.targets.predict import ALREADY_PROBABILITIES, class_probabilities
from seewhy.tracing.attention import AttentionPlan, attention_plan, record_attention
from seewhy.tracing.forward import eval_mode, run_forward
from seewhy.tracing.layer_hooks import check_layer
from seewhy.tracing.outputs import concatenate_outputs
from seewhy.tracing.validation import prepare_model_and_input
from seewhy.types import Capability

from .batch import BatchContext, MethodResult, RequestedMethod, run_in_batches
from .data_sets import ExplanationStream, explain_data_set, is_batch_iterable
from .ensembles import EnsembleMethod, average_copies, average_layers
from .families import FAMILIES
from .memory import check_all_classes_fit, choose_batch_size
from .multi_input import concatenate_padded, explain_inputs
from .progress import track_progress
from .validation import (
    UPSAMPLE_MODES,
    ResolvedLayers,
    check_arguments,
    check_capabilities,
    is_single_method,
    requested_methods,
    resolve_layers,
)

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from seewhy.model import Model
    from seewhy.types import Indices, Inputs, Scores


@overload
def explain(model: Any, x: list[Tensor], method: Any = ..., **options: Any) -> list[Any]: ...
@overload
def explain(model: Any, x: tuple[Any, ...], method: Any = ..., **options: Any) -> tuple[Any, ...]: ...
@overload
def explain(model: Any, x: Mapping[str, Any], method: Any = ..., **options: Any) -> dict[str, Any]: ...
@overload
def explain(model: Any, x: DataLoader[Any] | Iterator[Any], method: Any = ..., **options: Any) -> ExplanationStream: ...
@overload
def explain(model: Any, x: Any, method: str | Method | EnsembleMethod = ..., **options: Any) -> Explanation: ...
@overload
def explain(model: Any, x: Any, method: Sequence[str | Method | EnsembleMethod], **options: Any) -> Explanations: ...
def explain(
    model: Any,
    x: Any,
    method: str | Method | EnsembleMethod | Sequence[str | Method | EnsembleMethod] = DEFAULT_METHOD,
    *,
    target: Any = None,
    score: str = "logit",
    feature_layer: str | Module | Sequence[str | Module] | None = None,
    reduction_layer: str | Module | None = None,
    upsample: str = "bicubic",
    batch_size: int | str = "auto",
    max_memory: int | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: bool | Callable[..., None] | None = None,
    **options: Any,
) -> Any:
    """Compute attribution maps: how much each position of an input contributes to a score of a neural network.

    Shapes: N is the number of samples, K the number of targets per sample, C the number of channels, and *S the spatial
    or temporal axes of the input. The methods and targets of a call share forward passes where possible. The network
    runs in eval mode; its state is the same after the call as before.

    Args:
        model: the network: a torch module, a function, or the result of `seewhy.wrap` or `seewhy.load`.
        x: the input, one of:

            - A batch [N, C, *S], or in the layout of the model, preprocessed as the network expects.
            - Anything else that the model's `prepare` accepts, such as the path of a picture.
            - A list of unbatched tensors [C, *S], which may differ in size.
            - A tuple or dictionary of batches, for a network with several inputs. The network is called as network(*x)
              or network(**x); for an ONNX network, the order or the names are those of its graph.
            - A data set: a torch DataLoader, a Keras PyDataset, or another iterable of batches. A batch is x, (x,),
              (x, y) or (x, y, weights); several inputs are nested, as in ((a, b), y).
        method: name of a method in `seewhy.METHODS`, a `Method`, a method averaged with `seewhy.smooth` or
            `seewhy.tta`, or a list of these. Default: "gradcam".
        target: the output values that are explained, one of:

            - None: the class with the highest score of each sample. This is the default.
            - A class index or a label: this class, for every sample.
            - A list or range of K class indices or labels: all of them, for every sample.
            - An integer tensor [N] or [N, K]: the classes of each sample.
            - "top3", or another number: the three classes with the highest scores of each sample.
            - "all": every class. If the maps would take more than `max_memory` or half of the free memory, the call is
              refused. Then use ranges of classes, such as target=range(0, 50).
            - "label": the class y of each sample, for a data set of pairs (x, y).
            - A function of the output that returns [N], or a list of K such functions. It is called with parts of the
              batch.
        score: which value of a class is explained: "logit" (the output itself), "probability" (its softmax),
            "log_probability", or "margin" (the logit minus the log-sum-exp of the other logits). For an output with
            positions, as in segmentation, the values are summed over the positions.
        feature_layer: name of the layer whose activations the method uses, as listed by `seewhy.layers`, or the module
            itself. In transformers, the patch tokens of the layer are used. Several layers in a list: their maps are
            averaged at the size of the input. Default: a suitable layer is selected; see `layer_reason` of the result.
        reduction_layer: name of the layer whose output is explained, or the module itself. Default: the output of the
            network.
        upsample: interpolation of maps to the size of the input: "bicubic" (cubic along every axis; it may overshoot
            the range of the map), "linear", "nearest" or "none". It has no effect on maps that have the size of the
            input already.
        batch_size: largest number of samples per forward pass. "auto": on a CPU 4, or 8 if no method needs gradients
            at the input; on other devices 32. The number is halved whenever memory runs out.
        max_memory: bytes that the call may allocate. The batch size is reduced accordingly, based on a measurement of
            one sample. Default: unlimited.
        device: "auto": the device of the network. Otherwise a device such as "cpu" or "cuda:1"; a network with weights
            must be on this device.
        seed: seed of the random numbers. The same seed yields the same map, whatever the batch.
        progress: whether to show a progress bar on stderr after two seconds. Default: only if stderr is a terminal. Or
            a function, which is called after each forward pass with its number of samples.
        **options: options of the methods; `seewhy.METHODS[name].options` lists them. With several methods, each
            receives the options that it has.

    Returns:
        An `Explanation` for a batch and one method. Its `values` [N, K, C or 1, *S'] are signed and have the resolution
        of the method; `seewhy.METHODS[name].description` states their unit. Its `maps` [N, K, *S] are the values
        reduced to one channel and resampled to the size of the input. In other cases:

        - A list of methods: `Explanations`, a sequence with one item per method.
        - A list of unbatched tensors: `Explanations` with one item per tensor. With a list of methods too, a list with
          one such sequence per method.
        - A tuple or dictionary of inputs: a tuple or dictionary with one result per floating-point input. It is
          computed with the other inputs unchanged. Integer inputs have no result.
        - A data set: an iterator. Each call of `next` loads a batch and returns its result; no results are kept, so the
          memory does not grow. Use `itertools.islice(results, 10)` for the first ten batches. Arguments are checked
          before the first batch is loaded. The error of a batch states its number, counted from 0, and the next call
          continues with the next batch. All batches share one progress bar.

    Raises:
        UnknownNameError: a method, option, label or layer does not exist.
        OptionError: an argument or option has a value that is not allowed.
        InputError: the input is empty, contains NaN or infinite values, or does not fit the network.
        ModelError: the network does not support the method, or its forward pass failed.
    """
    start_time = time.perf_counter()
    arguments = {"target": target, "score": score, "feature_layer": feature_layer, "reduction_layer": reduction_layer}
    arguments |= {"upsample": upsample, "batch_size": batch_size, "max_memory": max_memory}
    arguments |= {"device": device, "seed": seed, "progress": progress}
    single = is_single_method(method)
    if is_batch_iterable(x):
        return explain_data_set(explain, model, x, method, arguments, options)
    if isinstance(x, (Mapping, tuple)) and x:
        return explain_inputs(explain, model, x, method, **arguments, **options)
    if isinstance(x, list) and x and all(isinstance(item, Tensor) for item in x):
        axis = (wrap(model).layout or "N").index("N")
        by_input = [explain(model, item.unsqueeze(axis), method, **arguments, **options) for item in x]
        return Explanations(by_input) if single else [Explanations(same) for same in zip(*by_input, strict=True)]
    if isinstance(method, (list, tuple)) and any(isinstance(one, EnsembleMethod) for one in method):
        return Explanations([explain(model, x, one, **arguments, **options) for one in method])
    if isinstance(feature_layer, (list, tuple)):
        check_choice("upsample", upsample, UPSAMPLE_MODES[:-1])
        by_layer: list[Any] = [
            explain(model, x, method, **(arguments | {"feature_layer": layer}), **options) for layer in feature_layer
        ]
        if single:
            return average_layers(by_layer)
        return Explanations([average_layers(same_method) for same_method in zip(*by_layer, strict=True)])
    if isinstance(method, EnsembleMethod):
        model, inputs = prepare_model_and_input(model, x, device)

        def explain_copy(copy: Inputs, targets: Any) -> Explanation:
            copy_arguments = arguments | {"target": arguments["target"] if targets is None else targets}
            explanation: Explanation = explain(
                model, from_canonical(copy, model.layout), method.method, **copy_arguments, **options
            )
            return explanation

        explanation = average_copies(method, inputs, seed, upsample, explain_copy)
        return replace(explanation, seconds=time.perf_counter() - start_time)
    methods = requested_methods(method, options)
    check_arguments(methods, arguments)
    families = [FAMILIES[requested.method.family] for requested in methods]
    model = wrap(model)
    feature_name: str | None = resolve_layer_name(model, feature_layer)
    reduction_name: str | None = resolve_layer_name(model, reduction_layer)
    arguments |= {"feature_layer": feature_name, "reduction_layer": reduction_name}
    native = [requested.method.requires in model.capabilities for requested in methods]
    if model.conversion is not None and reduction_name is None and any(native) and not all(native):
        return _explain_native_and_converted(model, x, method, methods, native, arguments, options)
    requires = reduce(or_, (requested.method.requires for requested in methods))
    requires = requires if reduction_name is None else requires | Capability.LAYERS
    model, inputs = prepare_model_and_input(model, x, device, requires)
    check_capabilities(model, methods)
    if any(requested.method.rules for requested in methods):
        model = without_fusion(model)
    scoring.check_target(target, len(inputs), model)
    if reduction_name is not None:
        check_layer(model, reduction_name)

    with eval_mode(model), track_progress(", ".join(requested.name for requested in methods), progress) as advance:
        graph = any(family.needs_input_graph for family in families)
        any_graph = graph or any(family.own_graphs for family in families)
        uses_layer = any(family.uses_layer for family in families)
        layers = resolve_layers(model, inputs, feature_name, reduction_name) if uses_layer else ResolvedLayers()
        plan = _attention_plan_for(model, inputs, reduction_name, methods)
        sizes = [choose_batch_size(model, inputs, batch_size, max_memory, any_graph)]
        if scoring.is_all_classes(target, model):
            check_all_classes_fit(model, inputs, methods, layers.feature_layer, reduction_name, sizes[0], max_memory)
        user_limited = batch_size != "auto" or max_memory is not None
        call = _Call(
            model, methods, target, score, reduction_name, layers.feature_layer, graph, sizes, user_limited, max_memory,
            seed, advance, plan,
        )  # fmt: skip
        batches = list(run_in_batches(lambda a, b: _explain_batch(call, inputs[a:b], slice(a, b)), len(inputs), sizes))

    common = _common_fields(model, inputs, batches, target)
    common |= {"seed": seed, "score": score, "reduction_layer": reduction_name, "upsample": upsample}
    common |= {"model": model.name, "versions": _versions()}
    common |= {"seconds": time.perf_counter() - start_time}
    explanations = [
        _assemble(requested, [batch.results[i] for batch in batches], common, upsample, layers, plan)
        for i, requested in enumerate(methods)
    ]
    return explanations[0] if single else Explanations(explanations)


def _explain_native_and_converted(
    model: Model,
    x: Any,
    method: Any,
    methods: list[RequestedMethod],
    native: list[bool],
    arguments: Mapping[str, Any],
    options: Mapping[str, Any],
) -> Explanations:
    """Run the methods that the network itself supports in one call, and those that need its conversion in another."""
    explanations: dict[int, Explanation] = {}
    for is_native in (True, False):
        indices = [i for i, supported in enumerate(native) if supported is is_native]
        option_names = {key for i in indices for key in methods[i].method.options}
        call_arguments = {**arguments, "feature_layer": None} if is_native else arguments
        call_options = {key: value for key, value in options.items() if key in option_names}
        results = explain(model, x, [method[i] for i in indices], **call_arguments, **call_options)
        explanations |= dict(zip(indices, results, strict=True))
    return Explanations([explanations[i] for i in range(len(methods))])


@cache
def _versions() -> dict[str, str]:
    """Return the versions of seewhy, torch and Python."""
    try:
        own_version = version("seewhy")
    except PackageNotFoundError:  # a source tree that was not installed
        own_version = "not installed"
    return {"seewhy": own_version, "torch": str(torch.__version__), "python": platform.python_version()}


class _BatchResult(NamedTuple):
    """The results of all methods for one batch."""

    output: Any
    indices: Indices | None
    scores: Scores
    probabilities: Tensor | None
    results: list[MethodResult]
    notes: tuple[str, ...]


class _Call(NamedTuple):
    """The settings that all batches of a call share; see `BatchContext`."""

    model: Model
    methods: list[RequestedMethod]
    target: Any
    score: str
    reduction_layer: str | None
    feature_layer: LayerInfo | None
    graph: bool
    batch_size: list[int]
    user_limited: bool
    max_memory: int | None
    seed: int
    advance: Callable[[int], None]
    attention_plan: AttentionPlan | None = None


def _attention_plan_for(
    model: Model, x: Inputs, reduction_layer: str | None, methods: list[RequestedMethod]
) -> AttentionPlan | None:
    """Return the attention plan if a method uses attention; it names block layers only if a method needs them."""
    if not any(FAMILIES[requested.method.family].uses_attention for requested in methods):
        return None
    plan = attention_plan(model, x, reduction_layer)
    by_block = [requested.name for requested in methods if "block_gradients" in requested.method.reads]
    if by_block and not plan.block_layers:
        raise ModelError(
            f"{by_block[0]} computes a score from the output of each block, which is not possible for {model.name}: "
            f"{plan.reason}. rollout and attention_gradient do not need it."
        )
    return plan if by_block else plan._replace(block_layers=())


def _explain_batch(call: _Call, x: Inputs, samples: slice) -> _BatchResult:
    """Run the shared forward pass of a batch, and all methods on it; `samples` is the position of the batch in x."""
    model, methods, plan = call.model, call.methods, call.attention_plan
    with record_attention() if plan else nullcontext(()) as attentions:
        done = run_forward(
            model,
            x,
            graph=call.graph,
            reduction_layer=call.reduction_layer,
            feature_layer=None if call.feature_layer is None else call.feature_layer.name,
            mean_token_layers=plan.block_layers if plan else (),
        )
    call.advance(len(x))
    targets = scoring.resolve_target(call.target, call.score, model, done.target_output, samples)
    scores = scoring.compute_scores(targets, done.target_output, model)
    probabilities, notes = _target_probabilities(targets, done.target_output, model)
    context = BatchContext(
        model, done, targets, scores, call.batch_size, call.user_limited, call.max_memory, call.reduction_layer,
        call.seed, call.advance, call.feature_layer, plan, attentions,
    )  # fmt: skip
    results: dict[int, MethodResult] = {}
    for run_family in dict.fromkeys(family.run for family in FAMILIES.values()):
        indices = [i for i, one in enumerate(methods) if FAMILIES[one.method.family].run is run_family]
        if indices:
            results |= dict(zip(indices, run_family(context, [methods[i] for i in indices]), strict=True))
    return _BatchResult(
        concatenate_outputs([done.output]),
        targets.indices,
        torch.stack([score.value for score in scores], 1),
        probabilities,
        [results[i] for i in range(len(methods))],
        notes,
    )


def _target_probabilities(targets: scoring.Targets, output: Any, model: Model) -> tuple[Tensor | None, tuple[str, ...]]:
    """Return the softmax of the target classes, or None for outputs that are not one score per class; and notes."""
    if targets.indices is None:
        return None, ()
    probabilities, already = class_probabilities(output.detach(), model)
    if already and targets.score != "logit":
        raise OptionError(f"score={targets.score!r} adds a softmax, but {ALREADY_PROBABILITIES}.")
    notes = (ALREADY_PROBABILITIES,) * already
    return None if probabilities is None or probabilities.ndim > 2 else probabilities.gather(1, targets.indices), notes


def _common_fields(model: Model, x: Inputs, batches: list[_BatchResult], target: Any) -> dict[str, Any]:
    """Return the fields of `Explanation` that all methods of a call have in common."""
    indices = _concatenated([batch.indices for batch in batches])
    notes = model.notes + tuple(dict.fromkeys(note for batch in batches for note in batch.notes))
    if isinstance(target, (list, tuple)) and 1 < len(target) == len(x):
        notes += (
            f"the list of {len(target)} targets was explained for every sample; for one target per sample use a tensor",
        )
    return {
        "input": x.cpu(),
        "preparation": model.preparation if isinstance(model.preparation, Preprocessing) else None,
        "output": concatenate_outputs([batch.output for batch in batches]),
        "targets": indices,
        "labels": None if indices is None else scoring.class_names(indices, model.labels),
        "probabilities": _concatenated([batch.probabilities for batch in batches]),
        "scores": torch.cat([batch.scores for batch in batches]).cpu(),
        "notes": notes,
    }


def _assemble(
    requested: RequestedMethod,
    results: list[MethodResult],
    common: Mapping[str, Any],
    upsample: str,
    layers: ResolvedLayers,
    plan: AttentionPlan | None,
) -> Explanation:
    """Build the explanation of one method from its results for all batches."""
    parts, family = [result.attribution for result in results], FAMILIES[requested.method.family]
    values = torch.cat([part.values.detach().cpu() for part in parts])
    values = values if values.dtype == torch.float64 else values.float()
    reduced = resampled = requested.method.reduce(values)
    constant = (maps.value_range(reduced) == 0).nonzero().tolist()
    constant_notes = tuple(f"the map of sample {n}, target {k} is constant: it shows nothing" for n, k in constant)
    if (family.uses_layer or family.uses_attention) and upsample != "none":
        resampled = maps.resample(reduced, common["input"].shape[2:], upsample)
    used = dict[str, str | None]()
    if family.uses_attention and plan is not None:
        used = {"layer_reason": plan.description}
    if family.uses_layer and layers.feature_layer is not None:
        used = {
            "feature_layer": layers.feature_layer.name,
            "layer_reason": layers.reason,
            "reduction_layer": layers.reduction_layer,
        }
    stderr = _concatenated([part.stderr for part in parts])
    notes = tuple(dict.fromkeys(note for part in parts for note in part.notes))
    call = MethodCall(
        method_identity(requested.method),
        dict(requested.options),
        score=common["score"],
        feature_layer=used.get("feature_layer"),
        reduction_layer=common["reduction_layer"],
        seed=common["seed"],
    )
    return Explanation(
        **{key: value for key, value in common.items() if key != "notes"} | used,
        method=requested.name,
        call=call,
        title=requested.method.title,
        description=requested.method.description,
        options=dict(requested.options),
        values=values,
        maps=resampled.float(),
        scaled=maps.rescale(resampled).float(),
        convergence_delta=_concatenated([part.convergence_delta for part in parts]),
        stderr=None if stderr is None else stderr.to(values),
        extras={key: concatenate_padded([part.extras[key] for part in parts]).cpu() for key in parts[0].extras},
        evaluations=Evaluations(*map(sum, zip(*(result.evaluations for result in results), strict=True))),
        notes=common["notes"] + ((requested.note,) if requested.note else ()) + notes + constant_notes,
    )


def _concatenated(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Concatenate the parts of all batches, on the CPU; None where there are none."""
    tensors = [part for part in parts if part is not None]
    return torch.cat(tensors).cpu() if tensors else None
