"""Deletion: how fast the score falls when what a map calls important is hidden first."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from seewhy import maps
from seewhy.trace import question
from seewhy.trace.forward import quiet, run
from seewhy.trace.path import resolve_baseline
from seewhy.trace.predict import probabilities

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.types import Inputs, Model

PATCHES = 7  # along each axis, for the shuffled map
BATCH = 8


def gain(
    model: Model, x: Inputs, found: Tensor, target: Any, steps: int, seed: int, advance: Callable[[int], None]
) -> np.ndarray:
    """[N]: area under the curve of deletion by the shuffled map, minus that by the map itself; above 0 is informed.

    Petsiuk et al. 2018, section 4.1, as a difference: a shuffled map has the same values in other places.
    The score is the class's probability, or the target itself where there are no classes.

    Args:
        model: who answers.
        x: the inputs.
        found: a map for each [N, *S'].
        target: the class of each [N, 1], or a function.
        steps: how many parts are hidden, one after the other.
        seed: of the shuffling, and of the order among equal values.
        advance: told of every forward.
    """
    size = x.shape[2:]
    whole = found.unsqueeze(1).double()
    whole = (whole if whole.shape[2:] == size else maps.resample(whole, size, "linear"))[:, 0]
    draw = np.random.default_rng((seed, 3))
    areas = [
        _area(model, x, torch.stack([one(m, draw) for m in whole]), target, steps, draw, advance)
        for one in (_shuffled, lambda m, _draw: m)
    ]
    better: np.ndarray = areas[0] - areas[1]
    return better


def _area(
    model: Model, x: Inputs, order_by: Tensor, target: Any, steps: int, draw: np.random.Generator,
    advance: Callable[[int], None],
) -> np.ndarray:  # fmt: skip
    """[N]: the mean score over the steps."""
    # blurred parts are less foreign to a network than grey ones: real maps stand out about twice as far, noise does not
    fill, _ = resolve_baseline(model, x, 0.0 if model.layout == "NF" else "blur")
    flat = order_by.flatten(1)
    ties = torch.from_numpy(draw.permuted(np.tile(np.arange(flat.shape[1]), (len(flat), 1)), axis=1))
    by_tie = ties.argsort(1)
    order = by_tie.gather(1, (-flat).gather(1, by_tie).argsort(dim=1, stable=True))  # equal values in random order
    place = order.argsort(1).view(len(x), 1, *x.shape[2:]).to(x.device)
    total = np.zeros(len(x))
    with quiet(model), torch.no_grad():
        score = "logit" if callable(target) or _bare(model, x) else "probability"
        for step in range(1, steps + 1):
            share = (step / (steps + 1)) ** 1.5  # more steps where little is hidden
            hidden = torch.where(place < flat.shape[1] * share, fill, x)
            for start in range(0, len(x), BATCH):
                part = slice(start, start + BATCH)
                done = run(model, hidden[part], graph=False)
                rows = target if callable(target) else target[part]
                asked = question.resolve(rows, score, model, done.output, slice(None))
                answers = question.scored(asked, done.explained, model, rescue=False)
                total[part] += question.values_of(answers)[:, 0].double().cpu().numpy()
                advance(len(hidden[part]))
    return total / steps


def _bare(model: Model, x: Inputs) -> bool:
    """Whether the scores are no logits of several classes."""
    output = run(model, x[:1], graph=False).output
    shares, already = probabilities(output, model)
    return shares is None or already or shares.shape[1] < 2


def _shuffled(one: Tensor, draw: np.random.Generator) -> Tensor:
    """A map [*S] with its patches, about seven along each axis, in another order; a rest at the borders is kept."""
    sides = [max(1, s // PATCHES) for s in one.shape]
    counts = [s // side for s, side in zip(one.shape, sides, strict=True)]
    inner = one[tuple(slice(0, c * side) for c, side in zip(counts, sides, strict=True))]
    split = inner.reshape([v for pair in zip(counts, sides, strict=True) for v in pair])
    axes = len(sides)
    grid = split.permute([*range(0, 2 * axes, 2), *range(1, 2 * axes, 2)]).reshape(-1, *sides)
    grid = grid[torch.from_numpy(draw.permutation(len(grid)))]
    back = grid.reshape(*counts, *sides).permute([v for a in range(axes) for v in (a, axes + a)]).reshape(inner.shape)
    found = one.clone()
    found[tuple(slice(0, s) for s in inner.shape)] = back
    return found
