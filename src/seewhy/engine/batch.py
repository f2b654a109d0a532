"""One batch with its forward pass and scores, and what all families do with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from seewhy.axes.layout import to_feature_grid
from seewhy.errors import ModelError, OptionError
from seewhy.feature_layers.selection import LayerInfo
from seewhy.methods.queries import Attribution
from seewhy.results import Evaluations
from seewhy.targets.scoring import Targets, TargetScore
from seewhy.tracing.attention import AttentionPlan, AttentionWeights
from seewhy.tracing.forward import ForwardPass, is_out_of_memory

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.methods.method import Method
    from seewhy.model import Model

T = TypeVar("T")


class RequestedMethod(NamedTuple):
    """One of the methods of a call, with its options."""

    name: str  # canonical name, or the name of the kernel of a user's own method
    method: Method
    options: Mapping[str, Any]
    note: str | None = None  # note on the name by which the method was requested


class BatchContext(NamedTuple):
    """One batch with its forward pass, targets and scores, and the settings of the call."""

    model: Model
    forward_pass: ForwardPass
    targets: Targets
    scores: list[TargetScore]  # one item per target
    batch_size: list[int]  # samples per forward pass; one item, which all batches of a call share
    user_limited: bool  # whether the caller set batch_size or max_memory
    max_memory: int | None  # bytes that the call may add
    reduction_layer: str | None  # the layer whose output is explained; None: the network's output
    seed: int
    advance: Callable[[int], None]  # progress: called with the number of samples of a forward pass
    feature_layer: LayerInfo | None = None
    attention_plan: AttentionPlan | None = None
    attentions: Sequence[AttentionWeights] = ()


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
    if len(features) != count:
        raise ModelError(
            f"layer {layer.name!r} returned {list(features.shape)} for {count} samples: the first axis must be the "
            "batch. Name another feature_layer."
        )
    return to_feature_grid(features.detach(), layer.where)


def call_kernel(requested: RequestedMethod, **values: Any) -> Any:
    """Call a method's kernel with those of `values` that its positional parameters name, and with its options.

    Raises:
        OptionError: the kernel has a positional parameter that is not among `values`.
    """
    reads, family = requested.method.reads, requested.method.family
    missing = [name for name in reads if name not in values]
    if missing:
        raise OptionError(
            f"the kernel of {requested.name} has the parameters {', '.join(missing)}, which the family {family!r} does "
            f"not provide. It provides {', '.join(values)}."
        )
    return requested.method.kernel(*(values[name] for name in reads), **requested.options)


def run_in_batches(compute: Callable[[int, int], T], count: int, batch_size: list[int]) -> Iterator[T]:
    """Yield compute(start, stop) for consecutive ranges of 0..count.

    Args:
        compute: function of a range of samples.
        count: number of samples.
        batch_size: list of one item, the largest length of a range. The item is halved in place, and the range
            repeated, when an allocator runs out of memory.
    """
    start = 0
    while start < count:
        stop = min(start + batch_size[0], count)
        try:
            result = compute(start, stop)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or stop - start == 1:
                raise
            batch_size[0] = max(1, (stop - start) // 2)
            continue
        yield result
        start = stop
