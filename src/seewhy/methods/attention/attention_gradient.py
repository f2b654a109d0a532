"""Attention weights, multiplied by the gradient of the score with respect to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


def attention_gradient(
    attentions: Sequence[Float[Tensor, "N heads T T"]],
    gradients: Sequence[Float[Tensor, "N K heads T T"]],
    token_weights: Float[Tensor, "N K T"],
) -> Float[Tensor, "N K T"]:
    """Attention × gradient: positive part of attention times its gradient, accumulated from layer to layer.

    Chefer, Gur and Wolf 2021, Generic attention-model explainability, eq. 5 and 6: A_l = mean over heads of
    ReLU(W_l · dy/dW_l), R_l = R_(l-1) + A_l R_(l-1), R_0 = I. The map is the row of R of the class token, or the mean
    of the rows of the tokens that the score depends on. 0 or above: negative evidence is not shown. Relevance is
    propagated through attention and skip connections only, not through other layers.
    """
    relevance = token_weights
    for weights, weight_gradients in zip(reversed(attentions), reversed(gradients), strict=True):
        positive = (weights.unsqueeze(1) * weight_gradients).relu().mean(2)
        relevance = relevance + relevance.unsqueeze(2).matmul(positive).squeeze(2)
    return relevance
