"""The ascent once more, slowly: in the coefficients of a Fourier basis that is written out, one picture at a time."""

import numpy as np


def waves(n):
    """The unitary matrix of the discrete Fourier transform, [frequency, place]."""
    k = np.arange(n)
    return np.exp(-2j * np.pi * np.outer(k, k) / n) / np.sqrt(n)


def frequency(n):
    """Cycles a pixel of each row of `waves`, the upper half being negative."""
    return np.array([(k if 2 * k < n else k - n) / n for k in range(n)])


def amplitudes(height, width, blur):
    """1/f, the lowest that of one wave along the longest side, and the root of a Gaussian's transfer."""
    found = np.zeros((height, width))
    for i, u in enumerate(frequency(height)):
        for j, v in enumerate(frequency(width)):
            f = np.hypot(u, v)
            found[i, j] = np.exp(-((np.pi * f * blur) ** 2)) / max(f, 1 / max(height, width))
    return found


def variation_slope(z, edge):
    """Derivative of Σ √(dy² + dx² + edge²), place by place; there is no difference beyond the last row and column."""
    slope = np.zeros_like(z)
    for c, i, j in np.ndindex(*z.shape):
        dy = z[c, i + 1, j] - z[c, i, j] if i + 1 < z.shape[1] else 0.0
        dx = z[c, i, j + 1] - z[c, i, j] if j + 1 < z.shape[2] else 0.0
        length = np.sqrt(dy * dy + dx * dx + edge * edge)
        slope[c, i, j] -= (dy + dx) / length
        if i + 1 < z.shape[1]:
            slope[c, i + 1, j] += dy / length
        if j + 1 < z.shape[2]:
            slope[c, i, j + 1] += dx / length
    return slope


def fourier_ascent(gradient, z, *, iterations, step, shifts, blur, spread):
    """z = colours · waves · amplitudes · coefficients; every step is one in the coefficients (Olah et al. 2017).

    Args:
        gradient: z -> d activation / d z, [3, H, W].
        z: the start.
        spread: of brightness, red against blue, green against both.
    """
    rows, columns, amplitude = waves(z.shape[1]), waves(z.shape[2]), amplitudes(*z.shape[1:], blur)
    opponents = [np.ones(3) / np.sqrt(3), np.array([1, 0, -1]) / np.sqrt(2), np.array([-1, 2, -1]) / np.sqrt(6)]
    mix = np.stack([s * axis for s, axis in zip(spread, opponents, strict=True)], 1)

    def picture(coefficients):
        plain = [(rows.conj().T @ (amplitude * c) @ columns.conj()).real for c in coefficients]
        return np.einsum("rc,cij->rij", mix, np.stack(plain))

    def at_coefficients(g):
        mixed = np.einsum("rc,rij->cij", mix, g)
        return np.stack([amplitude * (rows @ m @ columns.T) for m in mixed])

    straight = np.linalg.solve(mix, z.reshape(3, -1)).reshape(z.shape)
    coefficients = np.stack([rows @ plain @ columns.T / amplitude for plain in straight])
    assert np.abs(picture(coefficients) - z).max() < 1e-12
    for t in range(iterations):
        rolled = np.roll(picture(coefficients), shifts[t], axis=(1, 2))
        g = np.roll(gradient(rolled), [-s for s in shifts[t]], axis=(1, 2))
        way = at_coefficients(g)
        length = np.sqrt((picture(way) ** 2).mean())
        coefficients = coefficients + step * (1 - t / iterations) * way / length
    return picture(coefficients)


def pixel_ascent(gradient, z, *, iterations, step, shifts, total_variation, edge):
    """Each value on its own, along the gradient scaled to 1 less the slope of the total variation."""
    for t in range(iterations):
        rolled = np.roll(z, shifts[t], axis=(1, 2))
        g = np.roll(gradient(rolled), [-s for s in shifts[t]], axis=(1, 2))
        way = g / np.sqrt((g**2).mean()) - total_variation * variation_slope(z, edge)
        z = z + step * (1 - t / iterations) * way / np.sqrt((way**2).mean())
    return z
