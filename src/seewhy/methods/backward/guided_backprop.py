"""Guided backpropagation."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def guided_backprop(passed: Tensor, arriving: Tensor) -> Tensor:
    """The gradient with every negative part removed at each rectifier: (X > 0) · (dL/dZ > 0) · dL/dZ.

    `passed` is slope(X) · dL/dZ, and slopes are not negative, so its positive part is the rule; a leaky
    slope stays. Sharp, but it shows the input's edges more than what the network learnt.
    """
    return passed.clamp(min=0)
