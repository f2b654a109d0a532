"""Pictures that were made, as tiles with titles."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from seewhy.errors import OptionError

from .sheet import DPI, PANEL

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image
    from torch import Tensor


def gallery(
    pictures: Tensor | Sequence[Tensor], titles: Sequence[str], *, columns: int | None = None, title: str | None = None
) -> Figure:
    """Tiles, row by row.

    Args:
        pictures: M of [3 or 1, H, W] in [0, 1], of any sizes.
        titles: one a picture; a line break makes two lines.
        columns: tiles a row; None: all in one row.
        title: over all.

    Raises:
        OptionError: as many titles as pictures are needed, and at least one of each.
    """
    from matplotlib.figure import Figure

    if not len(pictures) or len(titles) != len(pictures) or (columns is not None and columns < 1):
        raise OptionError(f"{len(pictures)} pictures, {len(titles)} titles, columns={columns}: a title a picture.")
    wide = columns or len(pictures)
    high = -(-len(pictures) // wide)
    page = Figure(figsize=(PANEL * wide, (PANEL + 0.4) * high + (0.4 if title else 0)), layout="constrained")
    axes = page.subplots(high, wide, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, picture, name in zip(axes.flat, pictures, titles, strict=False):
        axis.imshow(np.asarray(image(picture).convert("RGB")))
        axis.set_title(name, fontsize=10, parse_math=False)
    if title:
        page.suptitle(title, fontsize=13, parse_math=False)
    return page


def image(picture: Tensor) -> Image:
    """A picture [3 or 1, H, W] in [0, 1] for PIL, 8 bits a colour.

    Raises:
        OptionError: another shape or range.
    """
    from PIL import Image as Images

    values = picture.detach().double().cpu().numpy()
    if values.ndim != 3 or len(values) not in (1, 3) or not ((values >= 0) & (values <= 1)).all():
        span = f"{list(values.shape)} from {values.min():.4g} to {values.max():.4g}" if values.size else "empty"
        raise OptionError(f"a picture is [3 or 1, H, W] in [0, 1], this one is {span}.")
    bits = (values * 255).round().astype(np.uint8)
    return Images.fromarray(bits[0] if len(bits) == 1 else bits.transpose(1, 2, 0))


def drawn(page: Figure) -> Image:
    """A figure, of `gallery` or `figure`, as a PIL picture, which a notebook displays."""
    from PIL import Image as Images

    file = io.BytesIO()
    page.savefig(file, format="png", dpi=DPI)
    return Images.open(file)
