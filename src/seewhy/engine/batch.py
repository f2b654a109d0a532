"""One batch with its forward pass and scores, and what all families do with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from seewhy.axes.feature_layout import to_feature_grid
from seewhy.errors import ModelError, OptionError
from seewhy.feature_layers.selection import LayerInfo
from seewhy.methods.queries import Attribution
from seewhy.results import Ensemble, Evaluations
from seewhy.targets.scoring import Targets, TargetScore
from seewhy.tracing.attention import AttentionPlan, AttentionWeights
from seewhy.tracing.forward import ForwardPass, is_out_of_memory
from seewhy.tracing.outputs import kernel_precision

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.methods.method import Method
    from seewhy.model import Model
    from seewhy.types import Inputs

T = TypeVar("T")
# model, batch, the options of the method -> value of one option for the kernel, and notes
OptionResolver = Callable[["Model", "Inputs", Mapping[str, Any]], tuple[Any, tuple[str, ...]]]


class RequestedMethod(NamedTuple):
    """One of the methods of a call, with its options."""

    name: str  # canonical name, or the name of the kernel of a user's own method
    method: Method
    options: Mapping[str, Any]
    notes: tuple[str, ...] = ()  # on the name by which the method was requested, and on its resolved options
    ensemble: Ensemble | None = None  # the copies of the input over which the method is averaged


@dataclass
class BatchLimit:
    """How many samples a forward pass may have. All batches of a job share one limit.

    Attributes:
        samples: largest number of samples per forward pass; halved when memory runs out.
        user_limited: whether the caller set `batch_size` or `max_memory`.
        max_memory: bytes that the call may add; None: unlimited.
    """

    samples: int
    user_limited: bool = False
    max_memory: int | None = None


@dataclass(frozen=True)
class BatchContext:
    """One batch with its forward pass, targets and scores, and the settings of the call."""

    model: Model
    forward_pass: ForwardPass
    targets: Targets
    scores: list[TargetScore]  # one item per target
    limit: BatchLimit
    reduction_layer: str | None  # the layer whose output is explained; None: the network's output
    draws: Mapping[str, Callable[..., Tensor]]  # random numbers by name: "normal", "uniform"
    advance: Callable[[int], None]  # progress: called with the number of samples of a forward pass
    feature_layer: LayerInfo | None
    attention_plan: AttentionPlan | None
    attentions: Sequence[AttentionWeights]


def gradient_bytes_per_value(_requested: RequestedMethod, number_bytes: int, samples: int, batch: int) -> int:
    """Bytes for the gradients of a batch, their concatenation, and intermediate results of a kernel."""
    return 4 * number_bytes * min(samples, batch)


FamilyFunction = Callable[[BatchContext, list[RequestedMethod]], list["MethodResult"]]


class Family(NamedTuple):
    """How the kernels of a family are called, what they need from the shared forward pass, and what they cost.

    Attributes:
        run: computes all methods of the family for one batch.
        needs_input_graph: it needs an autograd graph back to the input.
        frees_graph: it frees the graph of the shared forward pass, so that it must run after all other families.
        uses_layer: it needs the activations of the feature layer.
        needs_pooled_head: the score must be a linear layer of the mean over the positions of the feature layer.
        uses_attention: it needs the weights of all attentions.
        own_graphs: its own forward passes keep graphs back to the input, which need more memory.
        resolvers: option name -> function that turns the option's value into what the kernel receives.
        bytes_per_value: (method, bytes of a number, samples in total, samples per batch) -> bytes that each value of
            the map of one class takes while a batch is computed.
    """

    run: FamilyFunction
    needs_input_graph: bool = False
    frees_graph: bool = False
    uses_layer: bool = False
    needs_pooled_head: bool = False
    uses_attention: bool = False
    own_graphs: bool = False
    resolvers: Mapping[str, OptionResolver] = {}
    bytes_per_value: Callable[[RequestedMethod, int, int, int], int] = gradient_bytes_per_value


class MethodResult(NamedTuple):
    """The attribution that a kernel returned for a batch, and the passes that it took."""

    attribution: Attribution
    evaluations: Evaluations


def feature_activations(context: BatchContext) -> Tensor:
    """Return the output of the feature layer, [N, C, *S'].

    Raises:
        ModelError: the first axis of the output is not the batch.
    """
    features, layer, count = context.forward_pass.features, context.feature_layer, len(context.forward_pass.x)
    assert features is not None and layer is not None and layer.where is not None
    on_grid = to_feature_grid(features.detach(), layer.where)
    if len(on_grid) != count:
        raise ModelError(
            f"layer {layer.name!r} returned {list(features.shape)} for {count} samples: no axis holds the samples. "
            "Name another feature_layer."
        )
    return kernel_precision(on_grid)


def bind_kernel(requested: RequestedMethod, **values: Any) -> Callable[[], Any]:
    """Return a method's kernel with those of `values` that its positional parameters name, and with its options.

    Raises:
        OptionError: the kernel has a positional parameter that is not among `values`.
    """
    reads, family = requested.method.kernel_inputs, requested.method.family
    missing = [name for name in reads if name not in values]
    if missing:
        raise OptionError(
            f"the kernel of {requested.name} has the parameters {', '.join(missing)}, which the family {family!r} does "
            f"not provide. It provides {', '.join(values)}."
        )
    return partial(requested.method.kernel, *(values[name] for name in reads), **requested.options)


def run_in_batches(compute: Callable[[int, int], T], count: int, limit: BatchLimit) -> Iterator[T]:
    """Yield compute(start, stop) for consecutive ranges of 0..count.

    Args:
        compute: function of a range of samples.
        count: number of samples.
        limit: the largest length of a range. It is halved, and the range repeated, when an allocator runs out of
            memory.
    """
    start = 0
    while start < count:
        stop = min(start + limit.samples, count)
        try:
            result = compute(start, stop)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or stop - start == 1:
                raise
            limit.samples = max(1, (stop - start) // 2)
            continue
        yield result
        start = stop
