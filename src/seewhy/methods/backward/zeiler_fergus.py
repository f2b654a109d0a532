"""The Zeiler-Fergus rule, also known as deconvnet."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def zeiler_fergus(passed: Tensor, arriving: Tensor) -> Tensor:
    """The gradient rectified on its way back, the input's sign ignored: (dL/dZ > 0) · dL/dZ at each rectifier.

    Where the rectifiers and max pooling decide nothing, it does not depend on the input at all: then it shows how
    the network is wired, not what it saw.
    """
    return arriving.clamp(min=0)
