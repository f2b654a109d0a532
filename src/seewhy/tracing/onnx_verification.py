"""Verification of the torch conversion of a model without gradients: it is used only if the outputs agree."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from seewhy.axes.layout import from_canonical
from seewhy.errors import ModelError, OptionError
from seewhy.models.onnx.conversion import failing_layer
from seewhy.types import Capability

from .forward import eval_mode, run_forward
from .outputs import concatenate_outputs, describe_output, iter_tensors

if TYPE_CHECKING:
    from seewhy.model import Model
    from seewhy.types import Inputs

RANGE_TOLERANCE = 1e-4  # largest allowed difference, as a fraction of the range of a sample's output
ROUNDING_TOLERANCE = 1e-6  # allowed in addition, as a fraction of its largest absolute value, for rounding


def with_verified_conversion(model: Model, x: Inputs) -> tuple[Model, Inputs]:
    """The conversion as a model with gradients and layers, if its outputs agree on this input; else the model itself.

    The outputs are compared in batches of two samples, because a graph may contain the batch size with which it was
    exported. If they differ, the conversion is run sample by sample and compared again. The allowed difference is 1e-4
    of the range of a sample's output plus 1e-6 of its largest absolute value.

    Args:
        model: a model with a `conversion`.
        x: the batch [N, C, *S].

    Returns:
        The converted model with a note, and the input in the precision of the conversion. If there is no valid
        conversion: the model with the reason in `lacks`.

    Raises:
        ModelError: the forward pass of the model itself fails.
        OptionError: the input is not on the CPU.
    """
    assert model.conversion is not None
    conversion = model.conversion()
    if isinstance(conversion, str):
        return replace(model, lacks=conversion), x
    if x.device.type != "cpu":
        raise OptionError(f"device={str(x.device)!r}: {model.name} and its conversion run on the CPU: use 'auto'.")
    x = x.to(conversion.dtype)
    fields: dict[str, Any] = {
        "module": conversion.module,
        "call": conversion.call,
        "capabilities": Capability.SCORES | Capability.GRADIENTS | Capability.LAYERS,
    }
    axis, reason = (model.layout or "N").index("N"), ""
    cache, graph = conversion.forward_cache, f"the graph as converted by {conversion.converter}"
    whole = cache.setdefault("whole", partial(conversion.call, conversion.module))
    for forward, max_batch in ((whole, None), (cache.setdefault(axis, partial(_one_by_one, whole, axis)), 1)):
        converted = replace(model, forward=forward, max_batch=max_batch, lacks="", conversion=None, **fields)
        results = (_compare_outputs(model, converted, pair) for pair in _sample_pairs(x))
        result = max(results, key=_difference_or_infinity)
        if isinstance(result, float) and result <= 1:
            note = (
                f"gradients and layers are those of {graph}; its output differs from ONNX Runtime's by "
                f"{result * RANGE_TOLERANCE:.0e} of the output's range on this input"
            )
            return replace(converted, notes=(*model.notes, note)), x
        reason = result if isinstance(result, str) else (
            f"{graph} differs from ONNX Runtime on this input by {result * RANGE_TOLERANCE:.1g} of the output's range, "
            f"more than {RANGE_TOLERANCE:g}"
        )  # fmt: skip
    return replace(model, lacks=reason), x


def _one_by_one(forward: Callable[[Tensor], Any], axis: int, x: Tensor) -> Any:
    return concatenate_outputs([forward(sample) for sample in x.split(1, axis)], graph=True)


def _difference_or_infinity(result: float | str) -> float:
    return result if isinstance(result, float) else float("inf")


def _sample_pairs(x: Inputs) -> Iterator[Inputs]:
    """All samples in batches of two; a single sample is paired with a modified copy."""
    if len(x) == 1:
        yield torch.cat([x, x / 2 if x.any() else x + 1])
    for start in range(0, len(x) if len(x) > 1 else 0, 2):
        yield x[min(start, len(x) - 2) :][:2]


def _compare_outputs(model: Model, converted: Model, x: Inputs) -> float | str:
    """The difference of the two outputs as a fraction of the allowed one; or the reason why the conversion fails."""
    with eval_mode(model):
        expected = run_forward(model, x, graph=False).output
    try:
        with eval_mode(converted):
            output = run_forward(converted, x, graph=False).output
    except ModelError as error:
        assert converted.module is not None
        with eval_mode(converted):
            layer = failing_layer(converted.module, lambda: converted.forward(from_canonical(x[:1], model.layout)))
        first_line = str(error).strip().split("\n")[0]
        return f"the graph as converted to torch fails{f' at {layer!r}' if layer else ''}: {first_line}"
    if _shapes(output) != _shapes(expected):
        return (
            f"the graph as converted to torch returns {describe_output(output)}, but ONNX Runtime returns "
            f"{describe_output(expected)}"
        )
    return max(map(_relative_difference, iter_tensors(expected), iter_tensors(output)), default=0.0)


def _shapes(output: Any) -> list[tuple[int, ...]]:
    return [tuple(tensor.shape) for tensor in iter_tensors(output)]


def _relative_difference(expected: Tensor, output: Tensor) -> float:
    """The largest difference over all samples, divided by the allowed difference of that sample."""
    a, b = (t.double().reshape(len(t) if t.ndim else 1, -1) for t in (expected, output))
    if not a.numel():
        return 0.0
    allowed = RANGE_TOLERANCE * (a.amax(1) - a.amin(1)) + ROUNDING_TOLERANCE * a.abs().amax(1)
    difference = (a - b).abs().amax(1)
    # equal outputs agree, also where the allowed difference is 0
    return float(torch.where(difference == 0, 0.0, difference / allowed).max())
