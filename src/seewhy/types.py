"""Names of tensor shapes, the range of an option, the capabilities of models, and backward rules. Imports no torch.

N samples, K explained targets per sample, C channels, *S the spatial or temporal axes of the input.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import Flag, auto
from typing import TYPE_CHECKING, Any, NamedTuple

from .errors import check_choice

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int64, Num
    from torch import Tensor

    Baseline = int | float | str | list[float] | tuple[float, ...] | Tensor | np.ndarray | None

    Inputs = Num[Tensor, "N C *S"]  # whole numbers where the network takes them
    Values = Float[Tensor, "N K C *S"]
    Features = Float[Tensor, "N A *R"]  # a layer's output: A channels on a grid *R
    FeatureGradients = Float[Tensor, "N K A *R"]  # the gradient of each target score with respect to the features
    Maps = Float[Tensor, "N K *S"]
    Scores = Float[Tensor, "N K"]
    Indices = Int64[Tensor, "N K"]
else:
    Baseline = Any


class Range(NamedTuple):
    """The allowed range of a number, both ends included; used in the annotation of an option."""

    low: float = float("-inf")
    high: float = float("inf")


class Capability(Flag):
    """What a model can compute, and what a method requires."""

    SCORES = auto()
    GRADIENTS = auto()  # of a score with respect to the input, by autograd
    LAYERS = auto()  # named layers

    def __str__(self) -> str:
        return ", ".join(str(flag.name).lower() for flag in self) or "nothing"


def positional_parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    """Names of the positional parameters of a kernel: the values that it reads."""
    parameters = inspect.signature(function).parameters
    return tuple(name for name, p in parameters.items() if p.kind is not p.KEYWORD_ONLY)


OP_KINDS = ("rectifier", "elementwise", "max_pool")
GRADIENTS_AT_OP = ("grad_output", "grad_input")
VALUES_AT_OP = ("input", "output", "reference_input", "reference_output")


@dataclass(frozen=True)
class BackwardRule:
    """How the backward pass goes through ops of some kinds, in place of the chain rule.

    Attributes:
        ops: the kinds of op, of "rectifier" (ReLU, leaky ReLU, ReLU6 and the like), "elementwise" (every elementwise
            nonlinear function, rectifiers too) and "max_pool". At an op of several kinds, a method's first rule counts.
        fn: a kernel that computes the gradient that is passed on to the op's input. Its positional parameters name what
            it reads: `grad_output`, the gradient at the op's output; `grad_input`, the ordinary gradient at its input;
            `input` and `output` of the op; `reference_input` and `reference_output`, the same in the forward pass of
            the method's baseline. At max pooling, all of them are at the resolution of the output, and `input` is the
            maximal value of the window: of the pass, of the two, in which that value is larger.

    Raises:
        OptionError: there is no such kind of op, or the kernel reads something else.
    """

    ops: tuple[str, ...]
    fn: Callable[..., Any]

    def __post_init__(self) -> None:
        for kind in self.ops:
            check_choice("ops", kind, OP_KINDS)
        for name in self.reads:
            check_choice("parameter of a backward rule", name, GRADIENTS_AT_OP + VALUES_AT_OP)

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the values that the kernel reads."""
        return positional_parameters(self.fn)
