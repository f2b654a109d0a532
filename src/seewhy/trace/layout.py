"""Axes: a network's own layout <-> N C and the others, in which everything here is computed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from torch.nn import functional as F

from seewhy.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from seewhy.types import Inputs

PREFIX = 16  # more tokens than that do not stand before a grid
FEW = 4  # nor before a sequence


def check_rank(x: Tensor, layout: str | None) -> None:
    """Refuse an input whose number of axes cannot be right.

    Raises:
        InputError: it cannot.
    """
    if layout is not None and x.ndim != len(layout):
        raise InputError(
            f"the input has shape {list(x.shape)}, the layout {layout!r} asks for {len(layout)} axes; "
            "one sample needs a batch axis of 1."
        )
    if x.ndim < 2:
        raise InputError(f"the input has shape {list(x.shape)}: give a batch, such as [N, C, H, W].")


def canonical(x: Tensor, layout: str | None) -> Inputs:
    """A network's own layout -> [N, C, *S]. A layout without C gets one channel."""
    if layout is None:
        return x
    if "C" not in layout:
        return x.movedim(layout.index("N"), 0).unsqueeze(1)
    return x.permute(_order(layout))


def own(x: Inputs, layout: str | None) -> Tensor:
    """[N, C, *S] -> the network's own layout."""
    if layout is None:
        return x
    if "C" not in layout:
        return x.squeeze(1).movedim(0, layout.index("N"))
    order = _order(layout)
    return x.permute([order.index(axis) for axis in range(len(order))])


def class_axis(ndim: int, layout: str | None) -> int:
    """Where the classes of an output with `ndim` axes stand: last for channels-last networks, else second."""
    return ndim - 1 if layout is not None and layout.endswith("C") else 1


def _order(layout: str) -> list[int]:
    spatial = [i for i, letter in enumerate(layout) if letter not in "NC"]
    return [layout.index("N"), layout.index("C"), *spatial]


class Place(NamedTuple):
    """Where channels and positions lie in a layer's output."""

    channels: int  # the axis
    grid: tuple[int, ...]  # positions an axis of the input
    prefix: int | None = None  # tokens before those of the grid; None: the positions have axes of their own

    @property
    def spatial(self) -> bool:
        """Whether there is more than one position."""
        return max(self.grid) > 1


def place(shape: Sequence[int], size: Sequence[int], grids: Sequence[tuple[int, ...]], last: bool) -> Place | None:
    """Find channels and positions of a layer's output [N, ...]; None where there are none.

    Args:
        shape: of the output.
        size: of the input's positions, *S.
        grids: those seen on the way to the layer, the latest last.
        last: whether the network keeps its channels last.
    """
    if 0 in shape:  # a padding of nothing, say
        return None
    if len(shape) == len(size) + 2:
        first, behind = tuple(shape[2:]), tuple(shape[1:-1])
        known = {*grids, tuple(size)}
        latest = next((g for g in (*reversed(grids), tuple(size)) if g in (first, behind)), None)
        if first != behind and latest is not None:
            return Place(1, first) if first == latest else Place(len(shape) - 1, behind)
        if len(size) == 1 and first not in known:
            before = min((behind[0] - g[0] for g in known if g[0] > 1 and behind[0] > g[0]), default=PREFIX)
            if before <= FEW:  # a class token before the steps
                return Place(2, (behind[0] - before,), before)
        a, b = (_skew(grid, size) for grid in (first, behind))
        if min(a, b) > math.log(2) and not (known & {first, behind}):
            return None  # heads, tokens and widths, say
        return Place(len(shape) - 1, behind) if b < a or (a == b and last) else Place(1, first)
    if len(shape) == 3 and len(size) > 1:
        found = _tokens(shape[1], size, grids)
        return None if found is None else Place(2, *found)
    return None


def _skew(grid: Sequence[int], size: Sequence[int]) -> float:
    """How unequally the axes of the input are shrunk; equal within rounding is 0."""
    shares = [math.log(s / g) for s, g in zip(size, grid, strict=True)]
    slack = max(math.log((g + 1) / g) for g in grid)
    return max(0.0, max(shares) - min(shares) - slack)


def _tokens(count: int, size: Sequence[int], grids: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], int] | None:
    """The grid of `count` tokens, and how many stand before it; from grids seen, else from the input's proportions."""
    seen = [(grid, count - math.prod(grid)) for grid in reversed(grids)]
    fitting = [found for found in seen if 0 <= found[1] <= PREFIX]
    if fitting:
        return min(fitting, key=lambda found: found[1])
    if grids:
        return None
    for prefix in range(min(PREFIX + 1, count)):
        side = ((count - prefix) / math.prod(size)) ** (1 / len(size))
        grid = tuple(round(side * s) for s in size)
        if (
            math.prod(grid) == count - prefix
            and max(grid) > 1
            and all(g == side * s for g, s in zip(grid, size, strict=True))
        ):
            return grid, prefix
    return None


def masked(features: Tensor, masks: Tensor, where: Place) -> Tensor:
    """One sample of a layer's output [1, ...] under each mask [M, C or 1, *grid or 1]: [M, ...]; a prefix is kept."""
    moved = features.movedim(where.channels, 1)
    if where.prefix is not None:
        whole = masks.expand(*masks.shape[:2], *where.grid).flatten(2)
        masks = F.pad(whole, (where.prefix, 0), value=1.0)
    return (moved * masks).movedim(1, where.channels)


def arranged(features: Tensor, where: Place) -> Tensor:
    """A layer's output [N, ...] -> [N, C, *grid]."""
    moved = features.movedim(where.channels, 1)
    return moved if where.prefix is None else moved[:, :, where.prefix :].unflatten(2, where.grid)
