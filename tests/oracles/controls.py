"""Maps that know nothing of the network."""

import numpy as np


def random(network, x, targets, *, noise):
    """The same noise everywhere."""
    return np.broadcast_to(noise, (*targets.shape, 1, *x.shape[2:]))


def edges(network, x, targets):
    """Sobel 1968: slopes 3 × 3, edges reflected; the slopes' root mean square, channels summed."""
    found = np.zeros((*targets.shape, 1, *x.shape[2:]))
    smooth, slope = np.array([1, 2, 1]) / 4, np.array([-1, 0, 1])
    for n in range(len(x)):
        for channel in x[n]:
            padded = np.pad(channel, 1, mode="symmetric")
            for i, j in np.ndindex(*channel.shape):
                patch = padded[i : i + 3, j : j + 3]
                down, right = slope @ patch @ smooth, smooth @ patch @ slope
                found[n, :, 0, i, j] += np.sqrt((down**2 + right**2) / 2)
    return found


def centre(network, x, targets):
    """exp(-r²/2), r in quarters of each side from the middle."""
    found = np.zeros((*targets.shape, 1, *x.shape[2:]))
    tall, wide = x.shape[2:]
    for i, j in np.ndindex(tall, wide):
        r = ((i - (tall - 1) / 2) / (tall / 4)) ** 2 + ((j - (wide - 1) / 2) / (wide / 4)) ** 2
        found[:, :, 0, i, j] = np.exp(-r / 2)
    return found
