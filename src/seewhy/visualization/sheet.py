"""Sheets: figures with inputs and their maps, titles, and a color bar."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from seewhy.errors import OptionError, check_choice
from seewhy.results import Explanation

from .color_scale import ColorScale, make_color_scale
from .colormaps import colormap
from .panels import SEQUENCE_ALPHA, draw_input, draw_map, input_picture
from .sheet_layout import SHEET_LAYOUTS, caption, explanation_names
from .verdict_badge import draw_badge, map_verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image
    from torch import Tensor

    from seewhy.inputs.preprocessing import Preprocessing
    from seewhy.results import Evidence

DPI = 150
PANEL_INCHES = 2.5  # width of a panel
MAX_SHEET_PIXELS = 2**16  # per side
FIGURE_ENDINGS = (".png", ".svg", ".pdf")
REPORT_ENDINGS = (".html", ".htm")


def show(explanations: Explanation | Sequence[Explanation], **options: Any) -> Image:
    """Render the sheet as a PIL image, which a notebook displays; see `figure` for the options."""
    from PIL import Image as Images

    return Images.open(io.BytesIO(png(explanations, **options)))


def png(explanations: Explanation | Sequence[Explanation], **options: Any) -> bytes:
    """Encode the sheet as PNG; see `figure` for the options."""
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
    """Draw a sheet of inputs and their maps. Below each map are the values of its first and its last color.

    Args:
        explanations: one, or several of the same input and targets (by different methods, layers or networks).
        title: title of the sheet; default: label and probability, if there is one sample and one target.
        titles: titles of the maps, one per explanation; default: method, layer where it differs, and filters.
        cmap: colormap, see `colormap`; with a diverging one, zero gets the middle color.
        alpha: draw the maps over the input with this weight; None: maps alone (0.6 behind the lines of a sequence).
        percentile: the last color stands for this percentile of a map's values (100: for the largest value).
        scale: "own": each map uses all colors; "shared": one range of values for all maps, which must be of one method.
        layout: "methods": one row per sample and target, the input and one map per explanation; "classes": one row per
            sample and explanation, the input and one map per class; "grid": all inputs, then all maps, in rows of
            `columns` panels.
        columns: number of columns of the grid; default: the number of inputs.
        slices: number of evenly spaced slices of a volume, on separate rows; 1: the slice with the largest value.
        evidence: result of `seewhy.check`; each map gets a badge with its verdict.

    Raises:
        OptionError: explanations of different inputs, maps of different methods on one scale, evidence of another
            network, or a value out of range.
    """
    from matplotlib.figure import Figure

    every = [explanations] if isinstance(explanations, Explanation) else list(explanations)
    if not every or not all(same_input_and_targets(e, every[0]) and e.maps.shape == every[0].maps.shape for e in every):
        raise OptionError(
            "a sheet needs explanations of the same input and the same targets, with maps of the same size: draw one "
            "sheet per input."
        )
    check_choice("layout", layout, SHEET_LAYOUTS)
    _check_layout_options(every, layout, columns, slices)
    if titles is not None and len(titles) != len(every):
        raise OptionError(f"{len(titles)} titles for {len(every)} explanations: pass one title per explanation.")
    if scale == "shared" and len({(e.method, e.score, e.filters) for e in every}) > 1:
        raise OptionError(
            "scale='shared' needs maps of one method, score and filters: others have different units. Use scale='own'."
        )
    color_scale = make_color_scale(scale, [e.maps for e in every], cmap, percentile)
    verdicts = {id(e): map_verdict(e, evidence) for e in every} if evidence is not None else {}
    first = every[0]
    rows = SHEET_LAYOUTS[layout](every, titles or explanation_names(every), slices, columns)
    width, is_sequence = max(map(len, rows)), first.maps.ndim == 3
    extra_lines = max(panel.title.count("\n") for row in rows for panel in row if panel)
    height = PANEL_INCHES * 0.75 if is_sequence else PANEL_INCHES * first.maps.shape[-2] / first.maps.shape[-1]
    height = min(max(height, PANEL_INCHES / 2), PANEL_INCHES * 1.5) + 0.42 + 0.15 * extra_lines
    inches = (PANEL_INCHES * width + 1.1, height * len(rows) + 0.4)
    if max(inches) * DPI >= MAX_SHEET_PIXELS:
        raise OptionError(
            f"a sheet of {len(rows)} rows and {width} columns exceeds {MAX_SHEET_PIXELS} pixels per side: explain "
            "fewer targets or samples per sheet."
        )
    page = Figure(figsize=inches, layout="constrained")
    page.get_layout_engine().set(w_pad=0.04, h_pad=0.05)  # type: ignore[union-attr, call-arg]
    axes = page.subplots(len(rows), width, squeeze=False)
    map_axes: list[tuple[int, Axes]] = []  # (row, axis)
    for row_number, (row, row_axes) in enumerate(zip(rows, axes, strict=True)):
        for panel, axis in zip((*row, *[None] * (width - len(row))), row_axes, strict=True):
            if panel is None:
                axis.remove()
                continue
            n, k, e = panel.sample, panel.target, panel.explanation
            picture = input_picture(first.input[n], first.preparation, panel.slice_index)
            _set_title(axis, panel.title + ("" if panel.slice_index is None else f", slice {panel.slice_index}"))
            if e is None:
                draw_input(axis, picture)
                continue
            color_range = draw_map(axis, e.maps[n, k], panel.slice_index, picture, cmap, alpha, color_scale)
            if color_scale.shared is None and not is_sequence:
                axis.set_xlabel(str(color_range), fontsize=7, color="0.35", labelpad=2)
            if id(e) in verdicts:
                draw_badge(axis, verdicts[id(e)])
            map_axes.append((row_number, axis))
    heading = title if title is not None else caption(first, 0, 0) if _is_single_map(first, layout) else None
    if heading:
        page.suptitle(heading, fontsize=13, parse_math=False)
    last = [axis for row_number, axis in map_axes if row_number == map_axes[0][0]][-1]  # of the first row with maps
    _draw_color_bar(last, cmap, color_scale, (SEQUENCE_ALPHA if alpha is None else alpha) if is_sequence else 1.0)
    return page


def _check_layout_options(every: Sequence[Explanation], layout: str, columns: int | None, slices: int) -> None:
    if columns is not None and (columns < 1 or layout != "grid"):
        raise OptionError(f"columns={columns}, layout={layout!r}: columns must be at least 1 and needs layout='grid'.")
    if slices != 1 and (slices < 1 or layout != "methods" or every[0].maps.ndim != 5):
        raise OptionError(
            f"slices={slices}, layout={layout!r}: slices must be at least 1 and needs maps of volumes [N, K, D, H, W] "
            "and layout='methods'."
        )


def _is_single_map(e: Explanation, layout: str) -> bool:
    """Whether the sheet shows one sample and one target, whose label is then its title."""
    return layout == "methods" and e.maps.shape[:2] == (1, 1)


def same_input_and_targets(a: Explanation, b: Explanation) -> bool:
    """Whether two explanations are of the same input and the same targets."""
    return (
        a.input.shape == b.input.shape
        and a.scores.shape == b.scores.shape
        and bool((a.input == b.input).all())
        and (a.targets is None) == (b.targets is None)
        and (a.targets is None or b.targets is None or bool((a.targets == b.targets).all()))
    )


def _set_title(axis: Axes, text: str) -> None:
    axis.set_title(text, fontsize=10, parse_math=False)  # a label may contain $


def path_figure(pictures: Tensor, preparation: Preprocessing | None, *, sample: int = 0, columns: int = 5,
                title: str = "Images along the integration path") -> Figure:  # fmt: skip
    """Draw the pictures of `seewhy.path`, [steps, N, 3 or 1, H, W], of one sample as tiles."""
    from matplotlib.figure import Figure

    count, shown = len(pictures), pictures[:, sample]
    rows = -(-count // columns)
    page = Figure(figsize=(1.5 * columns, 1.6 * rows + 0.4), layout="constrained")
    axes = page.subplots(rows, columns, squeeze=False)
    for number, axis in enumerate(axes.flat):
        axis.axis("off")
        if number < count:
            axis.imshow(input_picture(shown[number], preparation, None, shown))
            axis.set_title(f"{number / max(count - 1, 1):.2f}", fontsize=7, pad=2)
    page.suptitle(title, fontsize=12, parse_math=False)
    return page


def _draw_color_bar(axis: Axes, cmap: Any, scale: ColorScale, alpha: float) -> None:
    """Draw the color bar with its label beside one map, as tall as the map."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    low, high = scale.shared or ((-1.0, 1.0) if scale.signed else (0.0, 1.0))
    mappable = ScalarMappable(Normalize(low, high if high > low else low + 1), ListedColormap(colormap(cmap).tolist()))
    bar = axis.figure.colorbar(
        mappable, cax=axis.inset_axes((1.05, 0, 0.07, 1)), ticks=[low, (low + high) / 2, high], alpha=alpha
    )
    bar.ax.set_yticklabels([f"{tick:.2g}" for tick in (low, (low + high) / 2, high)])
    bar.set_label(scale.label(), fontsize=8)
    bar.ax.tick_params(labelsize=8)
