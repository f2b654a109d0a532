"""The perturbation methods on the small network; masked values are replaced by the mean of the channel."""

from itertools import product
from math import comb

import numpy as np


def _masked_sample(sample, mask):
    """The sample with the fraction `mask` [H, W] of each value replaced by the mean of the channel."""
    mean = sample.mean(axis=(1, 2), keepdims=True)
    return sample * (1 - mask) + mean * mask


def _maps(network, x, targets, map_of):
    """Maps [N, K, 1, H, W] from map_of(score, size) -> [H, W], where score(mask) is the score of the masked sample."""
    maps = np.zeros((*targets.shape, 1, *x.shape[2:]))
    for n, k in np.ndindex(*targets.shape):
        score = lambda mask, n=n, k=k: network.forward(_masked_sample(x[n], mask))[2][targets[n, k]]  # noqa: E731
        maps[n, k, 0] = map_of(score, x.shape[2:])
    return maps


def occlusion(network, x, targets, *, sides=(1, 2), steps=(1, 1)):
    """Zeiler and Fergus 2014, section 4.2: windows from 0 on, the last clipped at the border; mean over windows."""

    def map_of(score, size):
        total, coverage = np.zeros(size), np.zeros(size)
        unmasked = score(np.zeros(size))
        starts = []
        for length, side, step in zip(size, sides, steps, strict=True):
            axis_starts = [0]
            while axis_starts[-1] + side < length:
                axis_starts.append(axis_starts[-1] + step)
            starts.append(axis_starts)
        for top, left in product(*starts):
            mask = np.zeros(size)
            mask[top : top + sides[0], left : left + sides[1]] = 1
            total += mask * (unmasked - score(mask))
            coverage += mask
        return total / coverage

    return _maps(network, x, targets, map_of)


def feature_ablation(network, x, targets, *, segments):
    """The drop of the score when one segment is masked."""

    def map_of(score, size):
        drops = np.zeros(size)
        for label in np.unique(segments):
            mask = (segments == label).astype(float)
            drops += mask * (score(np.zeros(size)) - score(mask))
        return drops

    return _maps(network, x, targets, map_of)


def lime(network, x, targets, *, segments, kept):
    """Ribeiro et al. 2016, eq. 1: weighted ridge regression, solved as one augmented least-squares problem."""

    def map_of(score, size):
        y = np.array([score(1.0 - z[segments]) for z in kept])
        weights = np.exp(-(((1 - np.sqrt(kept.mean(axis=1))) / 0.25) ** 2))
        columns = np.hstack([kept, np.ones((len(kept), 1))]) * np.sqrt(weights)[:, None]
        penalty = np.eye(kept.shape[1], kept.shape[1] + 1)  # not on the intercept
        augmented = np.vstack([columns, penalty])
        right_side = np.concatenate([y * np.sqrt(weights), np.zeros(kept.shape[1])])
        return np.linalg.lstsq(augmented, right_side, rcond=None)[0][:-1][segments]

    return _maps(network, x, targets, map_of)


def rise_masks(draws, cells):
    """Soft masks of 6 × 9 from uniform numbers [M, 2 + (cells + 1)²]: two shifts, and a value per cell of a grid."""
    masks = []
    height, width = -(-6 // cells), -(-9 // cells)
    for draw in draws:
        grid = (draw[2:] < 0.5).reshape(cells + 1, cells + 1)
        large = np.zeros(((cells + 1) * height, (cells + 1) * width))
        for i, j in np.ndindex(*large.shape):  # aligned pixel centers, repeated borders
            p, q = (i + 0.5) / height - 0.5, (j + 0.5) / width - 0.5
            for a in range(cells + 1):
                for b in range(cells + 1):
                    inside = [min(max(v, 0), cells) for v in (p, q)]
                    large[i, j] += max(0, 1 - abs(inside[0] - a)) * max(0, 1 - abs(inside[1] - b)) * grid[a, b]
        top, left = int(draw[0] * height), int(draw[1] * width)
        masks.append(large[top : top + 6, left : left + 9])
    return np.array(masks)


def rise(network, x, targets, *, masks):
    """Petsiuk et al. 2018, eq. 6, over masks and their complements: mean score where unmasked, minus the mean score."""

    def map_of(score, size):
        kept = [*masks, *(1 - m for m in masks)]
        y = [score(1 - m) for m in kept]
        weighted = sum(v * m for v, m in zip(y, kept, strict=True))
        return weighted / sum(kept) - np.mean(y)

    return _maps(network, x, targets, map_of)


def kernel_shap(network, x, targets, *, segments):
    """Shapley 1953, by definition: mean gain over all coalitions, weighted by the number of orders for each."""
    count = int(segments.max()) + 1

    def map_of(score, size):
        value = {z: score(1.0 - np.array(z)[segments]) for z in product((0, 1), repeat=count)}
        shapley = np.zeros(count)
        for z, v in value.items():
            for f in range(count):
                if not z[f]:
                    joined = (*z[:f], 1, *z[f + 1 :])
                    shapley[f] += (value[joined] - v) / (count * comb(count - 1, sum(z)))
        return shapley[segments]

    return _maps(network, x, targets, map_of)


def shapley_sampling(network, x, targets, *, segments, orders):
    """Castro et al. 2009, section 3: mean over the orders of v(predecessors and the segment) - v(predecessors)."""
    count = int(segments.max()) + 1

    def map_of(score, size):
        shapley = np.zeros(count)
        for order in orders:
            for position, f in enumerate(order):
                predecessors = np.isin(segments, order[:position])
                shapley[f] += score(1.0 - (predecessors | (segments == f))) - score(1.0 - predecessors)
        return (shapley / len(orders))[segments]

    return _maps(network, x, targets, map_of)
