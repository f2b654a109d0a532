"""The Zeiler-Fergus rule, also known as deconvnet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seewhy.types import BackwardRule

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.types import Values


def zeiler_fergus(gradient: Values) -> Values:
    """Zeiler-Fergus: gradient rectified at each rectifier, whatever the rectifier's input (deconvnet).

    The rule at a rectifier with output Z is (dL/dZ > 0) · dL/dZ. Signed. The rule ignores the forward activations, so
    without max pooling or another input-dependent operation the map does not depend on the input at all: it then shows
    the network's weights, not evidence in the input.
    """
    return gradient


def _rectified_gradient(grad_output: Tensor) -> Tensor:
    return grad_output.clamp(min=0)


DECONVNET_RULE = BackwardRule(("rectifier",), _rectified_gradient)
