"""CAM, class activation mapping."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from seewhy.types import FeatureGradients, Features


def cam(activations: Features, gradients: FeatureGradients) -> Float[Tensor, "N K 1 *R"]:
    """CAM: sum of the layer's channels, each weighted by its weight in the linear layer after the mean over positions.

    Zhou et al. 2016, eq. 1 and 2: M_c(x, y) = sum_k w_k^c f_k(x, y), for a network that ends with the mean over
    positions and one linear layer with the weights w. Signed, no ReLU, in units of the score: the mean of the map over
    its positions, plus the bias of the linear layer, is the score. Any other network is refused. The weights are read
    from the gradient, which such a network has exactly: w_k^c = sum over positions of d score / d f_k. ReLU of the map,
    divided by the number of positions, is Grad-CAM.
    """
    weights = gradients.sum(dim=tuple(range(3, gradients.ndim)), keepdim=True)
    return (weights * activations.unsqueeze(1)).sum(dim=2, keepdim=True)
