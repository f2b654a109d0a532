"""Integrated gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, cast

from seewhy.errors import OptionError
from seewhy.types import Attribution, Baseline, Between, GradientsAt, ScoresAt

from .refine import refine

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
    tolerance: Annotated[float | None, Between(1e-6, 1)] = None,
    max_steps: Annotated[int, Between(1)] = 1000,
) -> Generator[GradientsAt | ScoresAt, Tensor, Attribution]:
    """What each input value adds to the score on the straight way from a baseline to the input.

    (x - b) · ∫ d score / d x at b + a (x - b), a from 0 to 1. Signed, in score units. The parts sum to
    score - baseline score; `completeness` says how far they miss it. What it tells is debated: it hangs on the
    baseline, and its details are the input's own, since it is multiplied by it (Sturmfels et al. 2020).

    Args:
        x: the input.
        score: its scores.
        block: how many points fit at once.
        baseline: where the way starts: a number or tensor in the network's own units, "mean" or "black".
        steps: how many points on the way; more is smoother and slower.
        rule: midpoint (best for ReLU networks), gauss (best for smooth ones), trapezoid, or endpoints (both ends at
            full weight, as in MATLAB's example).
        tolerance: go on from `steps` midpoints, splitting where the error is, until |completeness| is at most this
            share of score - baseline score, and `extras["map_error"]`, the errors of all pieces without their signs, at
            most five times that. K targets share the points, until all are good enough.
        max_steps: with a tolerance, how many points at most.
    """
    begin = cast("Tensor", baseline)  # the family hands it over as a tensor like x
    way = x - begin
    if tolerance is not None:
        if rule != "midpoint":
            raise OptionError(f"rule={rule!r}: a tolerance refines midpoints; leave the rule out.")
        return (yield from _to_tolerance(begin, way, steps, tolerance, max_steps, block * len(x)))
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


def _to_tolerance(
    begin: Inputs, way: Inputs, steps: int, tolerance: float, limit: int, block: int
) -> Generator[GradientsAt | ScoresAt, Tensor, Attribution]:
    """Sample by sample: each has its own pieces, so none depends on its neighbours."""
    import torch

    found = []
    for n in range(len(way)):
        one = slice(n, n + 1)
        found.append((
            yield from refine(begin[one], way[one], n, tolerance=tolerance, first=steps, limit=limit, block=block)
        ))  # fmt: skip
    means, net, rough, reached = zip(*found, strict=True)
    extras = {"map_error": torch.stack(rough), "reached": torch.tensor(reached)}
    notes = () if all(reached) else (
        f"{limit} steps were spent before the tolerance {tolerance:g} was reached: see extras['reached']",
    )  # fmt: skip
    return Attribution(way.unsqueeze(1) * torch.cat(means), -torch.stack(net), extras=extras, notes=notes)


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
