"""How a map fits the score, and itself, around the input."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch

from seewhy.errors import OptionError
from seewhy.methods import METHODS
from seewhy.methods.averaged import smooth, tta
from seewhy.methods.draws import normal
from seewhy.methods.explain import explain
from seewhy.trace.layout import own

from .curves import at_input, explained_scores, reduction
from .similarity import ranks

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.types import Explanation, Inputs, Model


def infidelity(
    model: Model, e: Explanation, *, samples: int = 50, sigma: float = 0.05, normalize: bool = True, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """How far the map is from saying what small changes of the input do to the score; low is good.

    Yeh et al. 2019, definition 2.1: mean of (I·phi - (y(x) - y(x - I)))² over noise I. With `normalize` phi is first
    scaled by the factor that fits best, since else the measure is one of units. Maps without the input's channels count
    the noise summed over channels.

    Args:
        model: who answers.
        e: what it explains.
        samples: how many changes.
        sigma: of the noise, as a share of the input's range.
        normalize: scale the map first.
        seed: of the noise.
    """
    x = e.input
    phi = e.values.double() if e.values.shape[2:] == x.shape[1:] else at_input(e).unsqueeze(2)
    found = torch.zeros(samples, 2, *e.values.shape[:2], dtype=torch.float64)
    for k in range(phi.shape[1]):
        scores = explained_scores(model, e, k, count=samples, score=e.score)
        here = scores(x)
        for j in range(samples):
            push = _noise(x, sigma, j, seed)
            said = (phi[:, k] * (push if phi.shape[2] == x.shape[1] else push.sum(1, keepdim=True))).flatten(1).sum(1)
            found[j, :, :, k] = torch.stack([said, here - scores(x - push)])
    said, true = found[:, 0], found[:, 1]
    if normalize:
        square = (said**2).mean(0)
        said = said * ((said * true).mean(0) / square.masked_fill(square == 0, torch.inf))
    off = ((said - true) ** 2).masked_fill(_still(x, sigma), torch.nan)
    return off.mean(0), _error(off)


def sensitivity(
    model: Model, e: Explanation, *, samples: int = 10, radius: float = 0.02, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """The largest relative change of the map when the input moves a little; low is good.

    Yeh et al. 2019, definition 3.1: max over d of |phi(x + d) - phi(x)| / |phi(x)|, each number of d uniform within the
    radius. It grows with the number of samples, so it has no standard error.

    Args:
        model: who answers.
        e: what it explains.
        samples: how many changes.
        radius: of each number of the input, in the network's units.
        seed: of the changes.
    """
    length = e.values.double().flatten(2).norm(dim=2)
    worst = torch.zeros_like(length)
    draw = torch.Generator().manual_seed(seed)
    for _ in range(samples):
        push = (2 * torch.rand(e.input.shape[1:], generator=draw, dtype=torch.float64) - 1) * radius
        apart = (_again(model, e, e.input + push.to(e.input)).values - e.values).double().flatten(2).norm(dim=2)
        worst = torch.maximum(worst, apart / length.masked_fill(length == 0, torch.nan))
    return worst, torch.full_like(worst, torch.nan)


def stability(
    model: Model, e: Explanation, *, samples: int = 10, sigma: float = 0.05, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """How alike maps of the input and of noisy copies are, by rank correlation of absolute maps; 1 is the same order.

    Alvarez-Melis and Jaakkola 2018, section 2, with ranks in place of distances, since maps have no common unit.

    Args:
        model: who answers.
        e: what it explains.
        samples: how many copies.
        sigma: of the noise, as a share of the input's range.
        seed: of the noise.
    """
    first = ranks(e.maps.abs().flatten(2))
    each = torch.stack([
        (first * ranks(_again(model, e, e.input + _noise(e.input, sigma, j, seed)).maps.abs().flatten(2))).sum(2)
        for j in range(samples)
    ]).masked_fill(_still(e.input, sigma), torch.nan)  # fmt: skip
    return each.mean(0), _error(each)


def completeness(model: Model, e: Explanation) -> tuple[Tensor, Tensor]:
    """By what share of it the parts miss score - baseline score, for methods that promise to sum to it; 0 is exact.

    Sundararajan et al. 2017, proposition 1. Necessary, and not sufficient.

    Args:
        model: who answered.
        e: what it explains.

    Raises:
        OptionError: the method promises nothing.
    """
    if e.completeness is None:
        raise OptionError(f"{e.method} does not promise that its parts sum to anything.")
    gap = e.completeness.double()
    if "importances" in e.extras:  # values repeat that of a segment at each of its positions
        parts = e.extras["importances"].nansum(2)
    elif "bias_parts" in e.extras:
        parts = e.extras["input_part"] + e.extras["bias_parts"].sum(2)
    else:
        parts = e.values.double().flatten(2).sum(2)
    whole = parts.double() - gap
    return (gap / whole.masked_fill(whole == 0, torch.nan)).abs(), torch.full_like(gap, torch.nan)


def _noise(x: Inputs, sigma: float, j: int, seed: int) -> Inputs:
    flat = x.flatten(1)
    width = (flat.amax(1) - flat.amin(1)).view(-1, *[1] * (x.ndim - 1))
    return sigma * width * normal(seed, x)(j, j + 1)


def _still(x: Inputs, sigma: float) -> Tensor:
    """[N, 1]: samples that noise does not move, of which nothing can be said."""
    flat = x.flatten(1)
    return ((flat.amax(1) == flat.amin(1)) | (sigma == 0)).unsqueeze(1)


def _error(each: Tensor) -> Tensor:
    """Standard error of a mean over the first axis."""
    return each.std(0) / len(each) ** 0.5 if len(each) > 1 else torch.full_like(each[0], torch.nan)


def _again(model: Model, e: Explanation, x: Inputs) -> Explanation:
    """The same question at another input."""
    if e.targets is None:
        raise OptionError("this explains a function of the output: only explanations of classes can be measured.")
    names = [] if e.feature_layer is None else e.feature_layer.split(", ")
    asked = {} if not names else {"feature_layer": names if len(names) > 1 else names[0]}
    size = "none" if e.maps.shape[2:] != e.input.shape[2:] else "bicubic"
    method, options = _asked(e)
    found: Explanation = explain(
        model, own(x, model.layout), method, target=e.targets, score=e.score, seed=e.seed, upsample=size,
        reduction_layer=reduction(model, e), progress=False, **asked, **options,
    )  # fmt: skip
    return found


def _asked(e: Explanation) -> tuple[Any, dict[str, Any]]:
    """The method of an explanation, which may be averaged, and its own options.

    Raises:
        OptionError: it is not in the table, so that its name does not say what it is.
    """
    options = dict(e.options)
    averaged = re.fullmatch(r"(smooth|tta)\((.+)\)", e.method)
    name = averaged[2] if averaged else e.method
    if name not in METHODS:
        raise OptionError(f"{e.method} cannot be asked again at another input: it is not in the table of methods.")
    if averaged is None:
        return name, options
    if averaged[1] == "tta":
        return tta(name), options
    return smooth(name, **{key: options.pop(key) for key in ("samples", "sigma")}), options
