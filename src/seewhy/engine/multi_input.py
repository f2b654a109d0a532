"""Multi-input networks: one map per input, with the other inputs unchanged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from seewhy.errors import InputError, ModelError
from seewhy.models.onnx.conversion import with_changed_call
from seewhy.results import Explanations

from .assembly import join_samples

if TYPE_CHECKING:
    from seewhy.model import Model
    from seewhy.results import Explanation

FIXED_INPUT_ADVICE = (
    "pass an input without a batch axis inside the function: seewhy.wrap(network, forward=lambda net, x: net(x, it))"
)


class InputItem(NamedTuple):
    """One batch that is explained on its own, with its model and target."""

    model: Model
    x: Any
    target: Any


class InputPlan(NamedTuple):
    """The batches that are explained one after the other, and how their results form the result of a call.

    `arrange` receives the explanations by method and batch, and whether a single method was requested.
    """

    items: list[InputItem]
    arrange: Callable[[list[list[Explanation]], bool], Any]


def plan_multi_input(model: Model, x: Mapping[str, Any] | tuple[Any, ...], target: Any) -> InputPlan:
    """Plan to explain each floating-point input in turn, sample by sample; integer inputs are held fixed.

    Args:
        model: called as network(*inputs) or network(**inputs), an ONNX network in the order or by the names of its
            graph; with a `forward` of its own, as forward(network, inputs).
        x: the inputs, a tuple or a mapping of tensors, each with the batch on its first axis.
        target: as for `seewhy.explain`.

    Returns:
        The plan; the results have the structure of `x`, without the integer inputs.

    Raises:
        ModelError: the model is a plain function without a `forward`.
        InputError: an input is not a tensor, the inputs differ in their number of samples, or all are integers.
    """
    inputs = {name: _as_tensor(name, value) for name, value in _inputs_by_name(x).items()}
    counts = {name: len(tensor) for name, tensor in inputs.items()}
    if len(set(counts.values())) != 1:
        raise InputError(f"the inputs have {counts} samples: all must have the same number. Or {FIXED_INPUT_ADVICE}.")
    if model.module is None and model.call is None:
        raise ModelError(
            f"{model.name} is a plain function, which is called with one input: use "
            "seewhy.wrap(f, forward=lambda f, inputs: f(*inputs))."
        )
    explained = [name for name, tensor in inputs.items() if tensor.is_floating_point()]
    if not explained:
        raise InputError(
            f"all inputs {list(inputs)} are whole numbers, which have no gradient: explain the output of their "
            "embedding instead."
        )
    items, count = [], next(iter(counts.values()))
    for name in explained:
        for n in range(count):
            sample = {key: tensor[n : n + 1] for key, tensor in inputs.items()}
            per_sample = isinstance(target, Tensor) and target.ndim
            one_input = _model_of_one_input(model, sample, name, isinstance(x, tuple))
            items.append(InputItem(one_input, sample[name], target[n : n + 1] if per_sample else target))

    def arrange(by_method: list[list[Explanation]], single: bool) -> Any:
        results = {}
        for i, name in enumerate(explained):
            joined = [join_samples(by_item[i * count : (i + 1) * count]) for by_item in by_method]
            results[name] = joined[0] if single else Explanations(joined)
        return tuple(results.values()) if isinstance(x, tuple) else results

    return InputPlan(items, arrange)


def _inputs_by_name(x: Mapping[str, Any] | tuple[Any, ...]) -> dict[Any, Any]:
    return dict(x) if isinstance(x, Mapping) else dict(enumerate(x))


def _as_tensor(name: Any, value: Any) -> Tensor:
    tensor = value if isinstance(value, Tensor) else torch.as_tensor(value) if hasattr(value, "__array__") else None
    if tensor is None or tensor.ndim == 0:
        raise InputError(
            f"input {name!r} is a {type(value).__name__}: a tensor with the batch first is needed. "
            f"Or {FIXED_INPUT_ADVICE}."
        )
    return tensor


def _model_of_one_input(model: Model, sample: Mapping[Any, Tensor], free: Any, in_order: bool) -> Model:
    """Return the network as a function of the input `free`, with the other inputs fixed at the values of one sample."""

    def all_inputs(z: Tensor) -> Any:
        def repeated(t: Tensor) -> Tensor:
            t = t.to(z.device, z.dtype if t.is_floating_point() else t.dtype)
            return t.expand(len(z), *t.shape[1:])

        inputs = {name: z if name == free else repeated(t) for name, t in sample.items()}
        return tuple(inputs.values()) if in_order else inputs

    def call(network: Any, z: Tensor) -> Any:
        inputs = all_inputs(z)
        if model.module is None:
            return model.forward(inputs)
        if model.call is not None:
            return model.call(network, inputs)
        return network(*inputs) if in_order else network(**inputs)

    def with_fixed_inputs(call_network: Callable[[Any, Any], Any]) -> Callable[[Any, Tensor], Any]:
        return lambda network, z: call_network(network, all_inputs(z))

    return replace(
        model,
        forward=lambda z: call(model.module, z),
        call=None if model.module is None else call,
        conversion=with_changed_call(model.conversion, with_fixed_inputs),
    )
