"""The bias terms of a forward pass: every constant that a layer or function adds, and where."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode

# Functions with the arguments (input, weight, bias), and the channel axis of their output.
AFFINE_FUNCTIONS = {f"conv{kind}{d}d": 1 for kind in ("", "_transpose") for d in (1, 2, 3)} | {"linear": -1}
# Elementwise nonlinear functions with a bias term. ReLU and leaky ReLU are positively homogeneous and have none.
NONLINEAR_FUNCTIONS = {
    "relu6", "hardtanh", "clamp", "clip", "clamp_max", "clamp_min", "threshold", "gelu", "silu", "mish", "elu", "celu",
    "selu", "softplus", "sigmoid", "tanh", "hardswish", "hardsigmoid", "logsigmoid", "softsign", "softshrink",
}  # fmt: skip


# Some frameworks compute an affine map by elementwise arithmetic: minus a constant, times a constant, plus a constant.
ARITHMETIC_FUNCTIONS = {"add", "sub", "subtract", "mul", "multiply", "div", "divide"}


class BiasTerm(NamedTuple):
    """One constant that is added during a forward pass.

    Attributes:
        edge: the output, in the recorded autograd graph, to which the constant is added.
        value: the constant; broadcasts with that output.
        channel_axis: the channel axis of that output.
    """

    edge: GradientEdge
    value: Tensor
    channel_axis: int


@contextmanager
def record_biases() -> Iterator[list[BiasTerm]]:
    """Record the bias terms of this thread's forward passes; those inside scripted modules are not observed.

    The bias term of a nonlinear function f at z is f(z) - f'(z) z (the implicit bias of Srinivas and Fleuret 2019).
    """
    terms: list[BiasTerm] = []
    with _BiasRecorder(terms):
        yield terms


class _BiasRecorder(TorchFunctionMode):
    def __init__(self, terms: list[BiasTerm]) -> None:
        super().__init__()
        self.terms = terms
        self.last_difference: Tensor | None = None  # the result of the last subtraction of a constant

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called by torch in place of `func`."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").strip("_")
        nonlinear = _nonlinearity_bias(func, args, kwargs) if name in NONLINEAR_FUNCTIONS and args else None
        operands = self._constant_operand(name, args) if name in ARITHMETIC_FUNCTIONS and len(args) > 1 else None
        result = func(*args, **kwargs)
        if operands is not None and isinstance(result, Tensor) and result.requires_grad:
            self._record_constant(name, operands, result)
            return result
        if not isinstance(result, Tensor) or not result.requires_grad:
            return result
        value, axis = None, 1
        if name in AFFINE_FUNCTIONS:
            bias = args[2] if len(args) > 2 else kwargs.get("bias")
            value, axis = bias, AFFINE_FUNCTIONS[name]
        elif name == "batch_norm":
            value = _batch_norm_bias(*args, **kwargs)
        elif nonlinear is not None:
            value = nonlinear
            axis = next((b.channel_axis for b in reversed(self.terms) if b.value.ndim == result.ndim), 1)
        if value is not None:
            if value.ndim == 1:  # one value per channel
                value = value.detach().view(-1, *[1] * (result.ndim - 2)) if axis == 1 else value.detach()
            self.terms.append(BiasTerm(get_gradient_edge(result), value, axis % result.ndim))
        return result

    def _constant_operand(self, name: str, args: Any) -> tuple[Tensor, Tensor] | None:
        """The operand that depends on the input, and the constant with the same number of axes; None if there is none.

        A constant minus, or divided by, the input is not supported.
        """
        variable, other = args[:2]
        if not isinstance(variable, Tensor) or not variable.requires_grad:
            if name not in {"add", "mul", "multiply"}:
                return None
            variable, other = other, variable
        if not isinstance(variable, Tensor) or not variable.requires_grad or not variable.is_floating_point():
            return None
        constant = torch.as_tensor(other, dtype=variable.dtype, device=variable.device).detach()
        if (isinstance(other, Tensor) and other.requires_grad) or constant.ndim > variable.ndim:
            return None
        return variable, constant.reshape(*[1] * (variable.ndim - constant.ndim), *constant.shape)

    def _record_constant(self, name: str, operands: tuple[Tensor, Tensor], result: Tensor) -> None:
        """Record an added constant.

        In-place operations on the result of a subtraction belong to the same affine map: they update its bias term.
        Because they are in place, no other operation can use the intermediate values.
        """
        variable, constant = operands
        continues = self.last_difference is variable is result
        if name in {"mul", "multiply", "div", "divide"}:
            if continues:
                bias = self.terms[-1]
                value = bias.value / constant if name.startswith("div") else bias.value * constant
                self.terms[-1] = BiasTerm(get_gradient_edge(result), value, bias.channel_axis)
            return
        value = -constant if name.startswith("sub") else constant
        if continues and name == "add":
            value = self.terms.pop().value + value
        axes = [axis for axis, size in enumerate(value.shape) if size > 1 and axis]
        last = next((b.channel_axis for b in reversed(self.terms) if b.value.ndim == result.ndim), 1)
        channel_axis = axes[0] if len(axes) == 1 else min(last, result.ndim - 1)
        self.terms.append(BiasTerm(get_gradient_edge(result), value, channel_axis))
        self.last_difference = result if name.startswith("sub") else None


def _nonlinearity_bias(func: Any, args: Any, kwargs: Any) -> Tensor:
    """f(z) - f'(z) z."""
    z = args[0].detach().requires_grad_()
    with torch.enable_grad():
        y = func(z.clone(), *args[1:], **kwargs)  # a clone, because some functions work in place
        (slope,) = torch.autograd.grad(y.sum(), z)
    bias: Tensor = (y - slope * z).detach()
    return bias


def _batch_norm_bias(input: Tensor, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None,
           training: bool = False, momentum: float = 0.1, eps: float = 1e-5) -> Tensor | None:  # fmt: skip
    """Bias - weight · mean / √(variance + eps); None if the statistics are those of the batch."""
    if training or running_mean is None:
        return None
    scaled_mean = running_mean / (running_var + eps).sqrt()
    shift: Tensor = -(scaled_mean if weight is None else scaled_mean * weight)
    return shift if bias is None else shift + bias
