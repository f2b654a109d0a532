"""Guided backpropagation."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def guided_backprop(grad_input: Tensor, grad_output: Tensor) -> Tensor:
    """Guided backprop: gradient with negative values set to zero at each rectifier.

    The rule at a rectifier with input X and output Z is (X > 0) · (dL/dZ > 0) · dL/dZ. `grad_input` is
    slope(X) · dL/dZ with slopes of 0 or above, so its positive part is the rule; the slope of a leaky rectifier is
    kept. Signed. The map is sharp, but it shows the input's edges more than what the network learned.
    """
    return grad_input.clamp(min=0)
