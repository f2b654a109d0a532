"""Text tables: what records print."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seewhy.results import Explanation, Explanations, LayerTable, Prediction


def text_table(headers: Sequence[str], rows: Iterable[Sequence[Any]], right: Sequence[str] = ()) -> str:
    """Format rows as a text table of at most 120 characters width.

    Args:
        headers: one per column.
        rows: cells of any type.
        right: headers of the columns that are aligned to the right.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for header in headers:
        grid.add_column(Text(header), justify="right" if header in right else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(Text(str(cell)) for cell in row))
    page = io.StringIO()
    Console(file=page, width=120, color_system=None).print(grid)
    return "\n".join(line.rstrip() for line in page.getvalue().splitlines())


def prediction_table(prediction: Prediction, names: Sequence[str] | None = None) -> str:
    """Format the best classes of each sample, with five significant digits; `names` replace the sample numbers."""
    rows = [
        (names[n] if names else n, label, index, f"{probability:.5g}")
        for n, best in enumerate(prediction)
        for label, index, probability in best
    ]
    return text_table(("sample", "class", "index", "probability"), rows, right=("index", "probability"))


def explanation_text(e: Explanation) -> str:
    """Summarize an explanation in at most 20 lines: targets, shapes, layer, options, completeness and notes."""
    shown = [
        ", ".join(
            f"{label} ({score:.4g})" for label, score in zip(_target_names(e, n), e.scores[n].tolist()[:3], strict=True)
        )
        for n in range(min(len(e.scores), 3))
    ]
    more = [f"… {len(e.scores)} samples"] if len(e.scores) > 3 else []
    layer = [] if e.feature_layer is None else [("layer", e.feature_layer)]
    delta = [] if e.convergence_delta is None else [("delta", f"at most {float(e.convergence_delta.abs().max()):.3g}")]
    options = ", ".join(f"{key}={_short_text(value)}" for key, value in e.options.items())
    lines = [
        ("targets", "; ".join([*shown, *more]) + f" ({e.score})"),
        ("values", str(list(e.values.shape))),
        ("maps", str(list(e.maps.shape)) + (f", filters {', '.join(e.filters)}" if e.filters else "")),
        *layer,
        *([("options", options)] if options else []),
        *delta,
        *(("note", _short_text(note)) for note in e.notes[:8]),
        *([("note", f"… {len(e.notes)} notes in total")] if len(e.notes) > 8 else []),
    ]
    heading = f"Explanation: {e.title} ({e.method}) of {e.model or 'a network'}"
    return "\n".join([heading, *(f"  {name:<8} {text}" for name, text in lines)])


def _target_names(e: Explanation, n: int) -> list[str]:
    count = min(e.scores.shape[1], 3)
    return [f"target {k}" for k in range(count)] if e.labels is None else list(e.labels[n][:count])


def _short_text(value: object) -> str:
    """Format a value in at most 160 characters; tensors and arrays by their shape."""
    shape = getattr(value, "shape", None)
    text = f"{type(value).__name__} {list(shape)}" if shape is not None and len(shape) else str(value)
    return text if len(text) <= 160 else text[:159] + "…"


def explanations_text(explanations: Explanations) -> str:
    """Summarize explanations, one line each."""
    lines = [f"  {n}: {e.title} ({e.method}), maps {list(e.maps.shape)}" for n, e in enumerate(explanations[:12])]
    more = [f"  … {len(explanations)} in total"] if len(explanations) > 12 else []
    return "\n".join([f"Explanations: {len(explanations)}", *lines, *more])


def layer_table_text(table: LayerTable) -> str:
    """Format the layers, one row each; output shapes are without the batch axis."""
    return text_table(*layer_rows(table), ("row", "learnable"))


def layer_rows(table: LayerTable) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """The headers, and one row per layer."""
    rows = [
        (
            layer.row,
            layer.name,
            layer.type,
            layer.description,
            "" if layer.shape is None else " × ".join(map(str, layer.shape[1:])),
            f"{layer.learnable:,}" if layer.learnable else "",
            "" if layer.spatial is None else "yes" if layer.spatial else "no",
        )
        for layer in table
    ]
    return ("row", "name", "type", "description", "output", "learnable", "spatial"), rows
