"""A path integral to a tolerance: panels of one midpoint each, the worst split in three."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from seewhy.types import GradientsAt, ScoresAt

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.types import Inputs

KEPT = 64  # gradients of the worst panels that stay in memory; another one that must be split is computed again
WORST = 2  # pieces split at once; fixed, so that no map depends on the batch
SLACK = 5  # the errors of single panels cancel in the sum: their absolute sum may be this much larger


@dataclass
class Panel:
    """A piece of the path from a to b. The middle third of a split panel has its middle: no gradient is lost."""

    a: float
    b: float
    error: Tensor  # [K] what the midpoint misses of score(b) - score(a)
    gradient: Tensor | None  # [K, C, *S] at the middle


def refine(
    begin: Inputs, way: Inputs, row: int, *, tolerance: float, first: int, limit: int, block: int
) -> Generator[GradientsAt | ScoresAt, Tensor, tuple[Tensor, Tensor, Tensor, bool]]:
    """The mean gradient [1, K, C, *S] along one sample's path.

    Stops when the summed error is at most `tolerance` of the score's change, and the errors of the panels, without
    their signs, at most `SLACK` times that; or when `limit` gradients are spent.

    Returns:
        The mean gradient, the summed error [K], the errors without signs [K], whether the tolerance was reached.
    """

    def at(positions: list[float]) -> Tensor:
        return begin + begin.new_tensor(positions).view(-1, *[1] * begin.ndim) * way

    def middles(pieces: list[tuple[float, float]]) -> Generator[Any, Tensor, Tensor]:
        gradients = []
        for start in range(0, len(pieces), block):
            part = [(a + b) / 2 for a, b in pieces[start : start + block]]
            gradients += [(yield GradientsAt(at(part), row))[:, 0]]
        return _joined(gradients)

    def missing(gradient: Tensor, a: float, b: float, change: Tensor) -> Tensor:
        along = (gradient.double() * way[0].double()).flatten(1).sum(1)
        return change.double() - (b - a) * along

    ends = [j / first for j in range(first + 1)]
    scores = (yield ScoresAt(at(ends), row))[:, 0]
    pieces = list(pairwise(ends))
    panels: list[Panel] = []
    mean: Any = 0.0
    for start in range(0, first, block):  # piece by piece, so that not all gradients are held at once
        some = pieces[start : start + block]
        gradients = yield from middles(some)
        for j, ((a, b), g) in enumerate(zip(some, gradients, strict=True), start):
            panels.append(Panel(a, b, missing(g, a, b, scores[j + 1] - scores[j]), g))
            mean = mean + (b - a) * g
        _forget(panels)
    change = (scores[-1] - scores[0]).double().abs()
    spent = first
    while True:
        errors = _joined([p.error[None] for p in panels])
        net, rough = errors.sum(0), errors.abs().sum(0)
        reached = bool((net.abs() <= tolerance * change).all() and (rough <= SLACK * tolerance * change).all())
        if reached or spent + 2 > limit:
            return mean[None], net, rough, reached
        worst = panels[: min(WORST, (limit - spent) // 2)]
        del panels[: len(worst)]
        lost = [(p.a, p.b) for p in worst if p.gradient is None]
        thirds = [[p.a, p.a + (p.b - p.a) / 3, p.b - (p.b - p.a) / 3, p.b] for p in worst]
        new = yield from middles(lost + [piece for t in thirds for piece in ((t[0], t[1]), (t[2], t[3]))])
        spent += len(new)
        again, sides = list(new[: len(lost)]), list(new[len(lost) :])
        values = (yield ScoresAt(at([position for t in thirds for position in t]), row))[:, 0]
        for j, (panel, t) in enumerate(zip(worst, thirds, strict=True)):
            middle = again.pop(0) if panel.gradient is None else panel.gradient
            mean = mean - (panel.b - panel.a) * middle
            for i, g in enumerate((sides[2 * j], middle, sides[2 * j + 1])):
                a, b = t[i], t[i + 1]
                panels.append(Panel(a, b, missing(g, a, b, values[4 * j + i + 1] - values[4 * j + i]), g))
                mean = mean + (b - a) * g
        _forget(panels)


def _forget(panels: list[Panel]) -> None:
    """Worst first; only the first few keep their gradients."""
    panels.sort(key=lambda p: -float(p.error.abs().max()))
    for panel in panels[KEPT:]:
        panel.gradient = None


def _joined(parts: list[Tensor]) -> Tensor:
    import torch

    return torch.cat(parts)
