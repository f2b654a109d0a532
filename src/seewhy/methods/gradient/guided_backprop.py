"""Guided backpropagation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seewhy.types import BackwardRule

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.types import Values


def guided_backprop(gradient: Values) -> Values:
    """Guided backprop: gradient with negative values set to zero at each rectifier.

    The rule at a rectifier with input X and output Z is (X > 0) · (dL/dZ > 0) · dL/dZ. The slope of a leaky rectifier
    is kept. Signed. The map is sharp, but it shows the input's edges more than what the network learned.
    """
    return gradient


def _positive_gradient(grad_input: Tensor) -> Tensor:
    """The positive part of slope(X) · dL/dZ, which is the rule, because the slopes are 0 or above."""
    return grad_input.clamp(min=0)


GUIDED_RULE = BackwardRule(("rectifier",), _positive_gradient)
