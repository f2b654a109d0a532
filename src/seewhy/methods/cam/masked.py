"""Class activation maps without gradients: scores with parts of a layer or of the input masked."""

from __future__ import annotations

from collections.abc import Generator
from math import prod
from typing import TYPE_CHECKING

from seewhy.maps import resample, rescale, value_range
from seewhy.methods.queries import Attribution, LayerMaskQuery, ScoreQuery

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.types import Features, Inputs, Scores

    LayerQueries = Generator[ScoreQuery | LayerMaskQuery, Tensor, Attribution]


def scorecam(x: Inputs, activations: Features, max_points: int) -> LayerQueries:
    """Score-CAM: sum of the layer's channels, weighted by the softmax of the scores of the input masked by each; ReLU.

    Wang et al. 2020, algorithm 1: H_k = A_k resampled to the input's size (linear) and rescaled to [0, 1]; weights
    w = softmax over k of y(x · H_k); map = ReLU(sum_k w_k A_k). 0 or above. No gradient is used; one forward pass per
    channel. Constant channels have weight zero. Masked values are 0 in the network's own units.
    """
    import torch

    scores = []
    for start in range(0, activations.shape[1], max_points):
        masks = rescale(resample(activations[:, start : start + max_points], x.shape[2:], "linear"))
        scores.append((yield ScoreQuery(masks.movedim(1, 0).unsqueeze(2) * x)))
    constant = value_range(activations).T.unsqueeze(2) == 0
    weights = torch.cat(scores).masked_fill(constant, -torch.inf).softmax(0).nan_to_num(0)
    return Attribution(_weighted_channel_sum(weights, activations).relu())


def ablationcam(activations: Features, score: Scores) -> LayerQueries:
    """Ablation-CAM: sum of the layer's channels, each weighted by the drop of the score when it is zeroed; ReLU.

    Ramaswamy and Desai 2020, eq. 3 and 4: w_k = y - y(A_k = 0); map = ReLU(sum_k w_k A_k). 0 or above. No gradient is
    used; one forward pass per channel. The paper's common factor 1/y is left out: it only scales the map, but would
    reverse its sign for a negative score.
    """
    import torch

    channels, axes = activations.shape[1], activations.ndim - 2

    def channel_masks(start: int, stop: int) -> Tensor:
        kept = 1 - torch.eye(channels, dtype=score.dtype, device=score.device)[start:stop]
        return kept.reshape(stop - start, channels, *[1] * axes)

    masked_scores = yield LayerMaskQuery(channels, channel_masks)
    return Attribution(_weighted_channel_sum(score - masked_scores, activations).relu())


def recipro_cam(activations: Features, score: Scores) -> LayerQueries:
    """Recipro-CAM: score when only a Gaussian neighborhood of one position of the layer is kept, for each position.

    Byun and Lee 2022, eq. 2 to 4: every channel is multiplied by a Gaussian of three positions per axis (1/4, 1/2, 1/4)
    around each position. No gradient is used; one forward pass from the layer on per position. Signed, in units of the
    score. The values are scores, not differences of scores.
    """
    import torch

    grid = activations.shape[2:]
    positions = torch.stack(torch.meshgrid(*(torch.arange(size) for size in grid), indexing="ij")).flatten(1)

    def position_masks(start: int, stop: int) -> Tensor:
        mask = torch.ones(stop - start, 1, *[1] * len(grid))
        for axis, size in enumerate(grid):
            distance = (torch.arange(size) - positions[axis, start:stop, None]).abs()
            profile = (1 - distance / 2).clamp(min=0) / 2
            mask = mask * profile.view(stop - start, 1, *[size if a == axis else 1 for a in range(len(grid))])
        return mask.to(activations)

    scores = yield LayerMaskQuery(prod(grid), position_masks)
    return Attribution(scores.permute(1, 2, 0).unflatten(2, grid).unsqueeze(2).contiguous())


def _weighted_channel_sum(weights: Tensor, activations: Features) -> Tensor:
    """sum_c w_c A_c: [C, N, K], [N, C, *S] -> [N, K, 1, *S]."""
    import torch

    return torch.einsum("cnk,nc...->nk...", weights.to(activations), activations).unsqueeze(2)
