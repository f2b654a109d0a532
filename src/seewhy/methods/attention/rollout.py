"""Attention rollout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


def rollout(attentions: Sequence[Float[Tensor, "N heads T T"]], read: Float[Tensor, "N K T"]) -> Float[Tensor, "N K T"]:
    """How much of each patch flows to the tokens that the score reads, if attention were all that moves it.

    Abnar and Zuidema 2020, eq. 1: A_l = (W_l + I) / 2 with W_l the weights averaged over heads, R_l = A_l R_(l-1); the
    row of the class token, or the mean of the rows that are read. 0 or above, and with the tokens that are no patches
    it sums to one. It knows nothing of the class: every target has the same map.
    """
    flow = read
    for weights in reversed(attentions):
        flow = (flow + flow @ weights.mean(1)) / 2
    return flow
