"""Figures of a layer's activations: channels as tiles, and the strongest channel beside the input."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from seewhy import maps
from seewhy.errors import OptionError

from .panels import draw_input, input_picture, strongest_slice
from .sheet import DPI, FIGURE_ENDINGS, PANEL_INCHES

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

    from seewhy.results import Activations


def montage(activations: Activations, channels: int = 12, *, sample: int = 0) -> Image:
    """Tile the first channels on one gray scale: white is the largest value of all tiles, black the smallest.

    Args:
        activations: result of `seewhy.activations`.
        channels: number of channels; all of them if the layer has fewer.
        sample: index of the sample in the batch.

    Returns:
        A PIL image of mode "L".

    Raises:
        OptionError: the layer has no two spatial axes, or `channels` or `sample` is out of range.
    """
    from PIL import Image as Images

    values = activations.values
    if values.ndim != 4:
        raise OptionError(
            f"layer {activations.layer!r} has the output shape {list(values.shape)}: a montage needs [N, C, H, W]."
        )
    if channels < 1 or not 0 <= sample < len(values):
        raise OptionError(
            f"channels={channels}, sample={sample}: channels must be at least 1, sample from 0 to {len(values) - 1}."
        )
    tiles = values[sample, :channels].double().numpy()
    low, high = tiles.min(), tiles.max()
    gray = ((tiles - low) / ((high - low) or 1) * 255).round().astype(np.uint8)
    count, height, width = gray.shape
    columns = math.ceil(count**0.5)
    rows, gap, factor = -(-count // columns), 2, max(1, 96 // max(height, width))
    page = np.full((rows * (height * factor + gap) - gap, columns * (width * factor + gap) - gap), 90, np.uint8)
    for i, tile in enumerate(gray):
        top, left = i // columns * (height * factor + gap), i % columns * (width * factor + gap)
        page[top : top + height * factor, left : left + width * factor] = tile.repeat(factor, 0).repeat(factor, 1)
    return Images.fromarray(page)


def strongest_channel_figure(activations: Activations) -> Figure:
    """Draw each input beside its strongest channel, resampled to the input's size; white is the largest value.

    Raises:
        OptionError: the layer's output has other axes than the input.
    """
    from matplotlib.figure import Figure

    if activations.values.ndim != activations.input.ndim:
        raise OptionError(
            f"layer {activations.layer!r} has the output shape {list(activations.values.shape)}: it has no spatial "
            "positions to draw. Choose a layer with as many axes as the input."
        )
    strongest = activations.strongest()
    page = Figure(figsize=(PANEL_INCHES * 2 + 0.4, (PANEL_INCHES + 0.35) * len(strongest) + 0.3), layout="constrained")
    for axes, x, values, (channel, value) in zip(
        page.subplots(len(strongest), 2, squeeze=False), activations.input, activations.values, strongest, strict=True
    ):
        resampled = maps.resample(values[channel][None, None], x.shape[1:])[0, 0]
        slice_index = strongest_slice(resampled)
        draw_input(axes[0], input_picture(x, activations.preparation, slice_index))
        axes[0].set_title("Input", fontsize=10)
        if resampled.ndim == 1:
            axes[1].plot(resampled.double().numpy(), color="black", linewidth=1)
        else:
            shown = resampled if slice_index is None else resampled[slice_index]
            axes[1].imshow(shown.double().numpy(), cmap="gray")
            axes[1].axis("off")
        axes[1].set_title(f"channel {channel}, maximum {value:.4g}", fontsize=10)
    page.suptitle(f"Strongest channel of {activations.layer}", fontsize=12, parse_math=False)
    return page


def activations_png(activations: Activations) -> bytes:
    """Encode the figure as PNG."""
    page = io.BytesIO()
    strongest_channel_figure(activations).savefig(page, format="png", dpi=DPI)
    return page.getvalue()


def show_activations(activations: Activations) -> Image:
    """Render the figure as a PIL image, which a notebook displays."""
    from PIL import Image as Images

    return Images.open(io.BytesIO(activations_png(activations)))


def save_activations(activations: Activations, file: str | Path) -> None:
    """Write the figure; the file's ending decides the format: .png, .svg, .pdf.

    Raises:
        OptionError: another ending.
    """
    path = Path(file)
    if path.suffix.lower() not in FIGURE_ENDINGS:
        raise OptionError(f"{path.name}: the ending must be one of {', '.join(FIGURE_ENDINGS)}.")
    strongest_channel_figure(activations).savefig(path, dpi=DPI)
