"""The gradient methods."""

import numpy as np

from .network import plain_rule


def _per_target(network, x, targets, attribution):
    """Stack attribution(sample, target) over samples and targets."""
    return np.stack([[attribution(sample, target) for target in row] for sample, row in zip(x, targets, strict=True)])


def gradient(network, x, targets):
    """Simonyan et al. 2014: w = dS_c / dI."""
    return _per_target(network, x, targets, lambda sample, c: network.backward(sample, c, plain_rule))


def input_x_gradient(network, x, targets):
    """Shrikumar et al. 2016: each input times its gradient."""
    return x[:, None] * gradient(network, x, targets)


def guided_backprop(network, x, targets):
    """Springenberg et al. 2015, figure 1: R = (X > 0) (R' > 0) R'; a ReLU6 is also closed above 6."""
    return _per_target(
        network,
        x,
        targets,
        lambda sample, c: network.backward(
            sample, c, lambda pre, grad_output, top: grad_output if 0 < pre < top and grad_output > 0 else 0.0
        ),
    )


def zeiler_fergus(network, x, targets):
    """Zeiler and Fergus 2014: R = (R' > 0) R'."""
    return _per_target(
        network,
        x,
        targets,
        lambda sample, c: network.backward(sample, c, lambda pre, grad_output, top: max(grad_output, 0.0)),
    )


def integrated_gradients(network, x, targets, *, baseline=0.0, steps=6):
    """Sundararajan et al. 2017, eq. 1 by the midpoint rule: (x - b) · mean of the gradients at the midpoints."""
    total = 0.0
    for j in range(steps):
        total = total + gradient(network, baseline + (j + 0.5) / steps * (x - baseline), targets) / steps
    return (x - baseline)[:, None] * total


def _noisy_gradients(network, x, targets, noise, sigma):
    """The gradient at x + sigma · range(x) · e for each noise array e; the range is that of the sample."""
    gradients = []
    for e in noise:
        copies = np.stack([sample + sigma * (sample.max() - sample.min()) * e for sample in x])
        gradients.append(gradient(network, copies, targets))
    return gradients


def smoothgrad(network, x, targets, *, noise, sigma):
    """Smilkov et al. 2017, section 3: the mean of the gradients at noisy copies."""
    total = 0.0
    for g in _noisy_gradients(network, x, targets, noise, sigma):
        total = total + g
    return total / len(noise)


def vargrad(network, x, targets, *, noise, sigma):
    """Adebayo et al. 2018, Local explanation methods, section 2: unbiased variance of gradients at noisy copies."""
    gradients = _noisy_gradients(network, x, targets, noise, sigma)
    mean = sum(gradients) / len(gradients)
    return sum((g - mean) ** 2 for g in gradients) / (len(gradients) - 1)


def expected_gradients(network, x, targets, *, references, at):
    """Erion et al. 2021, eq. 3: the mean of (x - b) times the gradient at b + a (x - b), over given b and a."""
    total = 0.0
    for b, a in zip(references, at, strict=True):
        total = total + (x - b)[:, None] * gradient(network, b + a * (x - b), targets)
    return total / len(at)


def deeplift(network, x, targets, *, baseline=0.0):
    """Shrikumar et al. 2017, eq. 3 and section 3.5.1: (x - b) times the multipliers, Δout / Δin at each rectifier."""

    def attribution(sample, target):
        reference = np.broadcast_to(baseline, sample.shape)
        return (sample - reference) * network.multipliers(sample, reference, target)

    return _per_target(network, x, targets, attribution)
