"""The gradient family."""

import numpy as np

from .network import plain


def _each(network, x, targets, one):
    return np.stack([[one(sample, target) for target in row] for sample, row in zip(x, targets, strict=True)])


def gradient(network, x, targets):
    """Simonyan et al. 2014: w = dS_c / dI."""
    return _each(network, x, targets, lambda sample, c: network.backward(sample, c, plain))


def input_x_gradient(network, x, targets):
    """Shrikumar et al. 2016: each input times its gradient."""
    return x[:, None] * gradient(network, x, targets)


def guided_backprop(network, x, targets):
    """Springenberg et al. 2015, figure 1: R = (X > 0) (R' > 0) R'; a ReLU6 is also shut above 6."""
    return _each(
        network,
        x,
        targets,
        lambda sample, c: network.backward(
            sample, c, lambda pre, arriving, top: arriving if 0 < pre < top and arriving > 0 else 0.0
        ),
    )


def zeiler_fergus(network, x, targets):
    """Zeiler and Fergus 2014: R = (R' > 0) R'."""
    return _each(
        network,
        x,
        targets,
        lambda sample, c: network.backward(sample, c, lambda pre, arriving, top: max(arriving, 0.0)),
    )


def integrated_gradients(network, x, targets, *, baseline=0.0, steps=6):
    """Sundararajan et al. 2017, eq. 1 by the midpoint rule: (x - b) · mean of the gradients at the middles."""
    total = 0.0
    for j in range(steps):
        total = total + gradient(network, baseline + (j + 0.5) / steps * (x - baseline), targets) / steps
    return (x - baseline)[:, None] * total


def _noisy_gradients(network, x, targets, noise, sigma):
    """The gradient at x + e for each draw; sigma is a share of each sample's range."""
    found = []
    for e in noise:
        copies = np.stack([sample + sigma * (sample.max() - sample.min()) * e for sample in x])
        found.append(gradient(network, copies, targets))
    return found


def smoothgrad(network, x, targets, *, noise, sigma):
    """Smilkov et al. 2017, section 3: the mean of the gradients at noisy copies."""
    total = 0.0
    for g in _noisy_gradients(network, x, targets, noise, sigma):
        total = total + g
    return total / len(noise)


def vargrad(network, x, targets, *, noise, sigma):
    """Adebayo et al. 2018: the variance of the gradients at noisy copies, unbiased."""
    found = _noisy_gradients(network, x, targets, noise, sigma)
    middle = sum(found) / len(found)
    return sum((g - middle) ** 2 for g in found) / (len(found) - 1)


def expected_gradients(network, x, targets, *, references, at):
    """Erion et al. 2021, eq. 3: the mean of (x - b) times the gradient at b + a (x - b), over given b and a."""
    total = 0.0
    for b, a in zip(references, at, strict=True):
        total = total + (x - b)[:, None] * gradient(network, b + a * (x - b), targets)
    return total / len(at)
