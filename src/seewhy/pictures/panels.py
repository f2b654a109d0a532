"""What stands in one place of a sheet: an input, or a map of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .colour import colour
from .overlay import overlay
from .scale import Scale, Span

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray
    from torch import Tensor

    from seewhy.types import Card

SHADE = 0.6  # weight of a map behind the lines of a sequence, where none is asked for


def strongest_slice(values: Tensor) -> int | None:
    """For a volume [D, H, W] the slice that holds the largest value."""
    return int(values.flatten(1).amax(1).argmax()) if values.ndim == 3 else None


def input_picture(
    x: Tensor, preparation: Card | None, where: int | None, among: Tensor | None = None
) -> NDArray[np.float64]:
    """[C, *S] in the network's units -> [H, W, 3] in 0..1, or [C, T] as it is; `among`: share its range."""
    values = x.double().numpy()
    if values.ndim == 2:
        return values
    whole = values
    values = values if where is None else values[:, where]
    if preparation is not None and len(preparation.mean) == len(values):
        mean, std = (np.reshape(v, (-1, 1, 1)) for v in (preparation.mean, preparation.std))
        values = values * std + mean
    else:  # the units are not known: the range of what is shown, of a volume that of all its slices
        reference = whole if among is None else among.double().numpy()
        low, high = reference.min(), reference.max()
        values = (values - low) / ((high - low) or 1)
    values = values if len(values) == 3 else np.repeat(values.mean(0, keepdims=True), 3, 0)
    return np.asarray(values.clip(0, 1).transpose(1, 2, 0))


def draw_input(axis: Axes, picture: NDArray[np.float64]) -> None:
    """A picture, or the lines of a sequence."""
    if picture.ndim == 2:
        _lines(axis, picture)
    else:
        axis.imshow(picture)
        axis.axis("off")


def draw_map(
    axis: Axes,
    values: Tensor,
    where: int | None,
    picture: NDArray[np.float64],
    cmap: Any,
    alpha: float | None,
    scale: Scale,
) -> Span:
    """A map [*S] in its own colours, or over the picture; a slice of a volume; behind and below the lines of a
    sequence. Gives the span of its colours.
    """
    heat = values.double().numpy()
    span = scale.span(heat)
    if heat.ndim == 1:
        _sequence(axis, heat, picture, cmap, SHADE if alpha is None else alpha, span)
        return span
    scaled = span.share(heat if where is None else heat[where])
    if alpha is not None and scaled.shape == picture.shape[:2]:
        axis.imshow(overlay(picture, scaled, alpha, cmap))
    else:
        axis.imshow(colour(scaled, cmap))
    axis.set(xticks=[], yticks=[])
    for edge in axis.spines.values():
        edge.set(color="0.8", linewidth=0.6)
    return span


def _sequence(
    axis: Axes, heat: NDArray[np.float64], picture: NDArray[np.float64], cmap: Any, alpha: float, span: Span
) -> None:
    """The input's lines before the map as shades; below, the map as a curve."""
    shades = 1 - alpha + alpha * colour(span.share(heat)[None], cmap) / 255
    long = picture.shape[1]  # a map that was not brought to the input's size covers its length all the same
    axis.imshow(shades, extent=(-0.5, long - 0.5, 0, 1), transform=axis.get_xaxis_transform(), aspect="auto")
    _lines(axis, picture)
    axis.set_xlim(-0.5, long - 0.5)
    axis.tick_params(labelbottom=False)
    curve = axis.inset_axes((0, -0.48, 1, 0.44))
    places = (np.arange(len(heat)) + 0.5) * long / len(heat) - 0.5
    curve.fill_between(places, min(float(heat.min()), 0.0), heat, color="0.8")
    curve.plot(places, heat, color="black", linewidth=1)
    curve.set_xlim(-0.5, long - 0.5)
    curve.tick_params(labelsize=7)


def _lines(axis: Axes, picture: NDArray[np.float64]) -> None:
    from matplotlib.patheffects import Normal, Stroke

    for line in axis.plot(picture.T, linewidth=1):  # a light rim, to be seen before any shade
        line.set_path_effects([Stroke(linewidth=2, foreground="white", alpha=0.7), Normal()])
    axis.tick_params(labelsize=7)
    axis.margins(x=0)
