"""Input times gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seewhy.types import Inputs, Values


def input_x_gradient(x: Inputs, gradient: Values) -> Values:
    """Input × gradient: each input value times the derivative of the target score there, x · d score / d x.

    This is each input value's contribution to the score if the network is taken as linear. Signed, in units of the
    score. Because of the factor x the map contains the input itself, whatever the network learned.
    """
    return x.unsqueeze(1) * gradient
