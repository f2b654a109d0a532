"""Sheets: the input first, then maps, a title each and one over all, and a bar that says how they are scaled."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from seewhy.errors import OptionError
from seewhy.types import Explanation

from .colour import colormap, colour
from .overlay import overlay

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from PIL.Image import Image
    from torch import Tensor

    from seewhy.types import Card

DPI = 150
PANEL = 2.5  # inches


def show(explanations: Explanation | Sequence[Explanation], **options: Any) -> Image:
    """The sheet as a PIL picture, which a notebook displays; see `figure` for the options."""
    from PIL import Image as Images

    return Images.open(io.BytesIO(png(explanations, **options)))


def png(explanations: Explanation | Sequence[Explanation], **options: Any) -> bytes:
    """The sheet as the bytes of a PNG file; see `figure` for the options."""
    page = io.BytesIO()
    figure(explanations, **options).savefig(page, format="png", dpi=DPI)
    return page.getvalue()


def figure(
    explanations: Explanation | Sequence[Explanation],
    *,
    title: str | None = None,
    cmap: str | Any = "white_black",
    alpha: float | None = None,
    percentile: float = 99.5,
) -> Figure:
    """A sheet: one row a sample and target; the input first, then one map an explanation.

    Args:
        explanations: one, or several of the same input and targets.
        title: over all; default: label and probability, where there is one row.
        cmap: colormap, see `colormap`.
        alpha: draw the maps over the input, with this weight; None: on their own.
        percentile: each map's colours end at this percentile of its values (100: at its largest).

    Raises:
        OptionError: explanations of different inputs, or a value out of range.
    """
    from matplotlib.figure import Figure

    every = [explanations] if isinstance(explanations, Explanation) else list(explanations)
    if not every or not all(_same_question(e, every[0]) for e in every):
        raise OptionError("a sheet shows explanations of the same input and the same targets.")
    if not 0 < percentile <= 100:
        raise OptionError(f"percentile={percentile}: above 0, up to 100.")
    first = every[0]
    alike = len({e.title for e in every}) < len(every)  # one method at several layers
    rows = [(n, k) for n in range(first.maps.shape[0]) for k in range(first.maps.shape[1])]
    page = Figure(figsize=(PANEL * (1 + len(every)) + 0.9, (PANEL + 0.35) * len(rows) + 0.35), layout="constrained")
    page.get_layout_engine().set(w_pad=0.04, h_pad=0.05)  # type: ignore[union-attr, call-arg]
    axes = page.subplots(len(rows), 1 + len(every), squeeze=False)
    for line, (n, k) in zip(axes, rows, strict=True):
        where = strongest_slice(first.maps[n, k])
        picture = input_picture(first.input[n], first.preparation, where)
        draw_input(line[0], picture)
        _title(line[0], "Input" if len(rows) == 1 else caption(first, n, k))
        for axis, e in zip(line[1:], every, strict=True):
            draw_map(axis, e.maps[n, k], where, picture, cmap, alpha, percentile)
            named = f"{e.title}, {e.feature_layer}" if alike and e.feature_layer else e.title
            _title(axis, named + ("" if where is None else f", slice {where}"))
    over = title if title is not None else caption(first, 0, 0) if len(rows) == 1 else None
    if over:
        page.suptitle(over, fontsize=13, parse_math=False)
    if first.maps.ndim > 3:
        _bar(page, axes[:, -1].tolist(), cmap, percentile)
    return page


def _same_question(a: Explanation, b: Explanation) -> bool:
    return (
        a.input.shape == b.input.shape
        and a.maps.shape == b.maps.shape
        and bool((a.input == b.input).all())
        and (a.targets is None) == (b.targets is None)
        and (a.targets is None or b.targets is None or bool((a.targets == b.targets).all()))
    )


def _title(axis: Axes, text: str) -> None:
    axis.set_title(text, fontsize=10, parse_math=False)  # a label's $ is a $


def caption(e: Explanation, n: int, k: int) -> str:
    """Such as "Egyptian cat (0.77)": the label with its probability, or with the score where there is none."""
    name = f"target {k}" if e.labels is None else e.labels[n][k]
    number = e.scores if e.probabilities is None else e.probabilities
    return f"{name} ({float(number[n, k]):.2f})"


def path_figure(along: Tensor, preparation: Card | None, *, sample: int = 0, columns: int = 5,
                title: str = "Images along the integration path") -> Figure:  # fmt: skip
    """The pictures of `seewhy.path` [steps, N, 3 or 1, H, W] as tiles, one sample of them."""
    from matplotlib.figure import Figure

    count, whole = len(along), along[:, sample]
    rows = -(-count // columns)
    page = Figure(figsize=(1.5 * columns, 1.6 * rows + 0.4), layout="constrained")
    axes = page.subplots(rows, columns, squeeze=False)
    for number, axis in enumerate(axes.flat):
        axis.axis("off")
        if number < count:
            axis.imshow(input_picture(along[number, sample], preparation, None, whole))
            axis.set_title(f"{number / max(count - 1, 1):.2f}", fontsize=7, pad=2)
    page.suptitle(title, fontsize=12, parse_math=False)
    return page


def strongest_slice(scaled: Tensor) -> int | None:
    """For a volume [D, H, W] the slice that holds the largest value."""
    return int(scaled.flatten(1).amax(1).argmax()) if scaled.ndim == 3 else None


def input_picture(
    x: Tensor, preparation: Card | None, where: int | None, among: Tensor | None = None
) -> NDArray[np.float64]:
    """[C, *S] in the network's units -> [H, W, 3] in 0..1, or [C, T] as it is; `among`: share its range."""
    values = x.double().numpy()
    if values.ndim == 2:
        return values
    values = values if where is None else values[:, where]
    if preparation is not None and len(preparation.mean) == len(values):
        mean, std = (np.reshape(v, (-1, 1, 1)) for v in (preparation.mean, preparation.std))
        values = values * std + mean
    else:  # the units are not known: their own range
        reference = values if among is None else among.double().numpy()
        low, high = reference.min(), reference.max()
        values = (values - low) / ((high - low) or 1)
    values = values if len(values) == 3 else np.repeat(values.mean(0, keepdims=True), 3, 0)
    return np.asarray(values.clip(0, 1).transpose(1, 2, 0))


