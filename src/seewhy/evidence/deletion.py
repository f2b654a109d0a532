"""Deletion: how fast the score falls when what a map calls important is hidden first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from seewhy import maps

from .curves import Filled, Scores, area, order

if TYPE_CHECKING:
    from torch import Tensor

PATCHES = 7  # along each axis, for the shuffled map


def gain(scores: Scores, filled: Filled, found: Tensor, size: torch.Size, steps: int, seed: int) -> np.ndarray:
    """[N]: area under the curve of deletion by the shuffled map, minus that by the map itself; above 0 is informed.

    Petsiuk et al. 2018, section 4.1, as a difference: a shuffled map has the same values in other places.

    Args:
        scores: of the inputs with parts hidden; the class's probability, or the target where there are no classes.
        filled: hides; what is hidden is blurred, since blurred parts are less foreign to a network than grey ones: real
            maps stand out about twice as far, noise does not.
        found: a map for each [N, *S'].
        size: of the input, *S.
        steps: how many parts are hidden, one after the other.
        seed: of the shuffling, and of the order among equal values.
    """
    whole = found.unsqueeze(1).double()
    whole = (whole if whole.shape[2:] == size else maps.resample(whole, size, "linear"))[:, 0]
    draw = np.random.default_rng((seed, 3))
    shares = [(step / (steps + 1)) ** 1.5 for step in range(1, steps + 1)]  # more steps where little is hidden
    areas = []
    for one in (torch.stack([_shuffled(m, draw) for m in whole]), whole):
        ranked = order(one, draw)
        areas.append(area(scores, (filled(ranked < share) for share in shares)))
    better: np.ndarray = (areas[0] - areas[1]).numpy()
    return better


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
