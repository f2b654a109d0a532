"""The controls: maps that do not depend on the network."""

import numpy as np


def random(network, x, targets, *, noise):
    """The given noise, for every sample and target."""
    return np.broadcast_to(noise, (*targets.shape, 1, *x.shape[2:]))


def edges(network, x, targets):
    """Sobel 1968: 3 × 3 derivatives with reflected borders; root mean square of both, summed over channels."""
    maps = np.zeros((*targets.shape, 1, *x.shape[2:]))
    smoothing, derivative = np.array([1, 2, 1]) / 4, np.array([-1, 0, 1])
    for n in range(len(x)):
        for channel in x[n]:
            padded = np.pad(channel, 1, mode="symmetric")
            for i, j in np.ndindex(*channel.shape):
                patch = padded[i : i + 3, j : j + 3]
                down, right = derivative @ patch @ smoothing, smoothing @ patch @ derivative
                maps[n, :, 0, i, j] += np.sqrt((down**2 + right**2) / 2)
    return maps


def centre(network, x, targets):
    """exp(-r²/2), with r the distance from the middle in quarters of each side."""
    maps = np.zeros((*targets.shape, 1, *x.shape[2:]))
    height, width = x.shape[2:]
    for i, j in np.ndindex(height, width):
        r = ((i - (height - 1) / 2) / (height / 4)) ** 2 + ((j - (width - 1) / 2) / (width / 4)) ** 2
        maps[:, :, 0, i, j] = np.exp(-r / 2)
    return maps