def draw_input(axis: Axes, picture: NDArray[np.float64]) -> None:
    """A picture, or the lines of a sequence."""
    if picture.ndim == 2:
        axis.plot(picture.T, linewidth=1)
        axis.tick_params(labelsize=7)
        axis.margins(x=0)
    else:
        axis.imshow(picture)
        axis.axis("off")


def draw_map(
    axis: Axes, values: Tensor, where: int | None, picture: Any, cmap: Any, alpha: float | None, percentile: float
) -> None:
    """A map [*S] in its own colours, or over the picture; a slice of a volume, the line of a sequence."""
    heat = values.double().numpy()
    low, high = float(heat.min()), float(np.percentile(heat, percentile))
    high = high if high > low else float(heat.max())
    if heat.ndim == 1:
        axis.plot(heat, color="black", linewidth=1)
        axis.fill_between(range(len(heat)), min(low, 0.0), heat, color="0.8")
        axis.tick_params(labelsize=7)
        axis.margins(x=0)
        return
    heat = heat if where is None else heat[where]
    scaled = ((heat - low) / ((high - low) or 1)).clip(0, 1)
    if alpha is not None and scaled.shape == picture.shape[:2]:
        axis.imshow(overlay(picture, scaled, alpha, cmap))
    else:
        axis.imshow(colour(scaled, cmap))
    axis.set(xticks=[], yticks=[])
    for edge in axis.spines.values():
        edge.set(color="0.8", linewidth=0.6)


def _bar(page: Figure, axes: list[Axes], cmap: Any, percentile: float) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    end = "largest value" if percentile == 100 else f"{percentile:g}th percentile"
    scale = ScalarMappable(Normalize(0, 1), ListedColormap(colormap(cmap).tolist()))
    bar = page.colorbar(scale, ax=axes, fraction=0.08, pad=0.04, ticks=[0, 0.5, 1])
    bar.set_label(f"each map: 0 its smallest value,\n1 its {end}", fontsize=8)
    bar.ax.tick_params(labelsize=8)
