"""Grad-CAM."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from seewhy.types import Inputs, Values


def gradcam(activations: Inputs, gradients: Values) -> Float[Tensor, "N K 1 *S"]:
    """Where a layer's features speak for the class: the channels, weighed by their mean gradient.

    Selvaraju et al. 2017, eq. 1 and 2: a_k = mean over positions of dy/dA_k; map = ReLU(sum_k a_k A_k). Not
    rescaled, in units of the score; 0 or above: what speaks against the class is cut off. The map has the layer's
    resolution, so it shows regions and no edges.
    """
    weights = gradients.mean(dim=tuple(range(3, gradients.ndim)), keepdim=True)
    return (weights * activations.unsqueeze(1)).sum(dim=2, keepdim=True).relu()
