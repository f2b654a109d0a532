"""Records as plain text tables."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seewhy.types import Layers, Prediction


def table(headers: Sequence[str], rows: Iterable[Sequence[Any]], right: Sequence[str] = ()) -> str:
    """Columns with a heading each; those named in `right` stand to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for header in headers:
        drawn.add_column(Text(header), justify="right" if header in right else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(str(cell)) for cell in row))
    page = io.StringIO()
    Console(file=page, width=120, color_system=None).print(drawn)
    return "\n".join(line.rstrip() for line in page.getvalue().splitlines())


def prediction(given: Prediction, names: Sequence[str] | None = None) -> str:
    """Per sample the best classes with five significant digits; `names` stand for the sample numbers."""
    rows = [
        (names[n] if names else n, label, index, f"{share:.5g}")
        for n, best in enumerate(given)
        for label, index, share in best
    ]
    return table(("sample", "class", "index", "probability"), rows, right=("index", "probability"))


def layers(given: Layers) -> str:
    """A row a layer; shapes without the batch."""
    return table(*layer_rows(given), ("row", "learnable"))


def layer_rows(given: Layers) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """The headings, and a row a layer."""
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
        for layer in given
    ]
    return ("row", "name", "type", "description", "output", "learnable", "spatial"), rows
