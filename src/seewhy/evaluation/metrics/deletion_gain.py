"""Deletion gain: how much faster the score falls with deletion by a map than with deletion by its shuffled copy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from seewhy import maps

from .perturbation_curves import FillFunction, ScoreFunction, area_under_curve, descending_ranks

if TYPE_CHECKING:
    from torch import Tensor

PATCHES_PER_AXIS = 7  # of the shuffled map


def deletion_gain(
    score_fn: ScoreFunction, fill_fn: FillFunction, heatmaps: Tensor, size: torch.Size, steps: int, seed: int
) -> np.ndarray:
    """Area under the deletion curve of the patch-shuffled map minus that of the map itself.

    A positive gain means that the order of the map is informative. The deletion curve is that of Petsiuk et al. 2018,
    section 4.1; the shuffled map has the same values in other places.

    Args:
        score_fn: score of perturbed inputs: the class probability, or the target value where there are no classes.
        fill_fn: replaces masked positions. `seewhy.check` fills with the blurred input: compared with a constant fill,
            the gain of informative maps is about twice as large, and that of noise is not.
        heatmaps: [N, *S'], one map per input.
        size: *S of the input.
        steps: number of deletion steps.
        seed: of the shuffling and of the order of equal values.

    Returns:
        [N].
    """
    resampled = heatmaps.unsqueeze(1).double()
    resampled = (resampled if resampled.shape[2:] == size else maps.resample(resampled, size, "linear"))[:, 0]
    generator = np.random.default_rng((seed, 3))
    fractions = [(step / (steps + 1)) ** 1.5 for step in range(1, steps + 1)]  # more steps at small fractions
    areas = []
    for guide in (torch.stack([_shuffle_patches(m, generator) for m in resampled]), resampled):
        ranks = descending_ranks(guide, generator)
        areas.append(area_under_curve(score_fn, (fill_fn(ranks < fraction) for fraction in fractions)))
    gains: np.ndarray = (areas[0] - areas[1]).numpy()
    return gains


def _shuffle_patches(heatmap: Tensor, generator: np.random.Generator) -> Tensor:
    """Permute the patches of a map [*S], about seven per axis; an incomplete patch at a border is kept in place."""
    sides = [max(1, s // PATCHES_PER_AXIS) for s in heatmap.shape]
    counts = [s // side for s, side in zip(heatmap.shape, sides, strict=True)]
    inner = heatmap[tuple(slice(0, c * side) for c, side in zip(counts, sides, strict=True))]
    blocks = inner.reshape([v for pair in zip(counts, sides, strict=True) for v in pair])
    axes = len(sides)
    patches = blocks.permute([*range(0, 2 * axes, 2), *range(1, 2 * axes, 2)]).reshape(-1, *sides)
    patches = patches[torch.from_numpy(generator.permutation(len(patches)))]
    reassembled = (
        patches.reshape(*counts, *sides).permute([v for a in range(axes) for v in (a, axes + a)]).reshape(inner.shape)
    )
    shuffled = heatmap.clone()
    shuffled[tuple(slice(0, s) for s in inner.shape)] = reassembled
    return shuffled
