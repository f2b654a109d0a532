"""Input times gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seewhy.types import Inputs, Values


def input_x_gradient(x: Inputs, gradient: Values) -> Values:
    """What each input value adds to the score if the network is taken as linear: x · d score / d x.

    Signed, in score units. The factor x puts the input itself into the map, whatever the network learnt.
    """
    return x.unsqueeze(1) * gradient
