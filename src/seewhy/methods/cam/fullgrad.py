"""FullGrad."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from seewhy.maps import resample
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
    shown: dict[tuple[int, ...], Tensor] = {}  # sums of the layers of one size, as resampling is linear
    for part in (own, *biases):
        if part is own or (part.ndim == own.ndim and max(part.shape[3:]) > 1):
            size = tuple(part.shape[3:])
            shown[size] = shown[size] + _psi(part) if size in shown else _psi(part)
    found = torch.stack([resample(whole, x.shape[2:], "linear") for whole in shown.values()]).sum(0).unsqueeze(2)
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


def _psi(part: Tensor) -> Tensor:
    """Absolute values, rescaled over channels and positions, summed over channels: [N, K, C, *S'] -> [N, K, *S']."""
    size = part.abs()
    low, high = size.flatten(2).aminmax(dim=2)
    low, width = (v.view(*v.shape, *[1] * (part.ndim - 3)) for v in (low, high - low))
    return (size.sum(2) - part.shape[2] * low) / width.masked_fill(width == 0, float("inf"))
