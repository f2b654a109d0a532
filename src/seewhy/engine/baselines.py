"""Baselines, and the straight path from a baseline to the input."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from seewhy.axes.layout import check_rank, to_canonical
from seewhy.errors import OptionError, SeewhyError
from seewhy.inputs.arrays import tensor_of
from seewhy.tracing.outputs import is_finite
from seewhy.tracing.validation import prepare_model_and_input

if TYPE_CHECKING:
    from jaxtyping import Float

    from seewhy.model import Model
    from seewhy.types import Baseline, Inputs


BLUR_SIDE_DIVISOR = 20  # the standard deviation of the blur is the longest side divided by this number


def path(model: Any, x: Any, baseline: Baseline = None, steps: int = 25) -> Float[Tensor, "steps N C *S"]:
    """Return the points baseline + n/(steps-1) · (x - baseline), n = 0 … steps-1, on the path to the input.

    Args:
        model: a network, or a wrapped one.
        x: a batch, or what the model's `prepare` accepts.
        baseline: as for the method "integrated_gradients". Default: a black picture if the model has a preparation for
            pictures, else 0.
        steps: number of points, both ends included; at least 2.

    Returns:
        Points [steps, N, C, *S] in the network's own units, on the CPU.

    Raises:
        OptionError: `steps` is less than 2, or the baseline does not fit the input.
    """
    if steps < 2:
        raise OptionError(f"steps={steps}: a path has at least 2 points, its ends.")
    model, inputs = prepare_model_and_input(model, x)
    start, _ = resolve_baseline(model, inputs, baseline)
    fractions = torch.linspace(0, 1, steps, dtype=inputs.dtype, device=inputs.device)
    return (start + fractions.view(-1, *[1] * inputs.ndim) * (inputs - start)).cpu()


def resolve_baseline(model: Model, x: Inputs, baseline: Baseline, role: str = "baseline") -> tuple[Inputs, str]:
    """Return the baseline of a batch as a tensor, and a note that describes it.

    Args:
        model: the model, for its preparation and layout.
        x: the batch [N, C, *S].
        baseline: a number or a tensor in the network's own units and layout, or one number per channel; "mean": the
            mean of each channel over the positions of the sample; "blur": the blurred sample; "black": a black picture
            after the model's preparation; None: "black" if the model has a preparation for pictures, else 0.
        role: what the values are used for, the first words of the note.

    Raises:
        OptionError: the baseline is invalid or does not fit the input.
    """
    if baseline is None:
        baseline = "black" if model.preparation is not None and x.ndim == 4 else 0.0
    if isinstance(baseline, str):
        if baseline == "mean":
            return _channel_means(x), (f"{role}: the mean of each channel")
        if baseline == "black":
            return _black_baseline(model, x), f"{role}: a black picture"
        if baseline == "blur":
            return _blurred(x), f"{role}: the input, blurred by 1/{BLUR_SIDE_DIVISOR} of its longest side"
        raise OptionError(
            f"baseline={baseline!r} is not 'mean', 'blur', 'black', a number, one number per channel, or a tensor."
        )
    if isinstance(baseline, (int, float)):
        if not math.isfinite(baseline):
            raise OptionError(f"baseline={baseline}: only finite values are allowed, not NaN or infinity.")
        return torch.full_like(x, float(baseline)), f"{role}: {baseline:g} everywhere"
    start = tensor_of(baseline).to(x)
    if start.ndim == 1 and x.ndim > 3 and len(start) == x.shape[1] and start.isfinite().all():
        numbers = ", ".join(f"{v:g}" for v in start.tolist())
        return start.view(-1, *[1] * (x.ndim - 2)).expand_as(x), f"{role}: {numbers}, one number per channel"
    if not start.isfinite().all():
        raise OptionError("the baseline contains NaN or infinite values: only finite values are allowed.")
    axes = x.ndim if model.layout is None else len(model.layout)  # a batch of features has no axis of positions
    if start.ndim == axes:
        start = to_canonical(start, model.layout)
    elif model.layout is not None and start.ndim == axes - 1:
        start = to_canonical(start.unsqueeze(model.layout.index("N")), model.layout)
    try:
        return start.expand_as(x), f"{role}: the given tensor"
    except RuntimeError:
        raise OptionError(
            f"a baseline of shape {list(tensor_of(baseline).shape)} does not fit an input of shape "
            f"{list(x.shape)} (batch, channels, other axes)."
        ) from None


def _channel_means(x: Inputs) -> Inputs:
    """The mean of each channel at every position, rounded where the input holds whole numbers."""
    numbers = x if x.is_floating_point() else x.double()
    means = numbers.flatten(2).mean(2).view(*x.shape[:2], *[1] * (x.ndim - 2))
    return (means if x.is_floating_point() else means.round()).to(x).expand_as(x)


def resolve_fill(model: Model, x: Inputs, mask_value: Baseline) -> tuple[Inputs, str]:
    """Return the values of masked parts, like `resolve_baseline`; None: the channel mean, or 0 for plain features."""
    if mask_value is None:
        mask_value = 0.0 if model.layout == "NF" else "mean"
    return resolve_baseline(model, x, mask_value, "masked parts")


def resolve_references(model: Model, x: Inputs, references: Baseline) -> tuple[Tensor | None, str]:
    """Return the references [R, C, *S] of expected gradients, or None for noise, and a note that describes them.

    Raises:
        OptionError: the references are not a tensor, are not finite, or do not fit the input.
    """
    if references is None:
        return None, "references: noise with the mean and standard deviation of each channel of the sample"
    if not isinstance(references, (Tensor, np.ndarray)):
        raise OptionError(f"references={references!r}: it must be a tensor [R, ...] in the network's own layout.")
    inputs = tensor_of(references).to(x)
    check_rank(inputs, model.layout)
    inputs = to_canonical(inputs, model.layout)
    if inputs.shape[1:] != x.shape[1:] or not len(inputs) or not is_finite(inputs):
        raise OptionError(
            f"references of shape {list(inputs.shape)} (count, channels, other axes) do not fit an input of shape "
            f"{list(x.shape)}, or contain NaN or infinite values."
        )
    return inputs, f"references: the {len(inputs)} given inputs"


def _blurred(x: Inputs) -> Inputs:
    """Smooth each channel with a Gaussian."""
    from skimage.filters import gaussian

    sigma = (
        0,
        0,
        *[max(2.0, max(x.shape[2:]) / BLUR_SIDE_DIVISOR)] * (x.ndim - 2),
    )  # at least 2, so that shapes in small pictures vanish
    smooth = gaussian(x.cpu().double().numpy(), sigma, mode="reflect")  # type: ignore[no-untyped-call]
    return torch.from_numpy(smooth).to(x)


def _black_baseline(model: Model, x: Inputs) -> Inputs:
    if model.preparation is None or x.ndim != 4:
        raise OptionError(
            "baseline='black' needs a model with a preparation and pictures as input: give a number or a tensor."
        )
    try:
        black = to_canonical(model.prepare(np.zeros((*x.shape[2:], 3), np.uint8)), model.layout).to(x)
    except (SeewhyError, TypeError, ValueError, AttributeError) as error:
        raise OptionError(
            f"the model's preparation failed on a black picture ({error}): give a number or a tensor."
        ) from error
    if (black == black[:, :, :1, :1]).all():  # constant: expand it to any size
        black = black[:, :, :1, :1]
    try:
        return black.expand_as(x)
    except RuntimeError:
        raise OptionError(
            f"the prepared black picture has the shape {list(black.shape)}, the input {list(x.shape)}: give a number "
            "or a tensor."
        ) from None
