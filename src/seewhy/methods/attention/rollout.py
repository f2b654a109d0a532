"""Attention rollout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


def rollout(
    attentions: Sequence[Float[Tensor, "N heads T T"]], token_weights: Float[Tensor, "N K T"]
) -> Float[Tensor, "N K T"]:
    """Attention rollout: product over layers of the head-averaged attention with skip connection; class-agnostic.

    Abnar and Zuidema 2020, eq. 1: A_l = (W_l + I) / 2, with W_l the attention weights averaged over heads, and
    R_l = A_l R_(l-1). The map is the row of R of the class token, or the mean of the rows of the tokens that the score
    depends on. 0 or above; together with the tokens that are not patches it sums to one. The map shows how much of each
    patch reaches these tokens if attention alone moved information. It is the same for every class.
    """
    flow = token_weights
    for weights in reversed(attentions):
        flow = (flow + flow @ weights.mean(1)) / 2
    return flow
