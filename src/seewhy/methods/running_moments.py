"""Mean, variance and their standard errors, accumulated over batches: memory does not grow with the sample count."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Moments(NamedTuple):
    """Sample count, and sums of the first four powers of the differences from a fixed shift near the mean."""

    n_samples: int = 0
    shift: Any = 0.0
    sums: tuple[Any, Any, Any, Any] = (0.0, 0.0, 0.0, 0.0)


def add_samples(moments: Moments, samples: Tensor) -> Moments:
    """The moments after adding the samples [M, ...]."""
    shift = samples.mean(0) if moments.n_samples == 0 else moments.shift
    difference = samples - shift
    powers = (difference, difference**2, difference**3, difference**4)
    sums = tuple(s + p.sum(0) for s, p in zip(moments.sums, powers, strict=True))
    return Moments(moments.n_samples + len(samples), shift, sums)


def mean_and_stderr(moments: Moments) -> tuple[Tensor, Tensor]:
    """The sample mean and its standard error."""
    n, (s1, *_) = moments.n_samples, moments.sums
    return moments.shift + s1 / n, (variance_and_stderr(moments)[0] / n).sqrt()


def variance_and_stderr(moments: Moments) -> tuple[Tensor, Tensor]:
    """The unbiased sample variance and its standard error.

    The standard error is sqrt((m4 - (n-3)/(n-1) s^4) / n), with s^2 the variance and m4 the fourth central moment.
    """
    n, (s1, s2, s3, s4) = moments.n_samples, moments.sums
    d = s1 / n
    variance = ((s2 - n * d**2) / (n - 1)).clamp(min=0)
    fourth = (s4 - 4 * d * s3 + 6 * d**2 * s2 - 3 * n * d**4) / n
    return variance, ((fourth - (n - 3) / (n - 1) * variance**2).clamp(min=0) / n).sqrt()
