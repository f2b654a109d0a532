"""Named filters: functions from the values of an explanation, or from its maps, to maps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from seewhy.errors import OptionError, unknown_name_error
from seewhy.results import Explanation
from seewhy.types import Range

from . import absolute_sum, channel_sum, rescale, value_range
from .resample import resample

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from seewhy.types import Maps, Values


class Filter(NamedTuple):
    """One row of the table of filters.

    Attributes:
        apply: function maps [N, K, *S] -> maps, which treats each map independently; or values -> maps. The filter's
            number, if it has one, is the second argument.
        reduces_channels: whether `apply` takes the values [N, K, C, *S'] and reduces their channels.
        default: default of the filter's number, which follows "=" in its name; None: the filter takes no number.
        bounds: the allowed range of the number; the lower bound is excluded.
    """

    apply: Callable[..., Any]
    reduces_channels: bool = False
    default: float | None = None
    bounds: Range = Range()


def channel_mean(values: Values) -> Maps:
    """Signed mean of the channels."""
    return values.mean(dim=2)


def channel_max(values: Values) -> Maps:
    """Signed maximum of the channels."""
    return values.amax(dim=2)


def absolute_max(values: Values) -> Maps:
    """Maximum of the channels' absolute values (Simonyan et al. 2014, section 3.1)."""
    return values.abs().amax(dim=2)


def positive(maps: Maps) -> Maps:
    """Positive evidence for the target: max(m, 0)."""
    return maps.clamp(min=0)


def negative(maps: Maps) -> Maps:
    """Negative evidence for the target, with its sign reversed: max(-m, 0)."""
    return (-maps).clamp(min=0)


def magnitude(maps: Maps) -> Maps:
    """Absolute values of the maps: |m|."""
    return maps.abs()


def positive_normalize(maps: Maps) -> Maps:
    """Positive evidence for the target, each map rescaled to [0, 1]."""
    return rescale(positive(maps))


def negative_normalize(maps: Maps) -> Maps:
    """Negative evidence for the target, with its sign reversed, each map rescaled to [0, 1]."""
    return rescale(negative(maps))


def absolute_normalize(maps: Maps) -> Maps:
    """Absolute values, each map rescaled to [0, 1]: 0 is its smallest absolute value, 1 its largest."""
    return rescale(magnitude(maps))


def gaussian_blur(maps: Maps, sigma: float) -> Maps:
    """Gaussian blur along every axis; `sigma` is the standard deviation in pixels of the map. Edges are mirrored."""
    import torch
    from scipy.ndimage import gaussian_filter

    blurred = gaussian_filter(maps.double().cpu().numpy(), sigma, axes=tuple(range(2, maps.ndim)))
    return torch.from_numpy(blurred).to(maps)


def clip(maps: Maps, percentile: float) -> Maps:
    """Clip each map to [-p, p], where p is this percentile of its absolute values (linearly interpolated)."""
    limit = _percentile(maps, percentile)
    return maps.maximum(-limit).minimum(limit)


def top(maps: Maps, fraction: float) -> Maps:
    """Keep the fraction of values with the largest absolute values, ties included; 0 elsewhere."""
    flat = maps.flatten(2).abs()
    threshold = flat.topk(math.ceil(fraction * flat.shape[2]), dim=2).values[..., -1:]
    return maps.where((flat >= threshold).reshape(maps.shape), 0)


def _percentile(maps: Maps, percentile: float) -> Float[Tensor, "N K *ones"]:
    """Percentile of each map's absolute values, in a shape that broadcasts against the maps."""
    import numpy as np
    import torch

    flat = maps.flatten(2).abs().double().cpu().numpy()  # torch.quantile refuses large maps
    limits = torch.from_numpy(np.asarray(np.percentile(flat, percentile, axis=2))).to(maps)
    return limits.reshape(*maps.shape[:2], *[1] * (maps.ndim - 2))


FILTERS: dict[str, Filter] = {
    "channel_sum": Filter(channel_sum, reduces_channels=True),
    "channel_mean": Filter(channel_mean, reduces_channels=True),
    "channel_max": Filter(channel_max, reduces_channels=True),
    "absolute_sum": Filter(absolute_sum, reduces_channels=True),
    "absolute_max": Filter(absolute_max, reduces_channels=True),
    "positive": Filter(positive),
    "negative": Filter(negative),
    "magnitude": Filter(magnitude),
    "normalize": Filter(rescale),
    "positive_normalize": Filter(positive_normalize),
    "negative_normalize": Filter(negative_normalize),
    "absolute_normalize": Filter(absolute_normalize),
    "smooth": Filter(gaussian_blur, default=2.0, bounds=Range(0)),
    "clip": Filter(clip, default=99.0, bounds=Range(0, 100)),
    "top": Filter(top, default=0.1, bounds=Range(0, 1)),
}


def check_filters(filters: tuple[Any, ...]) -> None:
    """Check that filters can be applied in this order, before anything is computed.

    Args:
        filters: names of `FILTERS`, with their numbers, or functions.

    Raises:
        UnknownNameError: no filter has this name.
        OptionError: there is no filter, a number is out of range, or a channel filter is not the first.
    """
    if not filters:
        raise OptionError(f"no filter is given: give at least one of {', '.join(FILTERS)}.")
    for position, spec in enumerate(filters, 1):
        if position > 1 and not callable(spec) and _parse_filter(spec)[0].reduces_channels:
            raise OptionError(
                f"{spec!r} reduces the channels of the values, so it must be the first filter, not number {position}."
            )


def apply_filters(e: Explanation, *filters: str | Callable[[Any], Any]) -> Explanation:
    """Return the explanation with filtered maps; no forward or backward pass is made.

    Args:
        e: an explanation; its `values` do not change.
        *filters: applied in this order. Names of `seewhy.FILTERS`, with a number after "=" where the filter takes one
            ("smooth=2", "clip=99", "top=0.1"), or functions maps [N, K, *S] -> maps. A filter that reduces channels
            ("channel_mean") must be the first and starts from `values`; all others start from `maps`.

    Returns:
        A copy of `e` with new `maps`, `scaled` and `filters`. Every figure names the filters.

    Raises:
        UnknownNameError: no filter has this name.
        OptionError: there is no filter, a number is out of range, a channel filter is not the first, or a function
            returns another shape.
    """
    check_filters(filters)
    maps, names, raw = e.maps, list(e.filters), e.values
    for spec in filters:
        if callable(spec):
            result = spec(maps)
            if getattr(result, "shape", None) != maps.shape:
                shape = getattr(result, "shape", type(result).__name__)
                raise OptionError(
                    f"filter {_filter_label(spec)} returns {shape}, but it must return the shape of its argument, "
                    f"{tuple(maps.shape)}."
                )
            maps = result
        else:
            row, number = _parse_filter(spec)
            numbers = () if number is None else (number,)
            if row.reduces_channels:
                maps, names = row.apply(raw), []
                if maps.shape != e.maps.shape:
                    maps = resample(maps, e.maps.shape[2:], e.upsample)
            else:
                maps = row.apply(maps, *numbers)
        names.append(_filter_label(spec))
    constant = ((value_range(maps) == 0) & (value_range(e.maps) != 0)).nonzero().tolist()
    notes = tuple(
        f"the map of sample {n}, target {k} is constant after the filters: it shows nothing" for n, k in constant
    )
    return replace(e, maps=maps.float(), scaled=rescale(maps).float(), filters=tuple(names), notes=(*e.notes, *notes))


def _parse_filter(spec: Any) -> tuple[Filter, float | None]:
    """The filter with this name, and its number."""
    name, equals, text = str(spec).partition("=")
    if not isinstance(spec, str) or name not in FILTERS:
        raise unknown_name_error("filter", spec, FILTERS)
    row = FILTERS[name]
    if row.default is None:
        if equals:
            raise OptionError(f"filter {spec!r} is not valid: {name} takes no number.")
        return row, None
    if not equals:
        return row, row.default
    low, high = row.bounds
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not low < number <= high or math.isinf(number):
        allowed = f"a finite number above {low:g}" if math.isinf(high) else f"a number above {low:g}, up to {high:g}"
        raise OptionError(f"filter {spec!r} is not valid: give {allowed} after {name}=.")
    return row, number


def _filter_label(spec: Any) -> str:
    """The name of a filter in figures, with the default number filled in."""
    if callable(spec):
        return str(getattr(spec, "__name__", type(spec).__name__))
    number = _parse_filter(spec)[1]
    return str(spec) if number is None else f"{spec.partition('=')[0]}={number:g}"
