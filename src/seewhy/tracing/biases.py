"""The bias terms of a forward pass: every constant that a layer or function adds, and where."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from seewhy.models.function_observer import FunctionObserver

# Functions with the arguments (input, weight, bias), and the channel axis of their output.
AFFINE_FUNCTIONS = {f"conv{kind}{d}d": 1 for kind in ("", "_transpose") for d in (1, 2, 3)} | {"linear": -1}
# Elementwise nonlinear functions with a bias term. ReLU and leaky ReLU are positively homogeneous and have none.
NONLINEAR_FUNCTIONS = {
    "relu6", "hardtanh", "clamp", "clip", "clamp_max", "clamp_min", "threshold", "gelu", "silu", "mish", "elu", "celu",
    "selu", "softplus", "sigmoid", "tanh", "hardswish", "hardsigmoid", "logsigmoid", "softsign", "softshrink",
}  # fmt: skip


# Some frameworks compute an affine map by elementwise arithmetic: minus a constant, times a constant, plus a constant.
SCALING_FUNCTIONS = {"mul", "multiply", "div", "divide"}
ARITHMETIC_FUNCTIONS = {"add", "sub", "subtract", *SCALING_FUNCTIONS}


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
    difference: Tensor | None = None  # the result of the last subtraction of a constant

    def record(func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        nonlocal difference
        nonlinear = _nonlinearity_bias(func, args, kwargs) if name in NONLINEAR_FUNCTIONS and args else None
        operands = _constant_operand(name, args) if name in ARITHMETIC_FUNCTIONS and len(args) > 1 else None
        result = func(*args, **kwargs)
        if not isinstance(result, Tensor) or not result.requires_grad:
            return result
        if operands is not None:
            variable, constant = operands
            _record_constant(terms, name, constant, result, continues=difference is variable is result)
            if name not in SCALING_FUNCTIONS:
                difference = result if name.startswith("sub") else None
        elif name in AFFINE_FUNCTIONS:
            bias = args[2] if len(args) > 2 else kwargs.get("bias")
            _record_bias(terms, bias, result, AFFINE_FUNCTIONS[name])
        elif name == "batch_norm":
            _record_bias(terms, _batch_norm_bias(*args, **kwargs), result, 1)
        elif nonlinear is not None:
            _record_bias(terms, nonlinear, result, _last_channel_axis(terms, result))
        return result

    with FunctionObserver(record):
        yield terms


def _record_bias(terms: list[BiasTerm], value: Tensor | None, result: Tensor, axis: int) -> None:
    """Record the bias term of a layer or function; None: it has none."""
    if value is None:
        return
    if value.ndim == 1:  # one value per channel
        value = value.detach().view(-1, *[1] * (result.ndim - 2)) if axis == 1 else value.detach()
    terms.append(BiasTerm(get_gradient_edge(result), value, axis % result.ndim))


def _last_channel_axis(terms: list[BiasTerm], result: Tensor) -> int:
    """The channel axis of the last bias term whose value has as many axes as the result; 1 if there is none."""
    return next((b.channel_axis for b in reversed(terms) if b.value.ndim == result.ndim), 1)


def _constant_operand(name: str, args: tuple[Any, ...]) -> tuple[Tensor, Tensor] | None:
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


def _record_constant(terms: list[BiasTerm], name: str, constant: Tensor, result: Tensor, continues: bool) -> None:
    """Record an added constant.

    In-place operations on the result of a subtraction belong to the same affine map (`continues`): they update its bias
    term. Because they are in place, no other operation can use the intermediate values.
    """
    if name in SCALING_FUNCTIONS:
        if continues:
            bias = terms[-1]
            value = bias.value / constant if name.startswith("div") else bias.value * constant
            terms[-1] = BiasTerm(get_gradient_edge(result), value, bias.channel_axis)
        return
    value = -constant if name.startswith("sub") else constant
    if continues and name == "add":
        value = terms.pop().value + value
    axes = [axis for axis, size in enumerate(value.shape) if size > 1 and axis]
    channel_axis = axes[0] if len(axes) == 1 else min(_last_channel_axis(terms, result), result.ndim - 1)
    terms.append(BiasTerm(get_gradient_edge(result), value, channel_axis))


def _nonlinearity_bias(func: Any, args: Any, kwargs: Any) -> Tensor:
    """f(z) - f'(z) z."""
    z = args[0].detach().requires_grad_()
    # saved here, not by the hooks of a checkpointed block
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(lambda saved: saved, lambda saved: saved):
        y = func(z.clone(), *args[1:], **kwargs)  # a clone, because some functions work in place
        (slope,) = torch.autograd.grad(y.sum(), z)
    bias: Tensor = y.detach() - slope * z.detach()
    return bias


def _batch_norm_bias(input: Tensor, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None,
           training: bool = False, momentum: float = 0.1, eps: float = 1e-5) -> Tensor | None:  # fmt: skip
    """Bias - weight · mean / √(variance + eps); None if the statistics are those of the batch."""
    if training or running_mean is None:
        return None
    scaled_mean = running_mean / (running_var + eps).sqrt()
    shift: Tensor = -(scaled_mean if weight is None else scaled_mean * weight)
    return shift if bias is None else shift + bias
