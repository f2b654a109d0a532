"""SmoothGrad and VarGrad: gradients at noisy copies of the input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from seewhy.types import Attribution, Between, GradientsAt

from .moments import Moments, add, mean, variance

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from torch import Tensor

    from seewhy.types import Inputs


def smoothgrad(
    x: Inputs,
    block: int,
    normal: Callable[[int, int], Tensor],
    *,
    samples: Annotated[int, Between(2)] = 50,
    sigma: Annotated[float, Between(0)] = 0.15,
) -> Generator[GradientsAt, Tensor, Attribution]:
    """The gradient, averaged over copies of the input with noise: less speckled.

    Mean of d score / d x at x + e, e normal. Signed, in score units per unit of the network's own input; `stderr` is
    the standard error of that mean.

    Args:
        x: the input.
        block: how many copies fit at once.
        normal: draws.
        samples: how many copies.
        sigma: standard deviation of the noise, as a share of the input's largest minus smallest value.
    """
    moments = yield from _noisy(x, block, normal, samples, sigma)
    values, stderr = mean(moments)
    return Attribution(values, stderr=stderr)


def vargrad(
    x: Inputs,
    block: int,
    normal: Callable[[int, int], Tensor],
    *,
    samples: Annotated[int, Between(4)] = 50,
    sigma: Annotated[float, Between(0)] = 0.15,
) -> Generator[GradientsAt, Tensor, Attribution]:
    """How much the gradient varies over copies of the input with noise: large where the network is unsteady.

    Unbiased variance of d score / d x at x + e, e normal. Never negative; the square of the gradient's unit.

    Args:
        x: the input.
        block: how many copies fit at once.
        normal: draws.
        samples: how many copies.
        sigma: standard deviation of the noise, as a share of the input's largest minus smallest value.
    """
    moments = yield from _noisy(x, block, normal, samples, sigma)
    values, stderr = variance(moments)
    return Attribution(values, stderr=stderr)


def _noisy(
    x: Inputs, block: int, normal: Callable[[int, int], Tensor], samples: int, sigma: float
) -> Generator[GradientsAt, Tensor, Moments]:
    flat = x.flatten(1)
    scale = (sigma * (flat.amax(1) - flat.amin(1))).view(-1, *[1] * (x.ndim - 1))
    moments = Moments()
    for start in range(0, samples, block):
        noise = normal(start, min(start + block, samples)).unsqueeze(1)  # the same for every sample of the batch
        moments = add(moments, (yield GradientsAt(x + scale * noise)))
    return moments
