"""Robustness and consistency: infidelity, sensitivity, stability, completeness."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from seewhy.axes.layout import from_canonical
from seewhy.engine.random_numbers import normal_sampler
from seewhy.errors import OptionError
from seewhy.evaluation.rank_correlation import normalized_ranks
from seewhy.targets.parsing import ClassIndices

from .perturbation_curves import explained_score_function, maps_at_input_size, reduction_layer_name

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.model import Model
    from seewhy.results import Explanation
    from seewhy.types import Inputs


def infidelity(
    model: Model, e: Explanation, *, samples: int = 50, sigma: float = 0.05, normalize: bool = True, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Infidelity: mean squared error of the score changes that the map predicts for input noise; lower is better.

    Yeh et al. 2019, definition 2.1: mean of (I·phi - (y(x) - y(x - I)))² over noise I. If `normalize` is true, phi is
    first multiplied by the factor with the smallest error, so that the unit of the map does not matter. For maps
    without the input's channels, the noise is summed over the channels.

    Args:
        model: the explained network.
        e: the explanation.
        samples: number of noise samples.
        sigma: standard deviation of the noise, as a fraction of the input's range.
        normalize: whether to rescale the map.
        seed: of the noise.

    Returns:
        Values [N, K] and their standard errors [N, K]; NaN where the noise is zero (constant input or sigma=0).
    """
    x = e.input
    attributions = e.values.double() if e.values.shape[2:] == x.shape[1:] else maps_at_input_size(e).unsqueeze(2)
    changes = torch.zeros(samples, 2, *e.values.shape[:2], dtype=torch.float64)
    for k in range(attributions.shape[1]):
        score_fn = explained_score_function(model, e, k, expected_calls=samples, score=e.score)
        score_at_input = score_fn(x)
        for j in range(samples):
            noise = _scaled_noise(x, sigma, j, seed)
            matching = noise if attributions.shape[2] == x.shape[1] else noise.sum(1, keepdim=True)
            predicted = (attributions[:, k] * matching).flatten(1).sum(1)
            changes[j, :, :, k] = torch.stack([predicted, score_at_input - score_fn(x - noise)])
    predicted, actual = changes[:, 0], changes[:, 1]
    if normalize:
        square = (predicted**2).mean(0)
        predicted = predicted * ((predicted * actual).mean(0) / square.masked_fill(square == 0, torch.inf))
    squared_error = ((predicted - actual) ** 2).masked_fill(_noise_is_zero(x, sigma), torch.nan)
    return squared_error.mean(0), _standard_error(squared_error)


def sensitivity(
    model: Model, e: Explanation, *, samples: int = 10, radius: float = 0.02, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Max-sensitivity: largest relative change of the map under small input perturbations; lower is better.

    Yeh et al. 2019, definition 3.1: max over d of |phi(x + d) - phi(x)| / |phi(x)|, with each value of d uniform in
    [-radius, radius]. The maximum grows with the number of samples, so there is no standard error.

    Args:
        model: the explained network.
        e: the explanation.
        samples: number of perturbations.
        radius: largest change of an input value, in the units of the network's input.
        seed: of the perturbations.

    Returns:
        Values [N, K] (NaN for maps of zeros), and NaN as standard errors.
    """
    norm = e.values.double().flatten(2).norm(dim=2)
    largest = torch.zeros_like(norm)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(samples):
        perturbation = (2 * torch.rand(e.input.shape[1:], generator=generator, dtype=torch.float64) - 1) * radius
        perturbed = _explain_at(model, e, e.input + perturbation.to(e.input))
        distance = (perturbed.values - e.values).double().flatten(2).norm(dim=2)
        largest = torch.maximum(largest, distance / norm.masked_fill(norm == 0, torch.nan))
    return largest, torch.full_like(largest, torch.nan)


def stability(
    model: Model, e: Explanation, *, samples: int = 10, sigma: float = 0.05, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Stability: mean rank correlation of the absolute maps of the input and of noisy copies; higher is better.

    Alvarez-Melis and Jaakkola 2018, section 2, with rank correlation instead of distances because maps have no common
    unit.

    Args:
        model: the explained network.
        e: the explanation.
        samples: number of noisy copies.
        sigma: standard deviation of the noise, as a fraction of the input's range.
        seed: of the noise.

    Returns:
        Values [N, K] and their standard errors [N, K]; NaN where the noise is zero (constant input or sigma=0).
    """
    ranks_at_input = normalized_ranks(e.maps.abs().flatten(2))
    copies = (e.input + _scaled_noise(e.input, sigma, j, seed) for j in range(samples))
    correlations = torch.stack([
        (ranks_at_input * normalized_ranks(_explain_at(model, e, copy).maps.abs().flatten(2))).sum(2)
        for copy in copies
    ]).masked_fill(_noise_is_zero(e.input, sigma), torch.nan)  # fmt: skip
    return correlations.mean(0), _standard_error(correlations)


def completeness(model: Model, e: Explanation) -> tuple[Tensor, Tensor]:
    """Completeness error: |sum of attributions - (score - baseline score)| / |score - baseline score|; 0 is exact.

    Sundararajan et al. 2017, proposition 1. A small error is necessary for a correct map, but not sufficient.

    Args:
        model: the explained network; not used.
        e: the explanation.

    Returns:
        Values [N, K] (NaN where score and baseline score are equal), and NaN as standard errors.

    Raises:
        OptionError: the method has no completeness property.
    """
    if e.convergence_delta is None:
        raise OptionError(
            f"{e.method} has no completeness property: its attributions need not sum to score - baseline score."
        )
    delta = e.convergence_delta.double()
    if "importances" in e.extras:  # `values` repeat a segment's importance at each of its positions
        total = e.extras["importances"].nansum(2)
    elif "bias_parts" in e.extras:
        total = e.extras["input_part"] + e.extras["bias_parts"].sum(2)
    else:
        total = e.values.double().flatten(2).sum(2)
    expected = total.double() - delta
    return (delta / expected.masked_fill(expected == 0, torch.nan)).abs(), torch.full_like(delta, torch.nan)


def _scaled_noise(x: Inputs, sigma: float, j: int, seed: int) -> Inputs:
    """Noise sample j [N, C, *S], scaled to the value range of each input."""
    flat = x.flatten(1)
    input_range = (flat.amax(1) - flat.amin(1)).view(-1, *[1] * (x.ndim - 1))
    return sigma * input_range * normal_sampler(seed, x)(j, j + 1)


def _noise_is_zero(x: Inputs, sigma: float) -> Tensor:
    """Whether the noise of a sample is zero, [N, 1]."""
    flat = x.flatten(1)
    return ((flat.amax(1) == flat.amin(1)) | (sigma == 0)).unsqueeze(1)


def _standard_error(values: Tensor) -> Tensor:
    """Standard error of the mean over the first axis; NaN for a single value."""
    return values.std(0) / len(values) ** 0.5 if len(values) > 1 else torch.full_like(values[0], torch.nan)


def _explain_at(model: Model, e: Explanation, x: Inputs) -> Explanation:
    """Compute the explanation again, with the same call and targets, at another input."""
    if e.targets is None:
        raise OptionError(
            "this explanation is of a function of the output; only explanations of classes can be measured."
        )
    if e.call is None:
        raise OptionError("this explanation has no `call`, so it cannot be computed again at another input.")
    upsample = "none" if e.maps.shape[2:] != e.input.shape[2:] else "bicubic"
    call = replace(e.call, reduction_layer=reduction_layer_name(model, e))
    return call(
        model, from_canonical(x, model.layout), target=ClassIndices(e.targets), upsample=upsample, progress=False
    )
