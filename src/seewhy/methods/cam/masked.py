"""Class activation maps without gradients: hide parts of a layer, or show the input through it, and ask again."""

from __future__ import annotations

from collections.abc import Generator
from math import prod
from typing import TYPE_CHECKING

from seewhy.maps import resample, rescale, spread
from seewhy.types import Attribution, ScoresAt, ScoresUnder

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.types import Features, Inputs, Scores

    Asking = Generator[ScoresAt | ScoresUnder, Tensor, Attribution]


def scorecam(x: Inputs, activations: Features, block: int) -> Asking:
    """Channels of a layer, weighed by the score of the input seen through each of them; no gradient is used.

    Wang et al. 2020, algorithm 1: H_k = A_k at the input's size (linear), each rescaled to [0, 1]; weights =
    softmax over k of y(x · H_k); map = ReLU(sum_k w_k A_k). One forward a channel. Constant channels have no weight.
    What is hidden is 0 in the network's own units.
    """
    import torch

    scores = []
    for start in range(0, activations.shape[1], block):
        seen = rescale(resample(activations[:, start : start + block], x.shape[2:], "linear"))
        scores.append((yield ScoresAt(seen.movedim(1, 0).unsqueeze(2) * x)))
    constant = spread(activations).T.unsqueeze(2) == 0
    weights = torch.cat(scores).masked_fill(constant, -torch.inf).softmax(0).nan_to_num(0)
    return Attribution(_weighed(weights, activations).relu())


def ablationcam(activations: Features, score: Scores) -> Asking:
    """Channels of a layer, weighed by how far the score falls without them; no gradient is used.

    Ramaswamy and Desai 2020, eq. 3 and 4: w_k = y - y(A_k = 0); map = ReLU(sum_k w_k A_k). Their common factor 1/y,
    which only scales the picture but would turn it over for a negative score, is left out.
    """
    import torch

    count, axes = activations.shape[1], activations.ndim - 2

    def without(start: int, stop: int) -> Tensor:
        kept = 1 - torch.eye(count, dtype=score.dtype, device=score.device)[start:stop]
        return kept.reshape(stop - start, count, *[1] * axes)

    left = yield ScoresUnder(count, without)
    return Attribution(_weighed(score - left, activations).relu())


def recipro_cam(activations: Features, score: Scores) -> Asking:
    """The score that is left when only one place of a layer keeps its features; no gradient is used.

    Byun and Lee 2022, eq. 2 to 4: every channel times a Gaussian of three positions a side (1/4, 1/2, 1/4 along each
    axis) around each place. One short forward a position. Signed, in units of the score.
    """
    import torch

    grid = activations.shape[2:]
    places = torch.stack(torch.meshgrid(*(torch.arange(size) for size in grid), indexing="ij")).flatten(1)

    def only(start: int, stop: int) -> Tensor:
        mask = torch.ones(stop - start, 1, *[1] * len(grid))
        for axis, size in enumerate(grid):
            away = (torch.arange(size) - places[axis, start:stop, None]).abs()
            along = (1 - away / 2).clamp(min=0) / 2
            mask = mask * along.view(stop - start, 1, *[size if a == axis else 1 for a in range(len(grid))])
        return mask.to(activations)

    left = yield ScoresUnder(prod(grid), only)
    return Attribution(left.permute(1, 2, 0).unflatten(2, grid).unsqueeze(2).contiguous())


def _weighed(weights: Tensor, activations: Features) -> Tensor:
    """sum_c w_c A_c: [C, N, K], [N, C, *S] -> [N, K, 1, *S]."""
    import torch

    return torch.einsum("cnk,nc...->nk...", weights, activations).unsqueeze(2)
