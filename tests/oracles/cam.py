"""The CAM family, at the last rectified layer of the small network."""

import numpy as np


def gradcam(network, x, targets):
    """Selvaraju et al. 2017, eq. 1 and 2, sum by sum; dy/dA_k(i, j) of mean pooling and a linear head."""
    found = np.zeros((*targets.shape, 1, *x.shape[2:]))
    for n, k in np.ndindex(*targets.shape):
        features = np.clip(network.forward(x[n])[1], 0, 6)
        count = features[0].size
        for c in range(len(features)):
            slope = network.w3[targets[n, k], c] / count  # the same at every position
            weight = sum(slope for _ in range(count)) / count
            for i, j in np.ndindex(*x.shape[2:]):
                found[n, k, 0, i, j] += weight * features[c, i, j]
    return np.maximum(found, 0)
