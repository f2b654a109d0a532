"""Sheets: the input first, then maps, a title each and one over all, and a bar that says how they are scaled."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from seewhy.errors import OptionError, choose
from seewhy.types import Explanation

from .colour import colormap
from .panels import SHADE, draw_input, draw_map, input_picture
from .places import LAYOUTS, caption, names
from .scale import Scale, scale_of
from .verdicts import badge, verdict_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image
    from torch import Tensor

    from seewhy.types import Card, Evidence

DPI = 150
PANEL = 2.5  # inches
LARGEST = 2**16  # pixels a side
DRAWN = (".png", ".svg", ".pdf")
REPORTED = (".html", ".htm")


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
    titles: Sequence[str] | None = None,
    cmap: str | Any = "white_black",
    alpha: float | None = None,
    percentile: float = 99.5,
    scale: str = "own",
    layout: str = "methods",
    columns: int | None = None,
    slices: int = 1,
    evidence: Evidence | None = None,
) -> Figure:
    """A sheet: inputs and their maps. Below each map stand its smallest value and the one where its colours end.

    Args:
        explanations: one, or several of the same input and targets (of several methods, layers or networks).
        title: over all; default: label and probability, where there is one line.
        titles: one an explanation; default: method, layer where it differs, and filters.
        cmap: colormap, see `colormap`; a diverging one has zero in its middle.
        alpha: draw the maps over the input, with this weight; None: on their own (behind the lines of a sequence 0.6).
        percentile: colours end at this percentile of a map's values (100: at its largest).
        scale: "own", each map uses all colours; "shared": one span of values for all maps, of one method.
        layout: "methods": a line a sample and target, the input and a map an explanation; "classes": a line a sample
            and explanation, the input and a map a class; "grid": all inputs, then all maps, in lines of `columns`.
        columns: of the grid; default: as many as there are inputs.
        slices: of a volume so many, from end to end, in lines of their own; 1: the one with the largest value.
        evidence: of `seewhy.check`; its word stands on each map that it holds for.

    Raises:
        OptionError: explanations of different inputs, maps of different methods on one scale, evidence of another
            network, or a value out of range.
    """
    from matplotlib.figure import Figure

    every = [explanations] if isinstance(explanations, Explanation) else list(explanations)
    if not every or not all(same_question(e, every[0]) and e.maps.shape == every[0].maps.shape for e in every):
        raise OptionError("a sheet shows explanations of the same input and the same targets.")
    choose("layout", layout, LAYOUTS)
    _check_numbers(every, layout, columns, slices)
    if titles is not None and len(titles) != len(every):
        raise OptionError(f"{len(titles)} titles for {len(every)} explanations: one each.")
    if scale == "shared" and len({(e.method, e.score, e.filters) for e in every}) > 1:
        raise OptionError("scale='shared' compares values, and those of different methods have different units.")
    span = scale_of(scale, [e.maps for e in every], cmap, percentile)
    words = {id(e): verdict_of(e, evidence) for e in every} if evidence is not None else {}
    first = every[0]
    lines = LAYOUTS[layout](every, titles or names(every), slices, columns)
    wide, sequence = max(map(len, lines)), first.maps.ndim == 3
    rows_of_title = max(p.title.count("\n") for line in lines for p in line if p)
    high = PANEL * first.maps.shape[-2] / first.maps.shape[-1] if not sequence else PANEL * 0.75
    high = min(max(high, PANEL / 2), PANEL * 1.5) + 0.42 + 0.15 * rows_of_title
    inches = (PANEL * wide + 1.1, high * len(lines) + 0.4)
    if max(inches) * DPI >= LARGEST:
        raise OptionError(
            f"a sheet of {len(lines)} lines and {wide} columns would be larger than can be drawn ({LARGEST} pixels a "
            "side): explain fewer targets or samples at a time."
        )
    page = Figure(figsize=inches, layout="constrained")
    page.get_layout_engine().set(w_pad=0.04, h_pad=0.05)  # type: ignore[union-attr, call-arg]
    axes = page.subplots(len(lines), wide, squeeze=False)
    maps_at: list[tuple[int, Axes]] = []
    for number, (line, row) in enumerate(zip(lines, axes, strict=True)):
        for place, axis in zip((*line, *[None] * (wide - len(line))), row, strict=True):
            if place is None:
                axis.remove()
                continue
            n, k, e = place.n, place.k, place.e
            picture = input_picture(first.input[n], first.preparation, place.where)
            _title(axis, place.title + ("" if place.where is None else f", slice {place.where}"))
            if e is None:
                draw_input(axis, picture)
                continue
            shown = draw_map(axis, e.maps[n, k], place.where, picture, cmap, alpha, span)
            if span.shared is None and not sequence:
                axis.set_xlabel(str(shown), fontsize=7, color="0.35", labelpad=2)
            if id(e) in words:
                badge(axis, words[id(e)])
            maps_at.append((number, axis))
    over = title if title is not None else caption(first, 0, 0) if _one_line(first, layout) else None
    if over:
        page.suptitle(over, fontsize=13, parse_math=False)
    right = [axis for number, axis in maps_at if number == maps_at[0][0]][-1]  # end of the first line with maps
    _bar(right, cmap, span, (SHADE if alpha is None else alpha) if sequence else 1.0)
    return page


def _check_numbers(every: Sequence[Explanation], layout: str, columns: int | None, slices: int) -> None:
    if columns is not None and (columns < 1 or layout != "grid"):
        raise OptionError(f"columns={columns}, layout={layout!r}: at least 1, of layout='grid'.")
    if slices != 1 and (slices < 1 or layout != "methods" or every[0].maps.ndim != 5):
        raise OptionError(f"slices={slices}: at least 1, of volumes [N, K, D, H, W] in layout='methods'.")


def _one_line(e: Explanation, layout: str) -> bool:
    """Whether the sheet is of one question, which then stands over it."""
    return layout == "methods" and e.maps.shape[:2] == (1, 1)


def same_question(a: Explanation, b: Explanation) -> bool:
    """Whether two explanations are of the same input and the same targets."""
    return (
        a.input.shape == b.input.shape
        and a.scores.shape == b.scores.shape
        and bool((a.input == b.input).all())
        and (a.targets is None) == (b.targets is None)
        and (a.targets is None or b.targets is None or bool((a.targets == b.targets).all()))
    )


def _title(axis: Axes, text: str) -> None:
    axis.set_title(text, fontsize=10, parse_math=False)  # a label's $ is a $


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


def _bar(axis: Axes, cmap: Any, scale: Scale, alpha: float) -> None:
    """Beside one map and as tall as it: what the colours say, in words and numbers."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    low, high = scale.shared or ((-1.0, 1.0) if scale.signed else (0.0, 1.0))
    given = ScalarMappable(Normalize(low, high if high > low else low + 1), ListedColormap(colormap(cmap).tolist()))
    bar = axis.figure.colorbar(
        given, cax=axis.inset_axes((1.05, 0, 0.07, 1)), ticks=[low, (low + high) / 2, high], alpha=alpha
    )
    bar.ax.set_yticklabels([f"{tick:.2g}" for tick in (low, (low + high) / 2, high)])
    bar.set_label(scale.words(), fontsize=8)
    bar.ax.tick_params(labelsize=8)
