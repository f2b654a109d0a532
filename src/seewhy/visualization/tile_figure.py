"""Figures of picture tiles, and conversions to PIL images."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from seewhy.errors import OptionError

from .sheet import DPI, PANEL_INCHES

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image
    from torch import Tensor


def tile_images(
    pictures: Tensor | Sequence[Tensor], titles: Sequence[str], *, columns: int | None = None, title: str | None = None
) -> Figure:
    """Draw pictures as tiles, row by row.

    Args:
        pictures: M tensors [3 or 1, H, W] in [0, 1], of any sizes.
        titles: one per picture; may contain line breaks.
        columns: tiles per row; None: all in one row.
        title: title of the figure.

    Raises:
        OptionError: no pictures, another number of titles than of pictures, or `columns` below 1.
    """
    from matplotlib.figure import Figure

    if not len(pictures) or len(titles) != len(pictures) or (columns is not None and columns < 1):
        raise OptionError(
            f"{len(pictures)} pictures, {len(titles)} titles, columns={columns}: pass at least one picture, one title "
            "per picture, and at least 1 column."
        )
    columns = columns or len(pictures)
    rows = -(-len(pictures) // columns)
    page = Figure(
        figsize=(PANEL_INCHES * columns, (PANEL_INCHES + 0.4) * rows + (0.4 if title else 0)), layout="constrained"
    )
    axes = page.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, picture, name in zip(axes.flat, pictures, titles, strict=False):
        axis.imshow(np.asarray(tensor_to_image(picture).convert("RGB")))
        axis.set_title(name, fontsize=10, parse_math=False)
    if title:
        page.suptitle(title, fontsize=13, parse_math=False)
    return page


def tensor_to_image(picture: Tensor) -> Image:
    """Convert a tensor [3 or 1, H, W] in [0, 1] to an 8-bit PIL image.

    Raises:
        OptionError: another shape or range.
    """
    from PIL import Image as Images

    values = picture.detach().double().cpu().numpy()
    if values.ndim != 3 or len(values) not in (1, 3) or not ((values >= 0) & (values <= 1)).all():
        found = f"{list(values.shape)} from {values.min():.4g} to {values.max():.4g}" if values.size else "empty"
        raise OptionError(f"a picture must be [3 or 1, H, W] in [0, 1], this one is {found}.")
    pixels = (values * 255).round().astype(np.uint8)
    return Images.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


def figure_to_image(page: Figure) -> Image:
    """Render a matplotlib figure, such as that of `tile_images` or `figure`, as a PIL image."""
    from PIL import Image as Images

    file = io.BytesIO()
    page.savefig(file, format="png", dpi=DPI)
    return Images.open(file)
