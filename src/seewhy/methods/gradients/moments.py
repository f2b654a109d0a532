"""Mean, variance and their standard errors of things that come in pieces: memory does not grow with their number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Moments(NamedTuple):
    """How many, and the sums of the first four powers of their distance from a shift near the mean."""

    number: int = 0
    shift: Any = 0.0
    sums: tuple[Any, Any, Any, Any] = (0.0, 0.0, 0.0, 0.0)


def add(moments: Moments, piece: Tensor) -> Moments:
    """`moments` with the rows of `piece` [M, ...] added."""
    shift = piece.mean(0) if moments.number == 0 else moments.shift
    distance = piece - shift
    powers = (distance, distance**2, distance**3, distance**4)
    sums = tuple(s + p.sum(0) for s, p in zip(moments.sums, powers, strict=True))
    return Moments(moments.number + len(piece), shift, sums)


def mean(moments: Moments) -> tuple[Tensor, Tensor]:
    """The mean, and its standard error."""
    n, (s1, *_) = moments.number, moments.sums
    return moments.shift + s1 / n, (variance(moments)[0] / n).sqrt()


def variance(moments: Moments) -> tuple[Tensor, Tensor]:
    """The unbiased variance, and its standard error: sqrt((m4 - (n-3)/(n-1) s^4) / n), m4 the fourth central moment."""
    n, (s1, s2, s3, s4) = moments.number, moments.sums
    d = s1 / n
    spread = ((s2 - n * d**2) / (n - 1)).clamp(min=0)
    fourth = (s4 - 4 * d * s3 + 6 * d**2 * s2 - 3 * n * d**4) / n
    return spread, ((fourth - (n - 3) / (n - 1) * spread**2).clamp(min=0) / n).sqrt()
