"""A network that only answers, converted to torch: believed on an input once it answers there as the network does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from seewhy.errors import ModelError, OptionError
from seewhy.models.onnx_graph import where_stopped
from seewhy.types import Can

from .forward import quiet, run
from .layout import own
from .outputs import describe, join, tensors

if TYPE_CHECKING:
    from seewhy.types import Inputs, Model

RANGE = 1e-4  # of a sample's output: how far the two may differ
LARGEST = 1e-6  # of its largest value, which rounds even where the range is small


def converted(model: Model, x: Inputs) -> tuple[Model, Inputs]:
    """The network with gradients and layers, and the input in its precision; or as it was, with what it lacks.

    It is compared in passes of two samples, since a graph may hold the size of the batch it was made with; then sample
    by sample. What differs by more than 1e-4 of a sample's range (and 1e-6 of its largest value) is not believed.

    Raises:
        ModelError: the network itself refuses the input.
        OptionError: the input is not on the CPU.
    """
    assert model.conversion is not None
    made = model.conversion()
    if isinstance(made, str):
        return replace(model, lacks=made), x
    if x.device.type != "cpu":
        raise OptionError(f"device={str(x.device)!r}: {model.name} and its conversion run on the CPU: use 'auto'.")
    x = x.to(made.dtype)
    known: dict[str, Any] = {"module": made.module, "call": made.call, "can": Can.SCORES | Can.GRADIENTS | Can.LAYERS}
    axis, reason = (model.layout or "N").index("N"), ""
    whole = made.forwards.setdefault("whole", partial(made.call, made.module))
    for forward, rows in ((whole, None), (made.forwards.setdefault(axis, partial(_one_by_one, whole, axis)), 1)):
        twin = replace(model, forward=forward, rows=rows, lacks="", conversion=None, **known)
        found = max((_apart(model, twin, pair) for pair in _pairs(x)), key=_size)
        if isinstance(found, float) and found <= 1:
            note = (
                f"gradients and layers are those of the graph as {made.by} converts it; its output differs from ONNX "
                f"Runtime's by {found * RANGE:.0e} of its range on this input"
            )
            return replace(twin, notes=(*model.notes, note)), x
        reason = found if isinstance(found, str) else (
            f"the graph as {made.by} converts it differs from ONNX Runtime on this input by {found * RANGE:.1g} of the "
            f"output's range, more than {RANGE:g}"
        )  # fmt: skip
    return replace(model, lacks=reason), x


def _one_by_one(forward: Callable[[Tensor], Any], axis: int, x: Tensor) -> Any:
    return join([forward(row) for row in x.split(1, axis)], graph=True)


def _size(found: float | str) -> float:
    return found if isinstance(found, float) else float("inf")


def _pairs(x: Inputs) -> Iterator[Inputs]:
    """All samples, two at a time; a single one with another beside it."""
    if len(x) == 1:
        yield torch.cat([x, x / 2 if x.any() else x + 1])
    for start in range(0, len(x) if len(x) > 1 else 0, 2):
        yield x[min(start, len(x) - 2) :][:2]


def _apart(model: Model, twin: Model, x: Inputs) -> float | str:
    """How far the two answers differ, 1 being all that is allowed; or how the conversion fails."""
    with quiet(model):
        expected = run(model, x, graph=False).output
    try:
        with quiet(twin):
            found = run(twin, x, graph=False).output
    except (ModelError, TypeError, AttributeError, KeyError, NotImplementedError, AssertionError) as error:
        assert twin.module is not None
        with quiet(twin):
            at = where_stopped(twin.module, lambda: twin.forward(own(x[:1], model.layout)))
        text = str(error).strip().split("\n")[0]
        return f"the graph as it was converted to torch fails{f' at {at!r}' if at else ''}: {text}"
    if _shapes(found) != _shapes(expected):
        return f"the graph as it was converted gives {describe(found)} where ONNX Runtime gives {describe(expected)}"
    return max(map(_difference, tensors(expected), tensors(found)), default=0.0)


def _shapes(output: Any) -> list[tuple[int, ...]]:
    return [tuple(tensor.shape) for tensor in tensors(output)]


def _difference(expected: Tensor, found: Tensor) -> float:
    a, b = (each.double().reshape(len(each) if each.ndim else 1, -1) for each in (expected, found))
    if not a.numel():
        return 0.0
    allowed = RANGE * (a.amax(1) - a.amin(1)) + LARGEST * a.abs().amax(1)
    difference = (a - b).abs().amax(1)
    # a constant zero, met exactly, is met
    return float(torch.where(difference == 0, 0.0, difference / allowed).max())
