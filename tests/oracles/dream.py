"""Reference implementation of activation maximization, one picture at a time, with an explicit Fourier basis."""

import numpy as np


def dft_matrix(n):
    """Unitary matrix of the discrete Fourier transform, [frequency, position]."""
    k = np.arange(n)
    return np.exp(-2j * np.pi * np.outer(k, k) / n) / np.sqrt(n)


def dft_frequencies(n):
    """Frequency in cycles per pixel of each row of `dft_matrix`; the upper half is negative."""
    return np.array([(k if 2 * k < n else k - n) / n for k in range(n)])


def amplitudes(height, width, blur):
    """1/f, limited to one wave along the longest side, times the square root of a Gaussian's transfer function."""
    amplitude = np.zeros((height, width))
    for i, u in enumerate(dft_frequencies(height)):
        for j, v in enumerate(dft_frequencies(width)):
            f = np.hypot(u, v)
            amplitude[i, j] = np.exp(-((np.pi * f * blur) ** 2)) / max(f, 1 / max(height, width))
    return amplitude


def total_variation_gradient(z, epsilon):
    """Gradient of Σ √(dy² + dx² + epsilon²), position by position; differences beyond the border are 0."""
    gradient = np.zeros_like(z)
    for c, i, j in np.ndindex(*z.shape):
        dy = z[c, i + 1, j] - z[c, i, j] if i + 1 < z.shape[1] else 0.0
        dx = z[c, i, j + 1] - z[c, i, j] if j + 1 < z.shape[2] else 0.0
        length = np.sqrt(dy * dy + dx * dx + epsilon * epsilon)
        gradient[c, i, j] -= (dy + dx) / length
        if i + 1 < z.shape[1]:
            gradient[c, i + 1, j] += dy / length
        if j + 1 < z.shape[2]:
            gradient[c, i, j + 1] += dx / length
    return gradient


def fourier_gradient_ascent(gradient, z, *, iterations, step, shifts, blur, opponent_std):
    """Gradient ascent in the coefficients of z = colors · DFT · amplitudes · coefficients (Olah et al. 2017).

    Args:
        gradient: function z -> d activation / d z, [3, H, W].
        z: initial value.
        iterations: number of steps.
        step: root mean square change of z in the first step.
        shifts: pixels to roll by, per step.
        blur: standard deviation of the Gaussian that smooths the step.
        opponent_std: standard deviation of brightness, red minus blue, green minus both.
    """
    rows, columns, amplitude = dft_matrix(z.shape[1]), dft_matrix(z.shape[2]), amplitudes(*z.shape[1:], blur)
    opponents = [np.ones(3) / np.sqrt(3), np.array([1, 0, -1]) / np.sqrt(2), np.array([-1, 2, -1]) / np.sqrt(6)]
    color_matrix = np.stack([s * axis for s, axis in zip(opponent_std, opponents, strict=True)], 1)

    def picture(coefficients):
        channels = [(rows.conj().T @ (amplitude * c) @ columns.conj()).real for c in coefficients]
        return np.einsum("rc,cij->rij", color_matrix, np.stack(channels))

    def coefficient_gradient(g):
        mixed = np.einsum("rc,rij->cij", color_matrix, g)
        return np.stack([amplitude * (rows @ m @ columns.T) for m in mixed])

    decorrelated = np.linalg.solve(color_matrix, z.reshape(3, -1)).reshape(z.shape)
    coefficients = np.stack([rows @ channel @ columns.T / amplitude for channel in decorrelated])
    assert np.abs(picture(coefficients) - z).max() < 1e-12
    for t in range(iterations):
        rolled = np.roll(picture(coefficients), shifts[t], axis=(1, 2))
        g = np.roll(gradient(rolled), [-s for s in shifts[t]], axis=(1, 2))
        direction = coefficient_gradient(g)
        rms = np.sqrt((picture(direction) ** 2).mean())
        coefficients = coefficients + step * (1 - t / iterations) * direction / rms
    return picture(coefficients)


def pixel_gradient_ascent(gradient, z, *, iterations, step, shifts, total_variation, epsilon):
    """Gradient ascent with independent values, along the scaled gradient minus that of the total variation."""
    for t in range(iterations):
        rolled = np.roll(z, shifts[t], axis=(1, 2))
        g = np.roll(gradient(rolled), [-s for s in shifts[t]], axis=(1, 2))
        direction = g / np.sqrt((g**2).mean()) - total_variation * total_variation_gradient(z, epsilon)
        z = z + step * (1 - t / iterations) * direction / np.sqrt((direction**2).mean())
    return z
