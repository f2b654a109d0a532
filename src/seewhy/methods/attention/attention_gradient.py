"""Attention, weighed with the gradient of the score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


def attention_gradient(
    attentions: Sequence[Float[Tensor, "N heads T T"]],
    gradients: Sequence[Float[Tensor, "N K heads T T"]],
    read: Float[Tensor, "N K T"],
) -> Float[Tensor, "N K T"]:
    """How relevant each patch is for the class: the attention that speaks for it, followed from layer to layer.

    Chefer, Gur and Wolf 2021 (generic attention-model explainability), eq. 5 and 6: A_l = mean over heads of
    ReLU(W_l · dy/dW_l), R_l = R_(l-1) + A_l R_(l-1), R_0 = I; the row of the class token, or the mean of the rows that
    are read. 0 or above. No relevance is propagated through other layers.
    """
    relevance = read
    for weights, slopes in zip(reversed(attentions), reversed(gradients), strict=True):
        relevance = relevance + relevance.unsqueeze(2).matmul((weights.unsqueeze(1) * slopes).relu().mean(2)).squeeze(2)
    return relevance
