"""Adaptive quadrature of a path integral: midpoint panels; the panels with the largest errors are split in three."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from seewhy.methods.queries import GradientQuery, ScoreQuery

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.types import Inputs

MAX_CACHED_GRADIENTS = 64  # of the panels with the largest errors; other gradients are computed again if needed
SPLITS_PER_ROUND = 2  # fixed, so that no map depends on the batch size
MAX_ERROR_RATIO = 5  # errors of panels cancel in the sum, so the sum of their absolute values may be this much larger


@dataclass
class Panel:
    """An interval [a, b] of the path. The middle third of a split panel has its midpoint, so the gradient is reused."""

    a: float
    b: float
    error: Tensor  # [K] score(b) - score(a) minus its midpoint approximation
    gradient: Tensor | None  # [K, C, *S] at the midpoint


def integrate_to_tolerance(
    start_point: Inputs, difference: Inputs, sample_index: int, *, tolerance: float, initial_panels: int,
    max_gradients: int, max_points: int,
) -> Generator[GradientQuery | ScoreQuery, Tensor, tuple[Tensor, Tensor, Tensor, bool]]:  # fmt: skip
    """Mean gradient along the path of one sample, to a tolerance.

    The refinement stops when the sum of the panels' errors is at most `tolerance` times the change of the score, and
    the sum of their absolute values at most `MAX_ERROR_RATIO` times that; or when `max_gradients` are spent.

    Args:
        start_point: start of the path [1, C, *S].
        difference: end of the path minus its start [1, C, *S].
        sample_index: index of the sample in the batch.
        tolerance: largest error, as a fraction of the change of the score.
        initial_panels: number of equal panels to start with.
        max_gradients: largest number of gradients.
        max_points: largest number of points per query.

    Returns:
        The mean gradient [1, K, C, *S], the summed error [K], the sum of the absolute errors [K], and whether the
        tolerance was reached.
    """

    def points(positions: list[float]) -> Tensor:
        return start_point + start_point.new_tensor(positions).view(-1, *[1] * start_point.ndim) * difference

    def midpoint_gradients(intervals: list[tuple[float, float]]) -> Generator[Any, Tensor, Tensor]:
        gradients = []
        for start in range(0, len(intervals), max_points):
            midpoints = [(a + b) / 2 for a, b in intervals[start : start + max_points]]
            gradients += [(yield GradientQuery(points(midpoints), sample_index))[:, 0]]
        return _concatenate(gradients)

    def panel_error(gradient: Tensor, a: float, b: float, change: Tensor) -> Tensor:
        slope = (gradient.double() * difference[0].double()).flatten(1).sum(1)
        return change.double() - (b - a) * slope

    ends = [j / initial_panels for j in range(initial_panels + 1)]
    scores = (yield ScoreQuery(points(ends), sample_index))[:, 0]
    intervals = list(pairwise(ends))
    panels: list[Panel] = []
    mean: Any = 0.0
    for start in range(0, initial_panels, max_points):  # in batches, so that not all gradients are held at once
        batch = intervals[start : start + max_points]
        gradients = yield from midpoint_gradients(batch)
        for j, ((a, b), g) in enumerate(zip(batch, gradients, strict=True), start):
            panels.append(Panel(a, b, panel_error(g, a, b, scores[j + 1] - scores[j]), g))
            mean = mean + (b - a) * g
        _drop_gradients(panels)
    change = (scores[-1] - scores[0]).double().abs()
    spent = initial_panels
    while True:
        errors = _concatenate([p.error[None] for p in panels])
        error, absolute_error = errors.sum(0), errors.abs().sum(0)
        summed_reached = (error.abs() <= tolerance * change).all()
        reached = bool(summed_reached and (absolute_error <= MAX_ERROR_RATIO * tolerance * change).all())
        if reached or spent + 2 > max_gradients:
            return mean[None], error, absolute_error, reached
        worst = panels[: min(SPLITS_PER_ROUND, (max_gradients - spent) // 2)]
        del panels[: len(worst)]
        dropped = [(p.a, p.b) for p in worst if p.gradient is None]
        thirds = [[p.a, p.a + (p.b - p.a) / 3, p.b - (p.b - p.a) / 3, p.b] for p in worst]
        outer = [interval for t in thirds for interval in ((t[0], t[1]), (t[2], t[3]))]
        new = yield from midpoint_gradients(dropped + outer)
        spent += len(new)
        recomputed, outer_gradients = list(new[: len(dropped)]), list(new[len(dropped) :])
        scores = (yield ScoreQuery(points([position for t in thirds for position in t]), sample_index))[:, 0]
        for j, (panel, t) in enumerate(zip(worst, thirds, strict=True)):
            middle = recomputed.pop(0) if panel.gradient is None else panel.gradient
            mean = mean - (panel.b - panel.a) * middle
            for i, g in enumerate((outer_gradients[2 * j], middle, outer_gradients[2 * j + 1])):
                a, b = t[i], t[i + 1]
                panels.append(Panel(a, b, panel_error(g, a, b, scores[4 * j + i + 1] - scores[4 * j + i]), g))
                mean = mean + (b - a) * g
        _drop_gradients(panels)


def _drop_gradients(panels: list[Panel]) -> None:
    """Sort the panels by error, largest first, and keep the gradients of the first `MAX_CACHED_GRADIENTS` only."""
    panels.sort(key=lambda p: -float(p.error.abs().max()))
    for panel in panels[MAX_CACHED_GRADIENTS:]:
        panel.gradient = None


def _concatenate(parts: list[Tensor]) -> Tensor:
    import torch

    return torch.cat(parts)
