"""Panels of a sheet: draw an input, or a map, into one axis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .color_scale import ColorRange, ColorScale
from .colormaps import apply_colormap
from .overlay import overlay

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray
    from torch import Tensor

    from seewhy.inputs.preprocessing import Preprocessing

SEQUENCE_ALPHA = 0.6  # default weight of a map that is drawn behind the lines of a sequence


def strongest_slice(values: Tensor) -> int | None:
    """Index of the slice with the largest value of a volume [D, H, W]; None for other shapes."""
    return int(values.flatten(1).amax(1).argmax()) if values.ndim == 3 else None


def input_picture(
    x: Tensor, preparation: Preprocessing | None, slice_index: int | None, reference: Tensor | None = None
) -> NDArray[np.float64]:
    """Convert a normalized input to a picture for display.

    Args:
        x: [C, *S], as the network receives it.
        preparation: its mean and standard deviation are undone; None: values are rescaled to 0..1.
        slice_index: slice of a volume [C, D, H, W] to show; None for other inputs.
        reference: without `preparation`, values are rescaled by the range of this tensor; None: by that of `x`.

    Returns:
        [H, W, 3] in 0..1; a sequence [C, T] is returned unchanged.
    """
    values = x.double().numpy()
    if values.ndim == 2:
        return values
    full_range = values if reference is None else reference.double().numpy()
    values = values if slice_index is None else values[:, slice_index]
    if preparation is not None and len(preparation.mean) == len(values):
        mean, std = (np.reshape(v, (-1, 1, 1)) for v in (preparation.mean, preparation.std))
        values = values * std + mean
    else:  # the normalization is unknown
        low, high = full_range.min(), full_range.max()
        values = (values - low) / ((high - low) or 1)
    values = values if len(values) == 3 else np.repeat(values.mean(0, keepdims=True), 3, 0)
    return np.asarray(values.clip(0, 1).transpose(1, 2, 0))


def draw_input(axis: Axes, picture: NDArray[np.float64]) -> None:
    """Draw a picture [H, W, 3], or a sequence [C, T] as one line per channel."""
    if picture.ndim == 2:
        _draw_sequence(axis, picture)
    else:
        axis.imshow(picture)
        axis.axis("off")


def draw_map(
    axis: Axes,
    values: Tensor,
    slice_index: int | None,
    picture: NDArray[np.float64],
    cmap: Any,
    alpha: float | None,
    scale: ColorScale,
) -> ColorRange:
    """Draw a map: on its own, over the picture, or behind and below the lines of a sequence.

    Args:
        axis: where to draw.
        values: the map, [*S].
        slice_index: slice of a volume [D, H, W] to show; None for other maps.
        picture: the result of `input_picture`.
        cmap: see `colormap`.
        alpha: weight of the map over the picture; None: the map alone (`SEQUENCE_ALPHA` for a sequence).
        scale: the color scale.

    Returns:
        The values of the first and the last color.
    """
    heat = values.double().numpy()
    color_range = scale.range_of(heat)
    if heat.ndim == 1:
        _draw_sequence_map(axis, heat, picture, cmap, SEQUENCE_ALPHA if alpha is None else alpha, color_range)
        return color_range
    scaled = color_range.normalize(heat if slice_index is None else heat[slice_index])
    if alpha is not None and scaled.shape == picture.shape[:2]:
        axis.imshow(overlay(picture, scaled, alpha, cmap))
    else:
        axis.imshow(apply_colormap(scaled, cmap))
    axis.set(xticks=[], yticks=[])
    for edge in axis.spines.values():
        edge.set(color="0.8", linewidth=0.6)
    return color_range


def _draw_sequence_map(
    axis: Axes,
    heat: NDArray[np.float64],
    picture: NDArray[np.float64],
    cmap: Any,
    alpha: float,
    color_range: ColorRange,
) -> None:
    """Draw the lines of a sequence over the map as background color; below, the map as a curve."""
    background = 1 - alpha + alpha * apply_colormap(color_range.normalize(heat)[None], cmap) / 255
    length = picture.shape[1]  # a map that was not resampled is stretched over the length of the input
    axis.imshow(background, extent=(-0.5, length - 0.5, 0, 1), transform=axis.get_xaxis_transform(), aspect="auto")
    _draw_sequence(axis, picture)
    axis.set_xlim(-0.5, length - 0.5)
    axis.tick_params(labelbottom=False)
    curve = axis.inset_axes((0, -0.48, 1, 0.44))
    positions = (np.arange(len(heat)) + 0.5) * length / len(heat) - 0.5
    curve.fill_between(positions, min(float(heat.min()), 0.0), heat, color="0.8")
    curve.plot(positions, heat, color="black", linewidth=1)
    curve.set_xlim(-0.5, length - 0.5)
    curve.tick_params(labelsize=7)


def _draw_sequence(axis: Axes, picture: NDArray[np.float64]) -> None:
    from matplotlib.patheffects import Normal, Stroke

    for line in axis.plot(picture.T, linewidth=1):  # a white outline is visible on any background
        line.set_path_effects([Stroke(linewidth=2, foreground="white", alpha=0.7), Normal()])
    axis.tick_params(labelsize=7)
    axis.margins(x=0)
