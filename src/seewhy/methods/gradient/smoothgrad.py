"""SmoothGrad and VarGrad: gradients at noisy copies of the input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from seewhy.methods.queries import Attribution, GradientQuery
from seewhy.methods.running_moments import Moments, add_samples, mean_and_stderr, variance_and_stderr
from seewhy.types import Range

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from torch import Tensor

    from seewhy.types import Inputs


def smoothgrad(
    x: Inputs,
    max_points: int,
    normal: Callable[[int, int], Tensor],
    *,
    samples: Annotated[int, Range(2)] = 50,
    sigma: Annotated[float, Range(0)] = 0.15,
) -> Generator[GradientQuery, Tensor, Attribution]:
    """SmoothGrad: mean gradient over copies of the input with added Gaussian noise.

    Mean of d score / d x at x + e, with e normal. Less noisy than the gradient. Signed, in units of the score per unit
    of the network's own input. `stderr` is the standard error of the mean.

    Args:
        x: the input.
        max_points: largest number of noisy copies per query.
        normal: function that draws standard normal numbers.
        samples: number of noisy copies.
        sigma: standard deviation of the noise, as a fraction of the input's range (largest minus smallest value).
    """
    moments = yield from _noisy_gradient_moments(x, max_points, normal, samples, sigma)
    values, stderr = mean_and_stderr(moments)
    return Attribution(values, stderr=stderr)


def vargrad(
    x: Inputs,
    max_points: int,
    normal: Callable[[int, int], Tensor],
    *,
    samples: Annotated[int, Range(4)] = 50,
    sigma: Annotated[float, Range(0)] = 0.15,
) -> Generator[GradientQuery, Tensor, Attribution]:
    """VarGrad: variance of the gradient over copies of the input with added Gaussian noise.

    Unbiased variance of d score / d x at x + e, with e normal. 0 or above, in the squared unit of the gradient. It is
    large where the gradient is sensitive to noise; it does not distinguish positive from negative evidence. `stderr` is
    the standard error of the variance.

    Args:
        x: the input.
        max_points: largest number of noisy copies per query.
        normal: function that draws standard normal numbers.
        samples: number of noisy copies.
        sigma: standard deviation of the noise, as a fraction of the input's range (largest minus smallest value).
    """
    moments = yield from _noisy_gradient_moments(x, max_points, normal, samples, sigma)
    values, stderr = variance_and_stderr(moments)
    return Attribution(values, stderr=stderr)


def _noisy_gradient_moments(
    x: Inputs, max_points: int, normal: Callable[[int, int], Tensor], samples: int, sigma: float
) -> Generator[GradientQuery, Tensor, Moments]:
    """Moments of the gradients at noisy copies of the input. All samples of the batch share the random numbers."""
    flat = x.flatten(1)
    scale = (sigma * (flat.amax(1) - flat.amin(1))).view(-1, *[1] * (x.ndim - 1))
    moments = Moments()
    for start in range(0, samples, max_points):
        noise = normal(start, min(start + max_points, samples)).unsqueeze(1)
        moments = add_samples(moments, (yield GradientQuery(x + scale * noise)))
    return moments
