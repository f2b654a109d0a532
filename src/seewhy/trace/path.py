"""Where a path starts, and the pictures along it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from seewhy.errors import OptionError, SeewhyError

from .layout import canonical, check_rank
from .outputs import finite
from .ready import ready

if TYPE_CHECKING:
    from jaxtyping import Float

    from seewhy.types import Baseline, Inputs, Model


BLUR = 20


def path(model: Any, x: Any, baseline: Baseline = None, steps: int = 25) -> Float[Tensor, "steps N C *S"]:
    """The inputs baseline + n/(steps-1) · (x - baseline), n = 0 … steps-1; both ends are included.

    Args:
        model: a network, or a wrapped one.
        x: what it takes.
        baseline: as for `integrated_gradients`.
        steps: how many, at least 2.

    Raises:
        OptionError: too few steps, or a baseline that does not fit.
    """
    if steps < 2:
        raise OptionError(f"steps={steps}: a path has at least its 2 ends.")
    model, inputs = ready(model, x)
    start, _ = resolve_baseline(model, inputs, baseline)
    along = torch.linspace(0, 1, steps, dtype=inputs.dtype, device=inputs.device)
    return (start + along.view(-1, *[1] * inputs.ndim) * (inputs - start)).cpu()


def resolve_baseline(model: Model, x: Inputs, given: Baseline) -> tuple[Inputs, str]:
    """The baseline for a batch, and a sentence that names it.

    Args:
        model: for its preparation and layout.
        x: the batch.
        given: a number or tensor in the network's own units and layout, or one number a channel; "mean": each
            channel's mean over the sample; "blur": the sample itself, blurred; "black": a black picture, prepared;
            None: black where the model prepares pictures, else 0.

    Raises:
        OptionError: it does not fit the input.
    """
    if given is None:
        given = "black" if model.preparation is not None and x.ndim == 4 else 0.0
    if isinstance(given, str):
        if given == "mean":
            return x.flatten(2).mean(2).view(*x.shape[:2], *[1] * (x.ndim - 2)).expand_as(x), (
                "baseline: the mean of each channel"
            )
        if given == "black":
            return _black(model, x), "baseline: a black picture"
        if given == "blur":
            return _blurred(x), f"baseline: the input, blurred by 1/{BLUR} of its longest side"
        raise OptionError(f"baseline={given!r} is not 'mean', 'blur', 'black', a number, one a channel, or a tensor.")
    if isinstance(given, (int, float)):
        if not math.isfinite(given):
            raise OptionError(f"baseline={given}: NaN or infinite values cannot be a baseline.")
        return torch.full_like(x, float(given)), f"baseline: {given:g} everywhere"
    start = torch.as_tensor(given).to(x)
    if start.ndim == 1 and x.ndim > 3 and len(start) == x.shape[1] and start.isfinite().all():
        named = ", ".join(f"{v:g}" for v in start.tolist())
        return start.view(-1, *[1] * (x.ndim - 2)).expand_as(x), f"baseline: {named}, one a channel"
    if not start.isfinite().all():
        raise OptionError("the baseline holds NaN or infinite values.")
    if start.ndim == x.ndim:
        start = canonical(start, model.layout)
    elif model.layout is not None and start.ndim == x.ndim - 1:
        start = canonical(start.unsqueeze(model.layout.index("N")), model.layout)
    try:
        return start.expand_as(x), "baseline: the tensor given"
    except RuntimeError:
        raise OptionError(
            f"a baseline of shape {list(torch.as_tensor(given).shape)} does not fit an input of shape "
            f"{list(x.shape)} (batch, channels, others)."
        ) from None


def resolve_fill(model: Model, x: Inputs, given: Baseline) -> tuple[Inputs, str]:
    """What stands where parts are hidden; None: each channel's mean, or 0 for plain features; else as a baseline."""
    if given is None:
        given = 0.0 if model.layout == "NF" else "mean"
    return resolve_baseline(model, x, given)


def resolve_references(model: Model, x: Inputs, given: Baseline) -> tuple[Tensor | None, str]:
    """References [R, C, *S] for expected gradients, and a sentence that names them.

    Raises:
        OptionError: they do not fit the input.
    """
    if given is None:
        return None, "references: noise with the mean and spread of each channel of the sample"
    if not isinstance(given, (Tensor, np.ndarray)):
        raise OptionError(f"references={given!r}: a tensor of inputs is needed, [R, ...] in the network's own layout.")
    references = torch.as_tensor(given).to(x)
    check_rank(references, model.layout)
    references = canonical(references, model.layout)
    if references.shape[1:] != x.shape[1:] or not len(references) or not finite(references):
        raise OptionError(
            f"references of shape {list(references.shape)} (count, channels, others) do not fit an input of "
            f"{list(x.shape)}, or hold NaN."
        )
    return references, f"references: the {len(references)} given"


def _blurred(x: Inputs) -> Inputs:
    """Each channel smoothed by a Gaussian."""
    from skimage.filters import gaussian

    sigma = (0, 0, *[max(2.0, max(x.shape[2:]) / BLUR)] * (x.ndim - 2))  # small pictures too lose their shapes
    smooth = gaussian(x.cpu().double().numpy(), sigma, mode="reflect")  # type: ignore[no-untyped-call]
    return torch.from_numpy(smooth).to(x)


def _black(model: Model, x: Inputs) -> Inputs:
    if model.preparation is None or x.ndim != 4:
        raise OptionError(
            "baseline='black' is a black picture through the model's preparation, which this model or input does not "
            "have: give a number or a tensor."
        )
    try:
        black = canonical(model.prepare(np.zeros((*x.shape[2:], 3), np.uint8)), model.layout).to(x)
    except (SeewhyError, TypeError, ValueError, AttributeError) as error:
        raise OptionError(
            f"the model's preparation refused a black picture ({error}): give a number or a tensor."
        ) from error
    if (black == black[:, :, :1, :1]).all():  # the same everywhere: it fits any size
        black = black[:, :, :1, :1]
    try:
        return black.expand_as(x)
    except RuntimeError:
        raise OptionError(f"the prepared black picture is {list(black.shape)}, the input {list(x.shape)}.") from None
