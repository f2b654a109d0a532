"""The CAM family, at the last rectified layer of the small network."""

import numpy as np

from .gradient import guided_backprop
from .network import _conv_back as back
from .network import plain

# The last layer's features A [4, H, W], clipped to 0..6, go through mean pooling and a linear head, so that
# dy_c/dA_k(i, j) = w_ck / (H W) at every position.


def _each(network, x, targets, one):
    """one(A, G, sample, target) -> [H, W], for each sample and target."""
    found = np.zeros((*targets.shape, 1, *x.shape[2:]))
    for n, k in np.ndindex(*targets.shape):
        features = np.clip(network.forward(x[n])[1], 0, 6)
        slopes = np.zeros_like(features)
        for c, i, j in np.ndindex(*features.shape):
            slopes[c, i, j] = network.w3[targets[n, k], c] / features[0].size
        found[n, k, 0] = one(features, slopes, x[n], targets[n, k])
    return found


def _sum(weights, features):
    """sum_k w_k A_k."""
    total = np.zeros(features.shape[1:])
    for c, i, j in np.ndindex(*features.shape):
        total[i, j] += weights[c] * features[c, i, j]
    return total


def _rest(network, features, target):
    """The score, from the last layer's features on."""
    return float(network.w3[target] @ np.array([f.sum() / f.size for f in features]) + network.b3[target])


def gradcam(network, x, targets):
    """Selvaraju et al. 2017, eq. 1 and 2."""
    return _each(network, x, targets, lambda a, g, _x, _t: np.maximum(_sum([s.sum() / s.size for s in g], a), 0))


def gradcam_plus_plus(network, x, targets):
    """Chattopadhay et al. 2018, eq. 19 and 13, with their quotient as it stands: G² / (2 G² + sum A G³)."""

    def one(a, g, _x, _t):
        weights = []
        for c in range(len(a)):
            weight = 0.0
            for i, j in np.ndindex(*a[c].shape):
                s = g[c, i, j]
                below = 2 * s**2 + sum(a[c][p] * s**3 for p in np.ndindex(*a[c].shape))
                weight += (s**2 / below if below else 0) * max(s, 0)
            weights.append(weight)
        return np.maximum(_sum(weights, a), 0)

    return _each(network, x, targets, one)


def hirescam(network, x, targets):
    """Draelos and Carin 2020, eq. 3."""
    return _each(network, x, targets, lambda a, g, _x, _t: sum(a[c] * g[c] for c in range(len(a))))


def layercam(network, x, targets):
    """Jiang et al. 2021, eq. 3 and 4."""
    return _each(
        network, x, targets, lambda a, g, _x, _t: np.maximum(sum(np.maximum(g[c], 0) * a[c] for c in range(len(a))), 0)
    )


def xgradcam(network, x, targets):
    """Fu et al. 2020, eq. 8."""
    return _each(
        network,
        x,
        targets,
        lambda a, g, _x, _t: _sum([(g[c] * a[c]).sum() / a[c].sum() if a[c].sum() else 0 for c in range(len(a))], a),
    )


def eigencam(network, x, targets):
    """Muhammad and Yeasin 2020, eq. 4, by power iteration on A^T A; the sign is that of more activation."""

    def one(a, _g, _x, _t):
        rows = a.reshape(len(a), -1).T
        v = np.ones(len(a))
        for _ in range(20000):
            v = rows.T @ (rows @ v)
            v = v / np.sqrt((v**2).sum())
        found = rows @ v
        return (found if found.sum() > 0 else -found).reshape(a.shape[1:])

    return _each(network, x, targets, one)


def guided_gradcam(network, x, targets):
    """Selvaraju et al. 2017, section 3.2; the layer has the input's size, so nothing is resampled."""
    return guided_backprop(network, x, targets) * gradcam(network, x, targets)


def _unit(part):
    low, high = part.min(), part.max()
    return (part - low) / (high - low) if high > low else part * 0


def fullgrad(network, x, targets):
    """Srinivas and Fleuret 2019, eq. 5; a ReLU6 that is full adds 6 where it is, which is a bias."""

    def one(a, g, sample, target):
        pre1, pre2, _ = network.forward(sample)
        open2 = g * ((pre2 > 0) & (pre2 < 6))  # at the second convolution's output
        open1 = back(open2, network.w2) * (pre1 > 0)  # at the first one's
        parts = [
            sample * network.backward(sample, target, plain),
            network.b1[:, None, None] * open1,
            network.b2[:, None, None] * open2,
            6.0 * (pre2 > 6) * g,
        ]
        return sum(_unit(np.abs(p)).sum(0) for p in parts)

    return _each(network, x, targets, one)


def scorecam(network, x, targets):
    """Wang et al. 2020, algorithm 1; the layer has the input's size, so nothing is resampled."""

    def one(a, _g, sample, target):
        scores = np.array([network.forward(sample * _unit(a[c]))[2][target] for c in range(len(a))])
        scores[[a[c].max() == a[c].min() for c in range(len(a))]] = -np.inf
        share = np.exp(scores - scores.max())
        return np.maximum(_sum(share / share.sum(), a), 0)

    return _each(network, x, targets, one)


def ablationcam(network, x, targets):
    """Ramaswamy and Desai 2020, eq. 3 and 4, without the common factor 1/y."""

    def one(a, _g, _x, target):
        falls = []
        for c in range(len(a)):
            without = a.copy()
            without[c] = 0
            falls.append(_rest(network, a, target) - _rest(network, without, target))
        return np.maximum(_sum(falls, a), 0)

    return _each(network, x, targets, one)


def recipro_cam(network, x, targets):
    """Byun and Lee 2022, eq. 2 to 4, with the Gaussian written out."""
    gaussian = {(0, 0): 1 / 4, (0, 1): 1 / 8, (1, 0): 1 / 8, (1, 1): 1 / 16}

    def one(a, _g, _x, target):
        found = np.zeros(a.shape[1:])
        for p, q in np.ndindex(*found.shape):
            mask = np.zeros_like(found)
            for i, j in np.ndindex(*found.shape):
                mask[i, j] = gaussian.get((abs(i - p), abs(j - q)), 0)
            found[p, q] = _rest(network, a * mask, target)
        return found

    return _each(network, x, targets, one)
