"""Integrated gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, cast

from seewhy.errors import OptionError
from seewhy.types import Attribution, Baseline, Between, GradientsAt, ScoresAt

if TYPE_CHECKING:
    from collections.abc import Generator

    from torch import Tensor

    from seewhy.types import Inputs, Scores

Rule = Literal["midpoint", "gauss", "trapezoid", "endpoints"]


def integrated_gradients(
    x: Inputs,
    score: Scores,
    block: int,
    *,
    baseline: Baseline = None,
    steps: Annotated[int, Between(1)] = 50,
    rule: Rule = "midpoint",
) -> Generator[GradientsAt | ScoresAt, Tensor, Attribution]:
    """What each input value adds to the score on the straight way from a baseline to the input.

    (x - b) · ∫ d score / d x at b + a (x - b), a from 0 to 1. Signed, in score units. The parts sum to
    score - baseline score; `completeness` says how far they miss it.

    Args:
        x: the input.
        score: its scores.
        block: how many points fit at once.
        baseline: where the way starts: a number or tensor in the network's own units, "mean" or "black".
        steps: how many points on the way; more is smoother and slower.
        rule: midpoint (best for ReLU networks), gauss (best for smooth ones), trapezoid, or endpoints (both ends at
            full weight, as in MATLAB's example).
    """
    begin = cast("Tensor", baseline)  # the family hands it over as a tensor like x
    way = x - begin
    positions, weights = nodes(steps, rule)
    mean: Tensor | float = 0.0
    for start in range(0, steps, block):
        at, share = (x.new_tensor(part[start : start + block]).view(-1, *[1] * x.ndim) for part in (positions, weights))
        gradients = yield GradientsAt(begin + at * way)
        mean = mean + (share.unsqueeze(2) * gradients).sum(0)
    values = way.unsqueeze(1) * mean
    (baseline_score,) = yield ScoresAt(begin[None])
    missing = values.double().flatten(2).sum(2) - (score.double() - baseline_score.double())
    return Attribution(values, completeness=missing)


def nodes(steps: int, rule: Rule) -> tuple[list[float], list[float]]:
    """Positions on [0, 1] and weights, which sum to 1.

    Raises:
        OptionError: a rule with both ends was given fewer than 2 steps.
    """
    if rule == "midpoint":
        return [(j + 0.5) / steps for j in range(steps)], [1 / steps] * steps
    if rule == "gauss":
        from numpy.polynomial.legendre import leggauss

        roots, share = leggauss(steps)
        return ((roots + 1) / 2).tolist(), (share / 2).tolist()
    if steps < 2:
        raise OptionError(f"steps={steps}: rule={rule!r} uses both ends, so at least 2.")
    at = [j / (steps - 1) for j in range(steps)]
    if rule == "endpoints":
        return at, [1 / steps] * steps
    ends = 0.5 / (steps - 1)
    return at, [ends, *[1 / (steps - 1)] * (steps - 2), ends]
