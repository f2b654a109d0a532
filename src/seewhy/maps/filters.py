"""Filters by name: from the raw result, or from a map, to another map. This is their table."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from seewhy.errors import OptionError, unknown
from seewhy.types import Between, Explanation

from . import absolute_sum, channel_sum, rescale, spread
from .resample import resample

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from seewhy.types import Maps, Values


class Filter(NamedTuple):
    """One line of the table.

    Attributes:
        apply: map -> map, each map for itself; or values -> map. With a number, that comes second.
        channels: whether it takes the raw values [N, K, C, *S'] and leaves one map of each.
        number: what stands behind "=" in its name, by default; None: it takes none.
        between: the numbers that are allowed.
    """

    apply: Callable[..., Any]
    channels: bool = False
    number: float | None = None
    between: Between = Between()


def channel_mean(values: Values) -> Maps:
    """Signed mean of the channels."""
    return values.mean(dim=2)


def channel_max(values: Values) -> Maps:
    """Largest signed value of the channels."""
    return values.amax(dim=2)


def absolute_max(values: Values) -> Maps:
    """Largest of the channels' absolute values (Simonyan et al. 2014, section 3.1)."""
    return values.abs().amax(dim=2)


def positive(maps: Maps) -> Maps:
    """What speaks for the class; 0 elsewhere."""
    return maps.clamp(min=0)


def negative(maps: Maps) -> Maps:
    """What speaks against the class, as numbers above 0; 0 elsewhere."""
    return (-maps).clamp(min=0)


def magnitude(maps: Maps) -> Maps:
    """Absolute values: how much, whether for or against."""
    return maps.abs()


def positive_normalize(maps: Maps) -> Maps:
    """What speaks for the class, each map to [0, 1]."""
    return rescale(positive(maps))


def negative_normalize(maps: Maps) -> Maps:
    """What speaks against the class, each map to [0, 1]."""
    return rescale(negative(maps))


def absolute_normalize(maps: Maps) -> Maps:
    """Absolute values, each map to [0, 1]: 0 is its smallest absolute value, 1 its largest."""
    return rescale(magnitude(maps))


def smooth(maps: Maps, sigma: float) -> Maps:
    """A Gaussian blur over every axis, of this standard deviation in places of the map; edges mirrored."""
    import torch
    from scipy.ndimage import gaussian_filter

    blurred = gaussian_filter(maps.double().cpu().numpy(), sigma, axes=tuple(range(2, maps.ndim)))
    return torch.from_numpy(blurred).to(maps)


def clip(maps: Maps, percentile: float) -> Maps:
    """Each map cut off where its absolute values reach this percentile (linear between places), above and below 0."""
    end = _percentile(maps, percentile)
    return maps.maximum(-end).minimum(end)


def top(maps: Maps, share: float) -> Maps:
    """The share of places with the largest absolute values; 0 elsewhere. All that tie with the last of them stay."""
    flat = maps.flatten(2).abs()
    least = flat.topk(math.ceil(share * flat.shape[2]), dim=2).values[..., -1:]
    return maps.where((flat >= least).reshape(maps.shape), 0)


def _percentile(maps: Maps, percentile: float) -> Float[Tensor, "N K *ones"]:
    """Of each map's absolute values, with axes that fit the map."""
    import numpy as np
    import torch

    flat = maps.flatten(2).abs().double().cpu().numpy()  # torch.quantile refuses large maps
    found = torch.from_numpy(np.asarray(np.percentile(flat, percentile, axis=2))).to(maps)
    return found.reshape(*maps.shape[:2], *[1] * (maps.ndim - 2))


FILTERS: dict[str, Filter] = {
    "channel_sum": Filter(channel_sum, channels=True),
    "channel_mean": Filter(channel_mean, channels=True),
    "channel_max": Filter(channel_max, channels=True),
    "absolute_sum": Filter(absolute_sum, channels=True),
    "absolute_max": Filter(absolute_max, channels=True),
    "positive": Filter(positive),
    "negative": Filter(negative),
    "magnitude": Filter(magnitude),
    "normalize": Filter(rescale),
    "positive_normalize": Filter(positive_normalize),
    "negative_normalize": Filter(negative_normalize),
    "absolute_normalize": Filter(absolute_normalize),
    "smooth": Filter(smooth, number=2.0, between=Between(0)),
    "clip": Filter(clip, number=99.0, between=Between(0, 100)),
    "top": Filter(top, number=0.1, between=Between(0, 1)),
}


def check_steps(steps: tuple[Any, ...]) -> None:
    """Refuse steps that cannot follow each other, before anything is computed.

    Raises:
        UnknownNameError: no such filter.
        OptionError: no step, a number out of range, or a channel filter that is not the first.
    """
    if not steps:
        raise OptionError(f"no filter is named: give at least one of {', '.join(FILTERS)}.")
    for place, step in enumerate(steps):
        if not callable(step) and _read(step)[0].channels and place:
            raise OptionError(f"{step!r} reads the channels of the raw result: it stands first, not at {place + 1}.")


def filtered(e: Explanation, *steps: str | Callable[[Any], Any]) -> Explanation:
    """The same explanation with maps made anew: nothing is computed by the network again.

    Args:
        e: an explanation; its `values` stay as they are.
        *steps: in this order. Names of `seewhy.FILTERS`, with a number behind "=" where one is taken ("smooth=2",
            "clip=99", "top=0.1"), or functions maps [N, K, *S] -> maps. One that reduces channels ("channel_mean")
            stands first and begins at `values`; otherwise `maps` are filtered further.

    Returns:
        `Explanation` with other `maps`, `scaled` and `filters`, which every picture names.

    Raises:
        UnknownNameError: no such filter.
        OptionError: no step, a number out of range, a channel filter that is not the first, or a function that gives
            another shape.
    """
    check_steps(steps)
    maps, names, raw = e.maps, list(e.filters), e.values
    for step in steps:
        if callable(step):
            made = step(maps)
            if getattr(made, "shape", None) != maps.shape:
                shape = getattr(made, "shape", type(made).__name__)
                raise OptionError(f"filter {_name(step)} gives {shape}: {tuple(maps.shape)}, as it got, is needed.")
            maps = made
        else:
            line, number = _read(step)
            given = () if number is None else (number,)
            if line.channels:
                maps, names = line.apply(raw), []
                if maps.shape != e.maps.shape:
                    maps = resample(maps, e.maps.shape[2:], e.upsample)
            else:
                maps = line.apply(maps, *given)
        names.append(_name(step))
    flat = ((spread(maps) == 0) & (spread(e.maps) != 0)).nonzero().tolist()
    notes = tuple(f"the filters leave the map of sample {n}, target {k} constant: it shows nothing" for n, k in flat)
    return replace(e, maps=maps.float(), scaled=rescale(maps).float(), filters=tuple(names), notes=(*e.notes, *notes))


def _read(step: Any) -> tuple[Filter, float | None]:
    """A line of the table, and the number that it is given."""
    name, equals, text = str(step).partition("=")
    if not isinstance(step, str) or name not in FILTERS:
        raise unknown("filter", step, FILTERS)
    line = FILTERS[name]
    if line.number is None:
        if equals:
            raise OptionError(f"filter {step!r}: {name} takes no number.")
        return line, None
    if not equals:
        return line, line.number
    low, high = line.between
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not low < number <= high or math.isinf(number):
        span = f"a number above {low:g}" + ("" if math.isinf(high) else f", up to {high:g},")
        raise OptionError(f"filter {step!r}: {span} is needed behind {name}=.")
    return line, number


def _name(step: Any) -> str:
    """What the picture says: defaults filled in."""
    if callable(step):
        return str(getattr(step, "__name__", type(step).__name__))
    number = _read(step)[1]
    return str(step) if number is None else f"{step.partition('=')[0]}={number:g}"
