"""The plain gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seewhy.types import Values


def gradient(gradient: Values) -> Values:
    """Gradient: derivative of the target score with respect to each input value, d score / d x.

    Signed, in units of the score per unit of the network's own input. Noisy, but the most faithful of the gradient
    maps: it depends on every weight between input and score. It describes the effect of very small changes only.
    """
    return gradient
