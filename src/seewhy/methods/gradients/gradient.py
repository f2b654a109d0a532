"""The plain gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seewhy.types import Values


def gradient(gradient: Values) -> Values:
    """How much the score changes with each input value, for a very small change: d score / d x.

    Signed, in score units per unit of the network's own input. Noisy, but the most faithful of the
    gradient maps: it depends on every weight between input and score.
    """
    return gradient
