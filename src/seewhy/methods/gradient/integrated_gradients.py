"""Integrated gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, cast

from seewhy.errors import OptionError
from seewhy.methods.queries import Attribution, GradientQuery, ScoreQuery
from seewhy.types import Baseline, Range

from .adaptive_quadrature import integrate_to_tolerance

if TYPE_CHECKING:
    from collections.abc import Generator

    from torch import Tensor

    from seewhy.types import Inputs, Scores

QuadratureRule = Literal["midpoint", "gauss", "trapezoid", "endpoints"]


def integrated_gradients(
    x: Inputs,
    score: Scores,
    max_points: int,
    *,
    baseline: Baseline = None,
    steps: Annotated[int, Range(1)] = 50,
    rule: QuadratureRule = "midpoint",
    tolerance: Annotated[float | None, Range(1e-6, 1)] = None,
    max_steps: Annotated[int, Range(1)] = 1000,
) -> Generator[GradientQuery | ScoreQuery, Tensor, Attribution]:
    """Integrated gradients: (x - baseline) times the mean gradient on the straight line from baseline to x.

    (x - b) · ∫ d score / d x at b + a (x - b), a from 0 to 1. Signed, in units of the score. The values sum to
    score - baseline score; `convergence_delta` is the error of this sum. What the map can tell is debated: it depends
    on the choice of the baseline, and its details are those of the input, because it is multiplied by x - b
    (Sturmfels et al. 2020, Visualizing the impact of feature attribution baselines).

    Args:
        x: the input.
        score: the target scores of the input.
        max_points: largest number of points per query.
        baseline: start of the path: a number or tensor in the network's own units, "mean" or "black".
        steps: number of points on the path; more points are more exact and slower.
        rule: quadrature rule: midpoint (best for ReLU networks), gauss (best for smooth networks), trapezoid, or
            endpoints (both ends with full weight, as in MATLAB's example).
        tolerance: largest |convergence_delta|, as a fraction of score - baseline score. Starting from `steps`
            midpoints, the intervals with the largest errors are split until this is reached and `extras["map_error"]`,
            the sum of the absolute errors of all intervals, is at most five times as large. All K targets share the
            points.
        max_steps: largest number of points if a tolerance is given.

    Raises:
        OptionError: a tolerance with another rule than midpoint, or too few steps for the rule.
    """
    start_point = cast("Tensor", baseline)  # the family has resolved it to a tensor like x
    difference = x - start_point
    if tolerance is not None:
        if rule != "midpoint":
            raise OptionError(f"rule={rule!r}: a tolerance refines midpoints; leave the rule out.")
        return (
            yield from _integrate_samples(start_point, difference, steps, tolerance, max_steps, max_points * len(x))
        )
    positions, weights = quadrature_nodes(steps, rule)
    mean: Tensor | float = 0.0
    for start in range(0, steps, max_points):
        batch = slice(start, start + max_points)
        alpha, weight = (x.new_tensor(part[batch]).view(-1, *[1] * x.ndim) for part in (positions, weights))
        gradients = yield GradientQuery(start_point + alpha * difference)
        mean = mean + (weight.unsqueeze(2) * gradients).sum(0)
    values = difference.unsqueeze(1) * mean
    (baseline_score,) = yield ScoreQuery(start_point[None])
    delta = values.double().flatten(2).sum(2) - (score.double() - baseline_score.double())
    return Attribution(values, convergence_delta=delta)


def _integrate_samples(
    start_point: Inputs, difference: Inputs, steps: int, tolerance: float, max_gradients: int, max_points: int
) -> Generator[GradientQuery | ScoreQuery, Tensor, Attribution]:
    """Integrate to a tolerance, sample by sample: each sample has its own intervals and depends on no other sample."""
    import torch

    results = []
    for n in range(len(difference)):
        sample = slice(n, n + 1)
        results.append((
            yield from integrate_to_tolerance(
                start_point[sample], difference[sample], n, tolerance=tolerance, initial_panels=steps,
                max_gradients=max_gradients, max_points=max_points,
            )
        ))  # fmt: skip
    means, errors, absolute_errors, reached = zip(*results, strict=True)
    extras = {"map_error": torch.stack(absolute_errors), "reached": torch.tensor(reached)}
    notes = () if all(reached) else (
        f"{max_gradients} steps were spent before the tolerance {tolerance:g} was reached: see extras['reached']",
    )  # fmt: skip
    return Attribution(difference.unsqueeze(1) * torch.cat(means), -torch.stack(errors), extras=extras, notes=notes)


def quadrature_nodes(steps: int, rule: QuadratureRule) -> tuple[list[float], list[float]]:
    """Positions in [0, 1] and weights of a quadrature rule; the weights sum to 1.

    Raises:
        OptionError: fewer than 2 steps for a rule that uses both ends.
    """
    if rule == "midpoint":
        return [(j + 0.5) / steps for j in range(steps)], [1 / steps] * steps
    if rule == "gauss":
        from numpy.polynomial.legendre import leggauss

        roots, weights = leggauss(steps)
        return ((roots + 1) / 2).tolist(), (weights / 2).tolist()
    if steps < 2:
        raise OptionError(f"steps={steps}: rule={rule!r} uses both ends, so at least 2 are required.")
    positions = [j / (steps - 1) for j in range(steps)]
    if rule == "endpoints":
        return positions, [1 / steps] * steps
    end_weight = 0.5 / (steps - 1)
    return positions, [end_weight, *[1 / (steps - 1)] * (steps - 2), end_weight]
