"""The softmax or sigmoid at the end of a network, and what enters it, observed in one forward pass.

Torch functions are observed, so it makes no difference whether the activation is a layer, a function, or an argument of
a layer, as in Keras, and the network is not changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from seewhy.axes.layout import class_axis
from seewhy.models.function_observer import FunctionObserver

from .outputs import is_finite

if TYPE_CHECKING:
    from seewhy.model import Model

ACTIVATIONS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "softmax": lambda z, axis: z.softmax(axis),
    "log_softmax": lambda z, axis: z.log_softmax(axis),
    "sigmoid": lambda z, _axis: z.sigmoid(),
}
# Functions that only move, select or convert values: applied after an activation, they are applied to its input too.
# A clone is not among them: features that are recorded or replaced are clones, and scores must depend on them.
VALUE_PRESERVING_FUNCTIONS = {
    "to", "float", "double", "half", "bfloat16", "type", "type_as", "cpu", "cuda", "contiguous",
    "view", "view_as", "reshape", "reshape_as", "flatten", "unflatten", "squeeze", "unsqueeze", "permute", "transpose",
    "movedim", "moveaxis", "swapaxes", "cat", "concat", "getitem", "select", "narrow",
}  # fmt: skip
AXIS_TOLERANCE = 1e-2  # only tells along which axis a softmax runs, also in half precision


class NetworkOutput(NamedTuple):
    """The output of a network or layer, and what enters the activation at its end.

    Attributes:
        value: the output itself.
        logits: what enters the activation; the output itself if it does not end in one.
        activation: one of `ACTIVATIONS`, along the class axis; None: the output does not end in one.
    """

    value: Any
    logits: Any
    activation: str | None = None


class ActivationCall(NamedTuple):
    """One call of an activation; the versions tell whether a tensor was changed in place afterwards."""

    kind: str
    logits: Tensor
    logits_version: int
    result_version: int


@contextmanager
def observe_final_activations() -> Iterator[FinalActivations]:
    """Remember the input of every softmax and sigmoid that this thread computes and whose result still exists."""
    activations = FinalActivations()
    with FunctionObserver(activations.handle):
        yield activations


class FinalActivations:
    """The results of softmax and sigmoid of one pass, and what entered them."""

    def __init__(self) -> None:
        self.calls = WeakTensorKeyDictionary()  # result -> ActivationCall

    def handle(self, func: Any, _name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a torch function, and remember it if it is an activation or keeps the values of one."""
        name, in_place = _function_name(func)
        if name in ACTIVATIONS:
            given: Tensor = args[0] if args else kwargs["input"]
            logits = given.clone() if in_place else given
            result = func(*args, **kwargs)
            self._remember(result, name, logits)
            return result
        result = func(*args, **kwargs)
        if self.calls and args and not in_place and name in VALUE_PRESERVING_FUNCTIONS:
            parts = list(args[0]) if isinstance(args[0], (tuple, list)) else [args[0]]
            calls = [call for part in parts if (call := self._call_of(part)) is not None]
            is_new = not any(result is part for part in parts)
            if is_new and calls and len(calls) == len(parts) and len({call.kind for call in calls}) == 1:
                entered = calls[0].logits if isinstance(args[0], Tensor) else [call.logits for call in calls]
                self._remember(result, calls[0].kind, func(entered, *args[1:], **kwargs))
        return result

    def _remember(self, result: Any, kind: str, logits: Any) -> None:
        if isinstance(result, Tensor) and isinstance(logits, Tensor) and not result.is_inference():
            self.calls[result] = ActivationCall(kind, logits, logits._version, result._version)

    def _call_of(self, value: Any) -> ActivationCall | None:
        """The activation whose result `value` is, unless it or its logits were changed in place afterwards."""
        call: ActivationCall | None = self.calls.get(value) if isinstance(value, Tensor) else None
        if call is None or (call.logits._version, value._version) != (call.logits_version, call.result_version):
            return None
        return call

    def output_of(self, value: Any, model: Model) -> NetworkOutput:
        """An output of the observed pass, with the logits if it is an activation along the class axis.

        Args:
            value: the output.
            model: the model, whose layout tells the class axis.
        """
        call = self._call_of(value)
        if call is None or call.logits.requires_grad != value.requires_grad or not is_finite(call.logits):
            return NetworkOutput(value, value)
        with torch.no_grad():
            expected = apply_activation(call.kind, call.logits, model)
            if expected is None or not torch.allclose(expected, value.to(expected), AXIS_TOLERANCE, AXIS_TOLERANCE):
                return NetworkOutput(value, value)
        return NetworkOutput(value, call.logits, call.kind)

    def logits_of(self, value: Any) -> Any:
        """What enters the activation whose result `value` is.

        Raises:
            RuntimeError: `value` is not the result of an activation.
        """
        call = self._call_of(value)
        if call is None:
            raise RuntimeError("its final activation was not found again")
        return call.logits


@lru_cache(maxsize=1024)
def _function_name(func: Any) -> tuple[str, bool]:
    """The plain name of a torch function or operator, and whether it works in place."""
    name = str(getattr(func, "__name__", "")).partition(".")[0]
    return name.strip("_"), name.endswith("_") and not name.endswith("__")


def apply_activation(kind: str, logits: Tensor, model: Model) -> Tensor | None:
    """The activation along the class axis; None for a softmax of an output without class axis."""
    axis = class_axis(logits.ndim, model.layout, model.output_layout)
    if axis >= logits.ndim and kind != "sigmoid":
        return None
    return ACTIVATIONS[kind](logits, axis)


def output_from_logits(logits: Tensor, activation: str | None, model: Model) -> NetworkOutput:
    """The output of a network whose logits and final activation are known."""
    value = logits if activation is None else apply_activation(activation, logits, model)
    return NetworkOutput(value, logits, activation)


def model_of_logits(model: Model) -> Model:
    """The model without its final activation; it must have one."""

    def forward(x: Tensor) -> Any:
        with observe_final_activations() as activations:
            output = model.forward(x)
        return activations.logits_of(output)

    return replace(model, forward=forward)
