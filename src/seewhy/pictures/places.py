"""What stands where on a sheet: the layouts, as lists of lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .panels import strongest_slice

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.types import Explanation


class Place(NamedTuple):
    """One place: the input of a sample, or with `e` its map; of a volume a slice."""

    title: str
    n: int
    k: int = 0
    e: Explanation | None = None
    where: int | None = None


Line = list[Place | None]
Every = Sequence["Explanation"]


def caption(e: Explanation, n: int, k: int) -> str:
    """Such as "Egyptian cat (0.77)": the label with its probability, or with the score where there is none."""
    name = f"target {k}" if e.labels is None else e.labels[n][k]
    number = e.scores if e.probabilities is None else e.probabilities
    return f"{name} ({float(number[n, k]):.2f})"


def names(every: Every) -> list[str]:
    """What each explanation is called: its method, the layer where one method reads several, and the filters."""
    alike = len({e.title for e in every}) < len(every)
    return [
        (f"{e.title}, {e.feature_layer}" if alike and e.feature_layer else e.title)
        + ("\n" + ", ".join(e.filters) if e.filters else "")
        for e in every
    ]


def by_method(every: Every, called: Sequence[str], slices: int, columns: int | None) -> list[Line]:
    """A line a sample and target: the input, then a map an explanation."""
    first = every[0]
    questions = [(n, k) for n in range(first.maps.shape[0]) for k in range(first.maps.shape[1])]
    lines: list[Line] = []
    for n, k in questions:
        head = "Input" if len(questions) == 1 else caption(first, n, k)
        shown = slices_of(first.maps[n, k], slices)
        if slices == 1:
            line = [Place(head, n, k, None, shown[0])]
            line += [Place(name, n, k, e, shown[0]) for e, name in zip(every, called, strict=True)]
            lines.append([*line])
        else:
            lines.append([Place(head, n, k, None, where) for where in shown])
            lines += [[Place(name, n, k, e, where) for where in shown] for e, name in zip(every, called, strict=True)]
    return lines


def by_class(every: Every, called: Sequence[str], slices: int, columns: int | None) -> list[Line]:
    """A line a sample and explanation: the input, then a map a class."""
    lines: list[Line] = []
    for n in range(every[0].maps.shape[0]):
        for e, name in zip(every, called, strict=True):
            where = [strongest_slice(m) for m in every[0].maps[n]]
            line = [Place("Input" if len(every) == 1 else name, n, 0, None, where[0])]
            line += [Place(caption(e, n, k), n, k, e, where[k]) for k in range(e.maps.shape[1])]
            lines.append([*line])
    return lines


def grid(every: Every, called: Sequence[str], slices: int, columns: int | None) -> list[Line]:
    """All inputs first, then all maps, in lines of `columns`."""
    first = every[0]
    count, targets = first.maps.shape[:2]
    where = [[strongest_slice(m) for m in row] for row in first.maps]
    flat = [Place("Input" if count == 1 else f"Input {n + 1}", n, 0, None, where[n][0]) for n in range(count)]
    for e, name in zip(every, called, strict=True):
        for k in range(targets):
            flat += [Place(f"{name}\n{caption(e, n, k)}", n, k, e, where[n][k]) for n in range(count)]
    wide = columns or count
    filled: Line = [*flat, *[None] * (-len(flat) % wide)]
    return [filled[start : start + wide] for start in range(0, len(filled), wide)]


LAYOUTS: dict[str, Callable[[Every, Sequence[str], int, int | None], list[Line]]] = {
    "methods": by_method,
    "classes": by_class,
    "grid": grid,
}


def slices_of(values: Tensor, count: int) -> list[int | None]:
    """Of a volume's map [D, H, W] so many slices from end to end, the one with the largest value among them."""
    best = strongest_slice(values)
    if best is None or count == 1:
        return [best]
    even = np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(int)
    even[np.abs(even - best).argmin()] = best
    return [int(where) for where in even]
