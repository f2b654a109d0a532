"""FullGrad."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from seewhy.maps import resample
from seewhy.methods.queries import Attribution

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.types import Inputs, Scores, Values


def fullgrad(x: Inputs, gradient: Values, biases: Sequence[Tensor], score: Scores) -> Attribution:
    """FullGrad: input × gradient plus bias × gradient of every layer, each as rescaled absolute values.

    Srinivas and Fleuret 2019, eq. 3 and 5. The score is y = g·x + sum_l b_l·G_l, with g the gradient at the input, b_l
    the biases of layer l and G_l the gradient there. `extras["input_part"]` and `extras["bias_parts"]` hold these
    terms; `convergence_delta` is their sum minus the score. The map is psi(g x) + sum_l sum_c psi(b_l G_l), where psi
    takes absolute values, rescales each layer to [0, 1] and resamples it to the input's size (linear). The map is 0 or
    above, so positive and negative evidence are not distinguished.

    Biases are those of convolutions, linear layers and batch normalization (b - w m / s), and the implicit biases
    f(z) - f'(z) z of activation functions. Biases without spatial axes are part of the sum but not of the map.
    """
    import torch

    input_part = x.unsqueeze(1) * gradient
    map_by_size: dict[tuple[int, ...], Tensor] = {}  # layers of one size are summed first, as resampling is linear
    for part in (input_part, *biases):
        if part is input_part or (part.ndim == input_part.ndim and max(part.shape[3:]) > 1):
            size = tuple(part.shape[3:])
            map_by_size[size] = map_by_size[size] + _psi(part) if size in map_by_size else _psi(part)
    resampled = [resample(maps, x.shape[2:], "linear") for maps in map_by_size.values()]
    sums = [part.flatten(2).sum(2) for part in (input_part, *biases)]
    extras = {"input_part": sums[0], "bias_parts": torch.stack(sums[1:], 2) if biases else sums[0][..., None] * 0}
    delta = sum(sums[1:], start=sums[0]) - score
    incomplete = [tuple(index) for index in (delta.abs() > 0.01 * score.abs()).nonzero().tolist()]
    notes = tuple(
        f"the parts of sample {n}, target {k} sum to {float(score[n, k] + delta[n, k]):.4g}, but the score is "
        f"{float(score[n, k]):.4g}: the network has operations that are not piecewise linear, or biases that were not "
        "observed"
        for n, k in incomplete
    )
    values = torch.stack(resampled).sum(0).unsqueeze(2)
    return Attribution(values, convergence_delta=delta, extras=extras, notes=notes)


def _psi(part: Tensor) -> Tensor:
    """Absolute values, rescaled to [0, 1] over channels and positions, summed over channels.

    Maps [N, K, C, *S'] to [N, K, *S'].
    """
    magnitude = part.abs()
    low, high = magnitude.flatten(2).aminmax(dim=2)
    low, width = (v.view(*v.shape, *[1] * (part.ndim - 3)) for v in (low, high - low))
    return (magnitude.sum(2) - part.shape[2] * low) / width.masked_fill(width == 0, float("inf"))
