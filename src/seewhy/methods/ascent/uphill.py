"""Which way a picture should go: from the gradient of an activation to a step of size one. Nothing here sees a model.

A parametrisation writes z, of which the picture is made, as D c and ascends in c. D is linear and symmetric, so a step
along the gradient in c moves z along D² g: the gradient g, filtered. D² is a power spectrum, and a matrix of colours.
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

PARAMETRISATIONS = ("fourier", "pixels")
EDGE = 0.01  # below it a difference between neighbours counts as noise, not as an edge
# Brightness, red against blue, green against both: nearly uncorrelated in photographs (Ohta et al. 1980, eq. 1).
OPPONENTS = ((1.0, 1.0, 1.0), (1.0, 0.0, -1.0), (-1.0, 2.0, -1.0))
# How much each varies, measured on six photographs that scikit-image and matplotlib carry: 1, 0.29-0.47, 0.07-0.14.
SPREAD = (1.0, 0.4, 0.15)


def uphill(
    gradient: Inputs,
    z: Inputs,
    *,
    parametrisation: str = "pixels",
    colours: bool = False,
    blur: int | float = 0.0,
    total_variation: int | float = 0.0,
) -> Inputs:
    """The direction of one step, with a root mean square of 1 in each sample; where the gradient is zero, zero.

    Args:
        gradient: of the activation by z, of which the picture is made value by value.
        z: where it is.
        parametrisation: "pixels": each value on its own (Simonyan et al. 2014, section 2); "fourier": coefficients of
            a Fourier basis, scaled as in photographs (Olah et al. 2017, "Preconditioning").
        colours: whether the 3 channels are red, green and blue, which "fourier" then decorrelates.
        blur: standard deviation, in pixels, of a Gaussian that smooths the step.
        total_variation: weight of the slope of the total variation, beside a gradient scaled to 1.
    """
    slope = unit(gradient)
    if total_variation:
        slope = slope - total_variation * variation_slope(z)
    fourier = parametrisation == "fourier"
    if fourier or blur:
        slope = filtered(slope, spectrum(z.shape[2:], fourier, blur))
    if fourier and colours:
        slope = torch.einsum("ij,nj...->ni...", colour_matrix().to(slope), slope)
    return unit(slope)


def unit(slope: Inputs) -> Inputs:
    """Scaled to a root mean square of 1 a sample; zeros stay."""
    flat = slope.flatten(1)
    largest = flat.abs().amax(1, keepdim=True)
    flat = flat / largest.masked_fill(largest == 0, 1)  # first, so that no square underflows
    root = flat.square().mean(1, keepdim=True).sqrt()
    return (flat / root.masked_fill(root == 0, 1)).reshape(slope.shape)


def spectrum(size: Sequence[int], fourier: bool, blur: int | float = 0.0) -> Float[Tensor, "*F"]:
    """How much of each frequency a step keeps, on the half grid of `rfftn`.

    Amplitudes of photographs fall as 1/f (Field 1987), their powers as 1/f², the lowest being that of one wave along
    the longest side; a Gaussian of width σ keeps exp(-2 π² σ² f²).
    """
    axes = [torch.fft.fftfreq(n, dtype=torch.float64) for n in size[:-1]]
    axes.append(torch.fft.rfftfreq(size[-1], dtype=torch.float64))
    squared = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0)
    kept = torch.exp(-2 * math.pi**2 * blur**2 * squared)
    return kept / squared.clamp_min(max(size) ** -2) if fourier else kept


def filtered(slope: Inputs, kept: Float[Tensor, "*F"]) -> Inputs:
    """Each channel with its frequencies weighted; the picture counts as periodic."""
    axes = tuple(range(2, slope.ndim))
    found: Tensor = torch.fft.irfftn(torch.fft.rfftn(slope, dim=axes) * kept.to(slope), s=slope.shape[2:], dim=axes)
    return found


def colour_matrix() -> Float[Tensor, "3 3"]:
    """The covariance of red, green and blue in photographs, to a factor."""
    axes = torch.tensor(OPPONENTS, dtype=torch.float64)
    axes = axes / axes.norm(dim=1, keepdim=True)
    matrix: Tensor = axes.T @ torch.diag(torch.tensor(SPREAD, dtype=torch.float64).square()) @ axes
    return matrix


def variation_slope(z: Inputs) -> Inputs:
    """Gradient of the total variation, the sum of √(squared differences to the next neighbours + EDGE²).

    Rudin, Osher and Fatemi 1992; Mahendran and Vedaldi 2015, section 3, with β = 1.
    """
    axes = range(2, z.ndim)
    steps = [z.diff(dim=a, append=z.narrow(a, -1, 1)) for a in axes]
    length = torch.stack([d.square() for d in steps]).sum(0).add(EDGE**2).sqrt()
    slope = torch.zeros_like(z)
    for axis, step in zip(axes, steps, strict=True):
        flow = step / length
        slope += flow.roll(1, axis) - flow  # the last step is zero, so nothing comes round
    return slope
