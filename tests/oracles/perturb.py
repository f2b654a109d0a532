"""Methods that hide parts of the input, on the small network; what is hidden is replaced by each channel's mean."""

from itertools import product
from math import comb

import numpy as np


def _filled(sample, hidden):
    """The sample with `hidden` [H, W] replaced, by a share where it is one."""
    mean = sample.mean(axis=(1, 2), keepdims=True)
    return sample * (1 - hidden) + mean * hidden


def _each(network, x, targets, one):
    found = np.zeros((*targets.shape, 1, *x.shape[2:]))
    for n, k in np.ndindex(*targets.shape):
        score = lambda hidden, n=n, k=k: network.forward(_filled(x[n], hidden))[2][targets[n, k]]  # noqa: E731
        found[n, k, 0] = one(score, x.shape[2:])
    return found


def occlusion(network, x, targets, *, sides=(1, 2), steps=(1, 1)):
    """Zeiler and Fergus 2014, section 4.2: windows from 0 on, the last cut off at the border; mean over coverings."""

    def one(score, size):
        total, covered = np.zeros(size), np.zeros(size)
        whole = score(np.zeros(size))
        starts = []
        for length, side, step in zip(size, sides, steps, strict=True):
            along = [0]
            while along[-1] + side < length:
                along.append(along[-1] + step)
            starts.append(along)
        for top, left in product(*starts):
            hidden = np.zeros(size)
            hidden[top : top + sides[0], left : left + sides[1]] = 1
            total += hidden * (whole - score(hidden))
            covered += hidden
        return total / covered

    return _each(network, x, targets, one)


def feature_ablation(network, x, targets, *, segments):
    """The fall of the score when one segment is hidden."""

    def one(score, size):
        found = np.zeros(size)
        for label in np.unique(segments):
            hidden = (segments == label).astype(float)
            found += hidden * (score(np.zeros(size)) - score(hidden))
        return found

    return _each(network, x, targets, one)


def lime(network, x, targets, *, segments, kept):
    """Ribeiro et al. 2016, eq. 1: weighted ridge regression, solved as one stacked least-squares problem."""

    def one(score, size):
        y = np.array([score(1.0 - z[segments]) for z in kept])
        weights = np.exp(-(((1 - np.sqrt(kept.mean(axis=1))) / 0.25) ** 2))
        columns = np.hstack([kept, np.ones((len(kept), 1))]) * np.sqrt(weights)[:, None]
        penalty = np.eye(kept.shape[1], kept.shape[1] + 1)  # none on the intercept
        stacked = np.vstack([columns, penalty])
        answer = np.concatenate([y * np.sqrt(weights), np.zeros(kept.shape[1])])
        return np.linalg.lstsq(stacked, answer, rcond=None)[0][:-1][segments]

    return _each(network, x, targets, one)


def rise(network, x, targets, *, masks):
    """Petsiuk et al. 2018, eq. 6, over masks and their complements: mean score where seen, minus the mean."""

    def one(score, size):
        seen = [*masks, *(1 - m for m in masks)]
        y = [score(1 - m) for m in seen]
        top = sum(v * m for v, m in zip(y, seen, strict=True))
        return top / sum(seen) - np.mean(y)

    return _each(network, x, targets, one)


def kernel_shap(network, x, targets, *, segments):
    """Shapley 1953 from the definition: the mean gain over all coalitions, weighed by how many orders lead to each."""
    count = int(segments.max()) + 1

    def one(score, size):
        value = {z: score(1.0 - np.array(z)[segments]) for z in product((0, 1), repeat=count)}
        found = np.zeros(count)
        for z, v in value.items():
            for f in range(count):
                if not z[f]:
                    joined = (*z[:f], 1, *z[f + 1 :])
                    found[f] += (value[joined] - v) / (count * comb(count - 1, sum(z)))
        return found[segments]

    return _each(network, x, targets, one)
