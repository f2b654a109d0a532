"""FullGrad."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from seewhy.maps import resample, rescale
from seewhy.types import Attribution

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.types import Inputs, Scores, Values


def fullgrad(x: Inputs, gradient: Values, biases: Sequence[Tensor], score: Scores) -> Attribution:
    """The input and every bias of the network, each with what it adds to the score, position by position.

    Srinivas and Fleuret 2019, eq. 3 and 5: y = g·x + sum_l b_l·G_l (the raw parts: `extras["input_part"]`,
    `extras["bias_parts"]`; `completeness` is their sum minus the score), map = psi(g x) + sum_l sum_c psi(b_l G_l),
    where psi takes absolute values, rescales a layer to [0, 1] and brings it to the input's size (linear). Biases are
    those of convolutions, linear layers, batch normalisation (b - w m / s) and of activations that bend
    (f(z) - f'(z) z); those without positions are in the sum and not in the map. 0 or above.
    """
    import torch

    own = x.unsqueeze(1) * gradient
    found = _shown(own, x)
    for part in biases:
        if part.ndim == own.ndim and max(part.shape[3:]) > 1:
            found = found + _shown(part, x)
    sums = [part.flatten(2).sum(2) for part in (own, *biases)]
    extras = {"input_part": sums[0], "bias_parts": torch.stack(sums[1:], 2) if biases else sums[0][..., None] * 0}
    gap = sum(sums[1:], start=sums[0]) - score
    far = [tuple(place) for place in (gap.abs() > 0.01 * score.abs()).nonzero().tolist()]
    notes = tuple(
        f"the parts of sample {n}, target {k} sum to {float(score[n, k] + gap[n, k]):.4g}, the score is "
        f"{float(score[n, k]):.4g}: the network has steps that are not linear in pieces, or hides a bias"
        for n, k in far
    )
    return Attribution(found, completeness=gap, extras=extras, notes=notes)


def _shown(part: Tensor, x: Inputs) -> Tensor:
    """The sum over channels of psi: [N, K, C, *S'] -> [N, K, 1, *S]."""
    n, k, c = part.shape[:3]
    scaled = rescale(part.abs().reshape(n, k, -1)).reshape(n, k, c, *part.shape[3:])  # over channels and positions
    return resample(scaled.sum(2), x.shape[2:], "linear").unsqueeze(2)
