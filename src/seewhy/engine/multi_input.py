"""Multi-input networks: one map per input, with the other inputs unchanged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from seewhy.errors import InputError, ModelError
from seewhy.models import wrap
from seewhy.models.onnx.conversion import with_changed_call
from seewhy.results import Evaluations, Explanation, Explanations
from seewhy.tracing.outputs import concatenate_outputs

from .validation import is_single_method

if TYPE_CHECKING:
    from seewhy.model import Model

FIXED_INPUT_ADVICE = (
    "pass an input without a batch axis inside the function: seewhy.wrap(network, forward=lambda net, x: net(x, it))"
)


def explain_inputs(
    explain: Callable[..., Any], model: Any, x: Mapping[str, Any] | tuple[Any, ...], method: Any, **options: Any
) -> Any:
    """Explain each floating-point input in turn, sample by sample; integer inputs are held fixed.

    Args:
        explain: the function `explain`, for a network with one input.
        model: called as network(*inputs) or network(**inputs), an ONNX network in the order or by the names of its
            graph; with a `forward` of its own, as forward(network, inputs).
        x: the inputs, a tuple or a mapping of tensors, each with the batch on its first axis.
        method: one method, or a list of methods.
        **options: arguments of `explain`.

    Returns:
        The results of `explain`, in the structure of `x`, without the integer inputs.

    Raises:
        ModelError: the model is a plain function without a `forward`.
        InputError: an input is not a tensor, the inputs differ in their number of samples, or all are integers.
    """
    model, inputs = wrap(model), {name: _as_tensor(name, value) for name, value in _inputs_by_name(x).items()}
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
    results = {}
    for name in explained:
        by_sample = []
        for n in range(counts[name]):
            sample = {key: tensor[n : n + 1] for key, tensor in inputs.items()}
            arguments = dict(options)
            if isinstance(arguments["target"], Tensor) and arguments["target"].ndim:
                arguments["target"] = arguments["target"][n : n + 1]
            one_input = _model_of_one_input(model, sample, name, isinstance(x, tuple))
            by_sample.append(explain(one_input, sample[name], method, **arguments))
        results[name] = (
            join_explanations(by_sample)
            if is_single_method(method)
            else Explanations([join_explanations(same_method) for same_method in zip(*by_sample, strict=True)])
        )
    return tuple(results[name] for name in explained) if isinstance(x, tuple) else results


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


def join_explanations(parts: Sequence[Explanation]) -> Explanation:
    """Join explanations of single samples into one explanation of a batch."""
    first, joined = parts[0], dict[str, Any]()
    for field in fields(Explanation):
        values = [getattr(part, field.name) for part in parts]
        if field.name == "output":
            joined["output"] = concatenate_outputs(values)
        elif isinstance(values[0], Tensor):
            joined[field.name] = torch.cat(values)
        elif isinstance(values[0], Evaluations):
            joined[field.name] = Evaluations(*map(sum, zip(*values, strict=True)))
    if first.labels is not None:
        joined["labels"] = tuple(names for part in parts for names in part.labels or ())
    return replace(
        first,
        **joined,
        extras={key: concatenate_padded([part.extras[key] for part in parts]) for key in first.extras},
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        seconds=sum(part.seconds for part in parts),
    )


def concatenate_padded(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate along the first axis; the last axis is padded with NaN where it is shorter (fewer segments)."""
    if len({p.shape[1:] for p in parts}) == 1:
        return torch.cat(list(parts))
    widest = max(p.shape[-1] for p in parts)
    return torch.cat([F.pad(p, (0, widest - p.shape[-1]), value=torch.nan) for p in parts])
