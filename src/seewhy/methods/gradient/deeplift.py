"""DeepLIFT with the rescale rule."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from seewhy.methods.queries import Attribution
from seewhy.types import BackwardRule, Baseline

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.types import Inputs, Scores, Values

ROUNDING_UNITS = 16  # differences of at most so many units of rounding are not divided by
MAX_RELATIVE_DELTA = 1e-3  # far above rounding errors


def deeplift(
    x: Inputs, gradient: Values, score: Scores, reference_score: Scores, *, baseline: Baseline = None
) -> Attribution:
    """DeepLIFT: (x - baseline) times multipliers, ratios of differences of activations from those of the baseline.

    Shrikumar et al. 2017, eq. 3 and the rescale rule, section 3.5.1. The multipliers are computed by a backward pass in
    which each elementwise nonlinear function f has the slope (f(z) - f(z0)) / (z - z0) in place of f'(z), where z and
    z0 are its inputs for x and for the baseline. Signed, in units of the score. The values sum to score - baseline
    score (eq. 1), also where the gradient is zero because the network is saturated; `convergence_delta` is the error
    of this sum. As for integrated gradients, the map depends on the choice of the baseline, and its details are those
    of the input.

    The paper does not define max pooling. By convention, the difference of the two maxima belongs to the position of
    the larger of them.

    Args:
        x: the input.
        gradient: the multipliers.
        score: the target scores of the input.
        reference_score: the target scores of the baseline.
        baseline: the reference input: a number or tensor in the network's own units, "mean", "blur" or "black".
    """
    difference = x - cast("Tensor", baseline)  # the family has resolved it to a tensor like x
    values = difference.unsqueeze(1) * gradient
    delta = values.double().flatten(2).sum(2) - (score.double() - reference_score.double())
    incomplete = delta.abs() > MAX_RELATIVE_DELTA * values.double().flatten(2).abs().sum(2)
    notes = tuple(
        f"the values of sample {n}, target {k} do not sum to score - baseline score: a factor, an index or a mask may "
        "depend on the input without being differentiated (detach, argmax). See convergence_delta"
        for n, k in incomplete.nonzero().tolist()
    )
    return Attribution(values, convergence_delta=delta, notes=notes)


def _rescaled_gradient(
    grad_output: Tensor,
    grad_input: Tensor,
    input: Tensor,
    output: Tensor,
    reference_input: Tensor,
    reference_output: Tensor,
) -> Tensor:
    """The rescale rule; where the inputs are equal up to rounding, its limit, the ordinary gradient."""
    import torch

    difference = input - reference_input
    rounding = ROUNDING_UNITS * torch.finfo(input.dtype).eps * torch.maximum(input.abs(), reference_input.abs())
    equal = difference.abs() <= rounding
    slope = (output - reference_output) / difference.masked_fill(equal, 1)
    return torch.where(equal, grad_input, grad_output * slope)


RESCALE_RULE = BackwardRule(("elementwise", "max_pool"), _rescaled_gradient)
