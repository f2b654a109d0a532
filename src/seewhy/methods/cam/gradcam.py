"""Grad-CAM and its kin: a layer's activations, weighed by the gradient of the score there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seewhy.maps import resample

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from seewhy.types import Features, Slopes, Values

    Map = Float[Tensor, "N K 1 *R"]


def gradcam(activations: Features, gradients: Slopes) -> Map:
    """Where a layer's features speak for the class: the channels, weighed by their mean gradient.

    Selvaraju et al. 2017, eq. 1 and 2: a_k = mean over positions of dy/dA_k; map = ReLU(sum_k a_k A_k). Not
    rescaled, in units of the score; 0 or above: what speaks against the class is cut off. The map has the layer's
    resolution, so it shows regions and no edges.
    """
    weights = gradients.mean(dim=_positions(gradients), keepdim=True)
    return _weighed(weights, activations).relu()


def gradcam_plus_plus(activations: Features, gradients: Slopes) -> Map:
    """Grad-CAM whose weights count each position that speaks for the class about equally, so that every object shows.

    Chattopadhay et al. 2018, eq. 10 to 13, 19 with Y = exp(y): w_k = sum_ij a_ij ReLU(G_ij),
    a_ij = 1 / (2 + G_ij sum_ab A_ab), which is their quotient with G² cancelled: nothing underflows and no epsilon is
    needed. The common factor exp(y), which only scales the picture, is left out. 0 or above. It is not scale free:
    another unit of the score gives another map.
    """
    total = activations.unsqueeze(1).sum(dim=_positions(gradients), keepdim=True)
    below = 2 + gradients * total
    parts = gradients.relu() / below.masked_fill(below == 0, float("inf"))
    return _weighed(parts.sum(dim=_positions(gradients), keepdim=True), activations).relu()


def hirescam(activations: Features, gradients: Slopes) -> Map:
    """What each position of the layer adds to the score if what follows is linear: activation times gradient.

    Draelos and Carin 2020, eq. 3: sum_k G_k A_k. Signed, in units of the score; before one linear layer it sums to
    the score without its bias.
    """
    return _weighed(gradients, activations)


def layercam(activations: Features, gradients: Slopes) -> Map:
    """Activations weighed position by position with the positive part of the gradient; made for early layers too.

    Jiang et al. 2021, eq. 3 and 4: ReLU(sum_k ReLU(G_k) A_k). 0 or above, in units of the score.
    """
    return _weighed(gradients.relu(), activations).relu()


def xgradcam(activations: Features, gradients: Slopes) -> Map:
    """Grad-CAM with weights that conserve the score: gradients are averaged where the activations are.

    Fu et al. 2020, eq. 8: w_k = sum_ij G_ij A_ij / sum_ab A_ab; map = sum_k w_k A_k. Signed, in units of the score; a
    channel whose activations sum to zero has no weight.
    """
    axes = _positions(gradients)
    total = activations.unsqueeze(1).sum(dim=axes, keepdim=True)
    joint = (gradients * activations.unsqueeze(1)).sum(dim=axes, keepdim=True)
    return _weighed(joint / total.masked_fill(total == 0, float("inf")), activations)


def guided_gradcam(activations: Features, gradients: Slopes, guided: Values) -> Values:
    """Guided backpropagation, weighed with the Grad-CAM map at the input's size (linear): edges inside the region.

    Selvaraju et al. 2017, section 3.2. Signed, in the input's resolution and channels. As guided backpropagation by
    itself, its edges hardly depend on what the network learnt.
    """
    region = resample(gradcam(activations, gradients)[:, :, 0], guided.shape[3:], "linear")
    return guided * region.unsqueeze(2)


def _positions(values: Slopes) -> tuple[int, ...]:
    """The axes behind [N, K, C]."""
    return tuple(range(3, values.ndim))


def _weighed(weights: Tensor, activations: Features) -> Tensor:
    return (weights * activations.unsqueeze(1)).sum(dim=2, keepdim=True)
