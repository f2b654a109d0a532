"""Grad-CAM and related methods: a layer's activations, weighted by the gradient of the score at the layer.

A_k is channel k of the activations, G_k = d score / d A_k its gradient, and i, j a position of the layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from seewhy.maps import resample

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from seewhy.types import FeatureGradients, Features, Values

    Map = Float[Tensor, "N K 1 *R"]


def gradcam(activations: Features, gradients: FeatureGradients) -> Map:
    """Grad-CAM: sum of the layer's channels, each weighted by the spatial mean of its gradient; ReLU.

    Selvaraju et al. 2017, eq. 1 and 2: a_k = mean over positions of G_k; map = ReLU(sum_k a_k A_k). In units of the
    score, not rescaled; 0 or above: negative evidence is set to zero. The map has the layer's resolution, so it shows
    regions, not edges.
    """
    weights = gradients.mean(dim=_position_axes(gradients), keepdim=True)
    return _weighted_sum(weights, activations).relu()


def gradcam_plus_plus(activations: Features, gradients: FeatureGradients) -> Map:
    """Grad-CAM++: Grad-CAM with channel weights that are weighted sums of the positive gradients; ReLU.

    Each position with a positive gradient has about the same influence on the weights, so that all objects of the class
    appear in the map, not only the largest. Chattopadhay et al. 2018, eq. 10 to 13 and 19 with Y = exp(y):
    w_k = sum_ij a_ij ReLU(G_ij), a_ij = 1 / (2 + G_ij sum_ab A_ab). This is the paper's quotient with G² canceled, so
    nothing underflows and no epsilon is needed. The common factor exp(y), which only scales the map, is left out.
    0 or above. The map is not scale-invariant: a score in another unit leads to a different map.
    """
    total = activations.unsqueeze(1).sum(dim=_position_axes(gradients), keepdim=True)
    denominator = 2 + gradients * total
    weighted_gradients = gradients.relu() / denominator.masked_fill(denominator == 0, float("inf"))
    return _weighted_sum(weighted_gradients.sum(dim=_position_axes(gradients), keepdim=True), activations).relu()


def hirescam(activations: Features, gradients: FeatureGradients) -> Map:
    """HiResCAM: sum over the layer's channels of activation times gradient, position by position.

    Draelos and Carin 2020, eq. 3: sum_k G_k A_k. Signed, in units of the score. If only one linear layer follows, each
    position's value is its exact contribution, and the map sums to the score minus the bias; else it is a linear
    approximation.
    """
    return _weighted_sum(gradients, activations)


def layercam(activations: Features, gradients: FeatureGradients) -> Map:
    """LayerCAM: sum over the layer's channels of activation times positive gradient, position by position; ReLU.

    Jiang et al. 2021, eq. 3 and 4: ReLU(sum_k ReLU(G_k) A_k). 0 or above, in units of the score: negative evidence is
    not shown. Weights per position make the method suitable for early layers too.
    """
    return _weighted_sum(gradients.relu(), activations).relu()


def xgradcam(activations: Features, gradients: FeatureGradients) -> Map:
    """XGrad-CAM: sum of the layer's channels, each weighted by the activation-weighted mean of its gradient.

    Fu et al. 2020, eq. 8: w_k = sum_ij G_ij A_ij / sum_ab A_ab; map = sum_k w_k A_k. Signed, in units of the score.
    With these weights the map's sum equals that of activation times gradient (conservation). A channel whose
    activations sum to zero has weight zero.
    """
    axes = _position_axes(gradients)
    total = activations.unsqueeze(1).sum(dim=axes, keepdim=True)
    weighted_gradients = (gradients * activations.unsqueeze(1)).sum(dim=axes, keepdim=True)
    return _weighted_sum(weighted_gradients / total.masked_fill(total == 0, float("inf")), activations)


def guided_gradcam(activations: Features, gradients: FeatureGradients, guided_gradient: Values) -> Values:
    """Guided Grad-CAM: guided backpropagation times the Grad-CAM map, which is resampled to the input's size.

    Selvaraju et al. 2017, section 3.2. Signed, at the input's resolution and with its channels. The map shows edges
    within the region of the Grad-CAM map. As with guided backpropagation, the edges hardly depend on what the network
    learned.
    """
    region = resample(gradcam(activations, gradients)[:, :, 0], guided_gradient.shape[3:], "linear")
    return guided_gradient * region.unsqueeze(2)


def _position_axes(values: FeatureGradients) -> tuple[int, ...]:
    """The position axes of [N, K, C, *S'], as indices."""
    return tuple(range(3, values.ndim))


def _weighted_sum(weights: Tensor, activations: Features) -> Tensor:
    """sum_k w_k A_k: weights [N, K, C, *S' or 1], activations [N, C, *S'] -> [N, K, 1, *S']."""
    return (weights * activations.unsqueeze(1)).sum(dim=2, keepdim=True)
