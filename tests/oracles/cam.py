"""The CAM methods at the last rectified layer of the small network."""

import numpy as np

from .gradient import guided_backprop
from .network import conv_backward, plain_rule

# The last layer's activations A [4, H, W], clipped to [0, 6], are followed by mean pooling and a linear head, so that
# dy_c/dA_k(i, j) = w_ck / (H W) at every position.


def _cam_maps(network, x, targets, cam):
    """Maps [N, K, 1, H, W] from cam(A, G, sample, target) -> [H, W]; G is the gradient of the score at A."""
    maps = np.zeros((*targets.shape, 1, *x.shape[2:]))
    for n, k in np.ndindex(*targets.shape):
        activations = np.clip(network.forward(x[n])[1], 0, 6)
        gradients = np.zeros_like(activations)
        for c, i, j in np.ndindex(*activations.shape):
            gradients[c, i, j] = network.w3[targets[n, k], c] / activations[0].size
        maps[n, k, 0] = cam(activations, gradients, x[n], targets[n, k])
    return maps


def _weighted_sum(weights, activations):
    """sum_k w_k A_k."""
    total = np.zeros(activations.shape[1:])
    for c, i, j in np.ndindex(*activations.shape):
        total[i, j] += weights[c] * activations[c, i, j]
    return total


def _head_score(network, activations, target):
    """The score, computed from the last layer's activations."""
    return float(network.w3[target] @ np.array([a.sum() / a.size for a in activations]) + network.b3[target])


def cam(network, x, targets):
    """Zhou et al. 2016, eq. 2: sum_k w_k^c f_k(x, y), with the weights of the linear layer; no ReLU."""
    return _cam_maps(network, x, targets, lambda a, _g, _x, target: _weighted_sum(network.w3[target], a))


def gradcam(network, x, targets):
    """Selvaraju et al. 2017, eq. 1 and 2."""
    return _cam_maps(
        network, x, targets, lambda a, g, _x, _t: np.maximum(_weighted_sum([s.sum() / s.size for s in g], a), 0)
    )


def gradcam_plus_plus(network, x, targets):
    """Chattopadhay et al. 2018, eq. 19 and 13, with the quotient as in the paper: G² / (2 G² + sum A G³)."""

    def cam(a, g, _x, _t):
        weights = []
        for c in range(len(a)):
            weight = 0.0
            for i, j in np.ndindex(*a[c].shape):
                s = g[c, i, j]
                denominator = 2 * s**2 + sum(a[c][p] * s**3 for p in np.ndindex(*a[c].shape))
                weight += (s**2 / denominator if denominator else 0) * max(s, 0)
            weights.append(weight)
        return np.maximum(_weighted_sum(weights, a), 0)

    return _cam_maps(network, x, targets, cam)


def hirescam(network, x, targets):
    """Draelos and Carin 2020, eq. 3."""
    return _cam_maps(network, x, targets, lambda a, g, _x, _t: sum(a[c] * g[c] for c in range(len(a))))


def layercam(network, x, targets):
    """Jiang et al. 2021, eq. 3 and 4."""
    return _cam_maps(
        network, x, targets, lambda a, g, _x, _t: np.maximum(sum(np.maximum(g[c], 0) * a[c] for c in range(len(a))), 0)
    )


def xgradcam(network, x, targets):
    """Fu et al. 2020, eq. 8."""
    return _cam_maps(
        network,
        x,
        targets,
        lambda a, g, _x, _t: _weighted_sum(
            [(g[c] * a[c]).sum() / a[c].sum() if a[c].sum() else 0 for c in range(len(a))], a
        ),
    )


def eigencam(network, x, targets):
    """Muhammad and Yeasin 2020, eq. 4, by power iteration on A^T A; the sign makes the sum positive."""

    def cam(a, _g, _x, _t):
        positions = a.reshape(len(a), -1).T
        v = np.ones(len(a))
        for _ in range(20000):
            v = positions.T @ (positions @ v)
            v = v / np.sqrt((v**2).sum())
        projection = positions @ v
        return (projection if projection.sum() > 0 else -projection).reshape(a.shape[1:])

    return _cam_maps(network, x, targets, cam)


def guided_gradcam(network, x, targets):
    """Selvaraju et al. 2017, section 3.2; the layer has the input's size, so nothing is resampled."""
    return guided_backprop(network, x, targets) * gradcam(network, x, targets)


def _rescale(part):
    low, high = part.min(), part.max()
    return (part - low) / (high - low) if high > low else part * 0


def fullgrad(network, x, targets):
    """Srinivas and Fleuret 2019, eq. 5; where a ReLU6 is saturated, its constant output 6 is a bias."""

    def cam(a, g, sample, target):
        pre1, pre2, _ = network.forward(sample)
        gradient2 = g * ((pre2 > 0) & (pre2 < 6))  # at the second convolution's output
        gradient1 = conv_backward(gradient2, network.w2) * (pre1 > 0)  # at the first convolution's output
        parts = [
            sample * network.backward(sample, target, plain_rule),
            network.b1[:, None, None] * gradient1,
            network.b2[:, None, None] * gradient2,
            6.0 * (pre2 > 6) * g,
        ]
        return sum(_rescale(np.abs(p)).sum(0) for p in parts)

    return _cam_maps(network, x, targets, cam)


def scorecam(network, x, targets):
    """Wang et al. 2020, algorithm 1; the layer has the input's size, so nothing is resampled."""

    def cam(a, _g, sample, target):
        scores = np.array([network.forward(sample * _rescale(a[c]))[2][target] for c in range(len(a))])
        scores[[a[c].max() == a[c].min() for c in range(len(a))]] = -np.inf
        weights = np.exp(scores - scores.max())
        return np.maximum(_weighted_sum(weights / weights.sum(), a), 0)

    return _cam_maps(network, x, targets, cam)


def ablationcam(network, x, targets):
    """Ramaswamy and Desai 2020, eq. 3 and 4, without the common factor 1/y."""

    def cam(a, _g, _x, target):
        drops = []
        for c in range(len(a)):
            ablated = a.copy()
            ablated[c] = 0
            drops.append(_head_score(network, a, target) - _head_score(network, ablated, target))
        return np.maximum(_weighted_sum(drops, a), 0)

    return _cam_maps(network, x, targets, cam)


def recipro_cam(network, x, targets):
    """Byun and Lee 2022, eq. 2 to 4, with the Gaussian as a table."""
    gaussian = {(0, 0): 1 / 4, (0, 1): 1 / 8, (1, 0): 1 / 8, (1, 1): 1 / 16}

    def cam(a, _g, _x, target):
        scores = np.zeros(a.shape[1:])
        for p, q in np.ndindex(*scores.shape):
            mask = np.zeros_like(scores)
            for i, j in np.ndindex(*scores.shape):
                mask[i, j] = gaussian.get((abs(i - p), abs(j - q)), 0)
            scores[p, q] = _head_score(network, a * mask, target)
        return scores

    return _cam_maps(network, x, targets, cam)
