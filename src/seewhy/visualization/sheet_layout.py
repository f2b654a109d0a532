"""Layouts of a sheet: which panel stands where, as a list of rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .panels import strongest_slice

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.results import Explanation


class SheetPanel(NamedTuple):
    """One panel of a sheet: an input, or a map.

    Attributes:
        title: title of the panel.
        sample: index of the sample.
        target: index of the explained target.
        explanation: the explanation whose map is shown; None: the input is shown.
        slice_index: slice of a volume; None for other inputs.
    """

    title: str
    sample: int
    target: int = 0
    explanation: Explanation | None = None
    slice_index: int | None = None


PanelRow = list[SheetPanel | None]


def caption(e: Explanation, n: int, k: int) -> str:
    """Label of sample `n`, target `k` with its probability, or else its score, as in "Egyptian cat (0.77)"."""
    name = f"target {k}" if e.labels is None else e.labels[n][k]
    number = e.scores if e.probabilities is None else e.probabilities
    return f"{name} ({float(number[n, k]):.2f})"


def explanation_names(every: Sequence[Explanation]) -> list[str]:
    """Name of each explanation: its method, the layer if a method occurs more than once, and the filters."""
    repeated = len({e.title for e in every}) < len(every)
    return [
        (f"{e.title}, {e.feature_layer}" if repeated and e.feature_layer else e.title)
        + ("\n" + ", ".join(e.filters) if e.filters else "")
        for e in every
    ]


def method_layout(
    every: Sequence[Explanation], names: Sequence[str], slices: int, columns: int | None
) -> list[PanelRow]:
    """One row per sample and target: the input, then one map per explanation; slices of volumes on separate rows."""
    first = every[0]
    targets = [(n, k) for n in range(first.maps.shape[0]) for k in range(first.maps.shape[1])]
    rows: list[PanelRow] = []
    for n, k in targets:
        title = "Input" if len(targets) == 1 else caption(first, n, k)
        shown = select_slices(first.maps[n, k], slices)
        if slices == 1:
            row = [SheetPanel(title, n, k, None, shown[0])]
            row += [SheetPanel(name, n, k, e, shown[0]) for e, name in zip(every, names, strict=True)]
            rows.append([*row])
        else:
            rows.append([SheetPanel(title, n, k, None, i) for i in shown])
            rows += [[SheetPanel(name, n, k, e, i) for i in shown] for e, name in zip(every, names, strict=True)]
    return rows


def class_layout(
    every: Sequence[Explanation], names: Sequence[str], slices: int, columns: int | None
) -> list[PanelRow]:
    """One row per sample and explanation: the input, then one map per class."""
    rows: list[PanelRow] = []
    for n in range(every[0].maps.shape[0]):
        for e, name in zip(every, names, strict=True):
            shown = [strongest_slice(m) for m in every[0].maps[n]]
            row = [SheetPanel("Input" if len(every) == 1 else name, n, 0, None, shown[0])]
            row += [SheetPanel(caption(e, n, k), n, k, e, shown[k]) for k in range(e.maps.shape[1])]
            rows.append([*row])
    return rows


def grid_layout(every: Sequence[Explanation], names: Sequence[str], slices: int, columns: int | None) -> list[PanelRow]:
    """All inputs, then all maps, in rows of `columns` panels."""
    first = every[0]
    count, targets = first.maps.shape[:2]
    shown = [[strongest_slice(m) for m in maps] for maps in first.maps]
    panels = [SheetPanel("Input" if count == 1 else f"Input {n + 1}", n, 0, None, shown[n][0]) for n in range(count)]
    for e, name in zip(every, names, strict=True):
        for k in range(targets):
            panels += [SheetPanel(f"{name}\n{caption(e, n, k)}", n, k, e, shown[n][k]) for n in range(count)]
    width = columns or count
    padded: PanelRow = [*panels, *[None] * (-len(panels) % width)]
    return [padded[start : start + width] for start in range(0, len(padded), width)]


# (explanations, their names, number of slices, number of columns) -> rows of panels
SHEET_LAYOUTS: dict[str, Callable[[Sequence[Explanation], Sequence[str], int, int | None], list[PanelRow]]] = {
    "methods": method_layout,
    "classes": class_layout,
    "grid": grid_layout,
}


def select_slices(values: Tensor, count: int) -> list[int | None]:
    """Indices of `count` evenly spaced slices of a map [D, H, W], including that of the largest value."""
    best = strongest_slice(values)
    if best is None or count == 1:
        return [best]
    even = np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(int)
    even[np.abs(even - best).argmin()] = best
    return [int(i) for i in even]
