"""Activation maximization: the update direction of a picture, from the gradient of an activation. Uses no model.

A parametrization writes z, which represents the picture, as D c and optimizes c. D is linear and symmetric, so a step
along the gradient with respect to c changes z by D² g, the filtered gradient g. D² is the product of a power spectrum
and a color covariance.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float
    from torch import Tensor

    from seewhy.types import Inputs

PARAMETRIZATIONS = ("fourier", "pixels")
TV_EPSILON = 0.01  # a smaller difference between neighboring pixels is treated as noise, not as an edge
# Brightness, red minus blue, green minus both: nearly uncorrelated in photographs (Ohta et al. 1980, Color information
# for region segmentation, eq. 1).
OPPONENT_AXES = ((1.0, 1.0, 1.0), (1.0, 0.0, -1.0), (-1.0, 2.0, -1.0))
# Their standard deviations, relative to brightness; measured on six photographs that are distributed with scikit-image
# and matplotlib: 1, 0.29-0.47, 0.07-0.14.
OPPONENT_STD = (1.0, 0.4, 0.15)


def update_direction(
    gradient: Inputs,
    z: Inputs,
    *,
    parametrization: str = "pixels",
    decorrelate_colors: bool = False,
    blur: int | float = 0.0,
    total_variation: int | float = 0.0,
) -> Inputs:
    """Direction of one step, with a root mean square of 1 per sample; zero if the gradient is zero.

    Args:
        gradient: gradient of the activation with respect to z.
        z: the current z, from which the picture is computed value by value.
        parametrization: "pixels": independent values (Simonyan et al. 2014, section 2); "fourier": coefficients of a
            Fourier basis, scaled as in photographs (Olah et al. 2017, Feature visualization, "Preconditioning").
        decorrelate_colors: whether the 3 channels are red, green and blue; "fourier" then decorrelates them.
        blur: standard deviation, in pixels, of a Gaussian that smooths the step.
        total_variation: weight of the gradient of the total variation, relative to a gradient scaled to 1.
    """
    direction = normalize_rms(gradient)
    if total_variation:
        direction = direction - total_variation * total_variation_gradient(z)
    fourier = parametrization == "fourier"
    if fourier or blur:
        direction = filter_frequencies(direction, frequency_weights(z.shape[2:], fourier, blur))
    if fourier and decorrelate_colors:
        direction = torch.einsum("ij,nj...->ni...", color_covariance().to(direction), direction)
    return normalize_rms(direction)


def normalize_rms(direction: Inputs) -> Inputs:
    """The direction scaled to a root mean square of 1 per sample; zero stays zero."""
    flat = direction.flatten(1)
    largest = flat.abs().amax(1, keepdim=True)
    flat = flat / largest.masked_fill(largest == 0, 1)  # first, so that no square underflows
    rms = flat.square().mean(1, keepdim=True).sqrt()
    return (flat / rms.masked_fill(rms == 0, 1)).reshape(direction.shape)


def frequency_weights(size: Sequence[int], fourier: bool, blur: int | float = 0.0) -> Float[Tensor, "*F"]:
    """Factor per frequency that filters a step, on the half grid of `rfftn`.

    With `fourier` the factor is the power spectrum of photographs, 1/f²: their amplitudes fall as 1/f (Field 1987,
    Relations between the statistics of natural images and the response properties of cortical cells). The lowest
    frequency is one wave along the longest side. A Gaussian blur of width σ multiplies by exp(-2 π² σ² f²).
    """
    axes = [torch.fft.fftfreq(n, dtype=torch.float64) for n in size[:-1]]
    axes.append(torch.fft.rfftfreq(size[-1], dtype=torch.float64))
    squared = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0)
    weights = torch.exp(-2 * math.pi**2 * blur**2 * squared)
    return weights / squared.clamp_min(max(size) ** -2) if fourier else weights


def filter_frequencies(direction: Inputs, weights: Float[Tensor, "*F"]) -> Inputs:
    """Each channel with its frequencies multiplied by `weights`; the picture is treated as periodic."""
    axes = tuple(range(2, direction.ndim))
    spectrum = torch.fft.rfftn(direction, dim=axes) * weights.to(direction)
    filtered: Tensor = torch.fft.irfftn(spectrum, s=direction.shape[2:], dim=axes)
    return filtered


def color_covariance() -> Float[Tensor, "3 3"]:
    """Covariance of red, green and blue in photographs, up to a constant factor."""
    axes = torch.tensor(OPPONENT_AXES, dtype=torch.float64)
    axes = axes / axes.norm(dim=1, keepdim=True)
    matrix: Tensor = axes.T @ torch.diag(torch.tensor(OPPONENT_STD, dtype=torch.float64).square()) @ axes
    return matrix


def total_variation_gradient(z: Inputs) -> Inputs:
    """Gradient of the total variation, the sum of √(squared differences to the next positions + TV_EPSILON²).

    Rudin, Osher and Fatemi 1992, Nonlinear total variation based noise removal algorithms; Mahendran and Vedaldi 2015,
    Understanding deep image representations by inverting them, section 3, with β = 1.
    """
    axes = range(2, z.ndim)
    differences = [z.diff(dim=a, append=z.narrow(a, -1, 1)) for a in axes]
    length = torch.stack([d.square() for d in differences]).sum(0).add(TV_EPSILON**2).sqrt()
    gradient = torch.zeros_like(z)
    for axis, difference in zip(axes, differences, strict=True):
        flow = difference / length
        gradient += flow.roll(1, axis) - flow  # the last difference is zero, so nothing wraps around
    return gradient
