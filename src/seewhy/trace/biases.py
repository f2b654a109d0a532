"""Every constant that a forward adds on its way, and where: biases of layers and of functions alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode

# (input, weight, bias): the axis of the output that the bias goes along
AFFINE = {f"conv{kind}{d}d": 1 for kind in ("", "_transpose") for d in (1, 2, 3)} | {"linear": -1}
# Steps that bend, number by number; a ReLU and a leaky one go through zero in straight pieces and add nothing.
BENDS = {
    "relu6", "hardtanh", "clamp", "clip", "clamp_max", "clamp_min", "threshold", "gelu", "silu", "mish", "elu", "celu",
    "selu", "softplus", "sigmoid", "tanh", "hardswish", "hardsigmoid", "logsigmoid", "softsign", "softshrink",
}  # fmt: skip


# Steps by which some frameworks spell out an affine map: less a constant, times a constant, plus a constant.
SPELT = {"add", "sub", "subtract", "mul", "multiply", "div", "divide"}


class Bias(NamedTuple):
    """One step's constant."""

    at: GradientEdge  # the step's output in the recorded graph
    value: Tensor  # broadcasts with that output
    channels: int  # the output's axis of channels


@contextmanager
def biased() -> Iterator[list[Bias]]:
    """Inside, this thread's forwards write down what they add; steps inside scripted parts are not seen."""
    found: list[Bias] = []
    with _Biases(found):
        yield found


class _Biases(TorchFunctionMode):
    def __init__(self, found: list[Bias]) -> None:
        super().__init__()
        self.found = found
        self.open: Tensor | None = None  # what the last difference gave

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called by torch in place of `func`."""
        given = kwargs or {}
        name = getattr(func, "__name__", "").strip("_")
        bend = _bend(func, args, given) if name in BENDS and args else None
        spelt = self._spelt(name, args) if name in SPELT and len(args) > 1 else None
        result = func(*args, **given)
        if spelt is not None and isinstance(result, Tensor) and result.requires_grad:
            self._add(name, spelt, result)
            return result
        if not isinstance(result, Tensor) or not result.requires_grad:
            return result
        value, axis = None, 1
        if name in AFFINE:
            bias = args[2] if len(args) > 2 else given.get("bias")
            value, axis = bias, AFFINE[name]
        elif name == "batch_norm":
            value = _shift(*args, **given)
        elif bend is not None:
            value = bend
            axis = next((b.channels for b in reversed(self.found) if b.value.ndim == result.ndim), 1)
        if value is not None:
            if value.ndim == 1:  # a number a channel
                value = value.detach().view(-1, *[1] * (result.ndim - 2)) if axis == 1 else value.detach()
            self.found.append(Bias(get_gradient_edge(result), value, axis % result.ndim))
        return result

    def _spelt(self, name: str, args: Any) -> tuple[Tensor, Tensor] | None:
        """The operand that depends on the input, and the constant of as many axes; None where that is not so."""
        one, other = args[:2]
        if not isinstance(one, Tensor) or not one.requires_grad:
            if name not in {"add", "mul", "multiply"}:
                return None
            one, other = other, one
        if not isinstance(one, Tensor) or not one.requires_grad or not one.is_floating_point():
            return None
        constant = torch.as_tensor(other, dtype=one.dtype, device=one.device).detach()
        if (isinstance(other, Tensor) and other.requires_grad) or constant.ndim > one.ndim:
            return None
        return one, constant.reshape(*[1] * (one.ndim - constant.ndim), *constant.shape)

    def _add(self, name: str, spelt: tuple[Tensor, Tensor], result: Tensor) -> None:
        """A constant by itself, or in place, where nobody else can read it, a step of what a difference began."""
        one, constant = spelt
        began = self.open is one is result
        if name in {"mul", "multiply", "div", "divide"}:
            if began:
                bias = self.found[-1]
                value = bias.value / constant if name.startswith("div") else bias.value * constant
                self.found[-1] = Bias(get_gradient_edge(result), value, bias.channels)
            return
        value = -constant if name.startswith("sub") else constant
        if began and name == "add":
            value = self.found.pop().value + value
        axes = [axis for axis, size in enumerate(value.shape) if size > 1 and axis]
        last = next((b.channels for b in reversed(self.found) if b.value.ndim == result.ndim), 1)
        channels = axes[0] if len(axes) == 1 else min(last, result.ndim - 1)
        self.found.append(Bias(get_gradient_edge(result), value, channels))
        self.open = result if name.startswith("sub") else None


def _bend(func: Any, args: Any, given: Any) -> Tensor:
    """f(z) - f'(z) z."""
    z = args[0].detach().requires_grad_()
    with torch.enable_grad():
        y = func(z.clone(), *args[1:], **given)  # a clone, as some work in place
        (slope,) = torch.autograd.grad(y.sum(), z)
    bent: Tensor = (y - slope * z).detach()
    return bent


def _shift(input: Tensor, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None,
           training: bool = False, momentum: float = 0.1, eps: float = 1e-5) -> Tensor | None:  # fmt: skip
    if training or running_mean is None:
        return None
    down = running_mean / (running_var + eps).sqrt()
    shift: Tensor = -(down if weight is None else down * weight)
    return shift if bias is None else shift + bias
