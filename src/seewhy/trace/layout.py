"""Axes: a network's own layout <-> N C and the others, in which everything here is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seewhy.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.types import Inputs


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
