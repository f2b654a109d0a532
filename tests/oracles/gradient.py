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
