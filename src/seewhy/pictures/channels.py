"""A layer's activations: channels as tiles, the strongest beside the input."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from seewhy import maps
from seewhy.errors import OptionError

from .panels import draw_input, input_picture, strongest_slice
from .sheet import DPI, PANEL

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

    from seewhy.types import Activations


def montage(given: Activations, channels: int = 12, *, sample: int = 0) -> Image:
    """The first channels as tiles, on one grey scale: white the largest value of them all, black the smallest.

    Args:
        given: of `seewhy.activations`.
        channels: how many; those there are, where there are fewer.
        sample: of which input.

    Raises:
        OptionError: a layer without a picture's axes, or a sample that is not there.
    """
    from PIL import Image as Images

    if given.values.ndim != 4:
        raise OptionError(f"layer {given.layer!r} gives {list(given.values.shape)}: a montage tiles [N, C, H, W].")
    if channels < 1 or not 0 <= sample < len(given.values):
        raise OptionError(f"channels={channels}, sample={sample}: at least 1 channel, of {len(given.values)} samples.")
    tiles = given.values[sample, :channels].double().numpy()
    low, high = tiles.min(), tiles.max()
    grey = ((tiles - low) / ((high - low) or 1) * 255).round().astype(np.uint8)
    count, height, width = grey.shape
    columns = math.ceil(count**0.5)
    rows, gap, factor = -(-count // columns), 2, max(1, 96 // max(height, width))
    page = np.full((rows * (height * factor + gap) - gap, columns * (width * factor + gap) - gap), 90, np.uint8)
    for n, tile in enumerate(grey):
        top, left = n // columns * (height * factor + gap), n % columns * (width * factor + gap)
        page[top : top + height * factor, left : left + width * factor] = tile.repeat(factor, 0).repeat(factor, 1)
    return Images.fromarray(page)


def figure(given: Activations) -> Figure:
    """Each input beside its strongest channel, enlarged to the input's size; white is the largest value."""
    from matplotlib.figure import Figure

    if given.values.ndim != given.input.ndim:
        raise OptionError(f"layer {given.layer!r} gives {list(given.values.shape)}: no positions to draw.")
    best = given.strongest()
    page = Figure(figsize=(PANEL * 2 + 0.4, (PANEL + 0.35) * len(best) + 0.3), layout="constrained")
    for line, x, channel, (number, value) in zip(
        page.subplots(len(best), 2, squeeze=False), given.input, given.values, best, strict=True
    ):
        large = maps.resample(channel[number][None, None], x.shape[1:])[0, 0]
        where = strongest_slice(large)
        draw_input(line[0], input_picture(x, given.preparation, where))
        line[0].set_title("Input", fontsize=10)
        if large.ndim == 1:
            line[1].plot(large.double().numpy(), color="black", linewidth=1)
        else:
            line[1].imshow((large if where is None else large[where]).double().numpy(), cmap="gray")
            line[1].axis("off")
        line[1].set_title(f"channel {number}, largest {value:.4g}", fontsize=10)
    page.suptitle(f"Strongest channel of {given.layer}", fontsize=12, parse_math=False)
    return page


def png(given: Activations) -> bytes:
    """The figure as the bytes of a PNG file."""
    page = io.BytesIO()
    figure(given).savefig(page, format="png", dpi=DPI)
    return page.getvalue()


def show(given: Activations) -> Image:
    """The figure as a PIL picture, which a notebook displays."""
    from PIL import Image as Images

    return Images.open(io.BytesIO(png(given)))


def save(given: Activations, file: str | Path) -> None:
    """Write the figure; the ending (.png, .svg, .pdf) decides.

    Raises:
        OptionError: another ending.
    """
    path = Path(file)
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise OptionError(f"{path.name}: the ending must be one of .png, .svg, .pdf.")
    figure(given).savefig(path, dpi=DPI)
