"""The layout of a network's input and output: conversion between its own order of axes and [N, C, *S]."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seewhy.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.types import Inputs


def check_rank(x: Tensor, layout: str | None) -> None:
    """Refuse an input whose number of axes does not match the layout.

    Args:
        x: a batch in the model's layout.
        layout: one letter per axis, such as "NHWC"; None: [N, C, *S] or [N, F].

    Raises:
        InputError: the number of axes is wrong.
    """
    if layout is not None and x.ndim != len(layout):
        raise InputError(
            f"the input has shape {list(x.shape)}, but the layout {layout!r} has {len(layout)} axes, the batch axis N "
            "among them."
        )
    if x.ndim < 2:
        raise InputError(f"the input has shape {list(x.shape)}: pass a batch, such as [N, C, H, W].")


def to_canonical(x: Tensor, layout: str | None) -> Inputs:
    """Permute a batch from the model's layout to [N, C, *S]; a layout without C gets one channel."""
    if layout is None:
        return x
    if "C" not in layout:
        return x.movedim(layout.index("N"), 0).unsqueeze(1)
    return x.permute(_canonical_order(layout))


def from_canonical(x: Inputs, layout: str | None) -> Tensor:
    """Permute a batch from [N, C, *S] to the model's layout."""
    if layout is None:
        return x
    if "C" not in layout:
        return x.squeeze(1).movedim(0, layout.index("N"))
    order = _canonical_order(layout)
    return x.permute([order.index(axis) for axis in range(len(order))])


def arrange_data(x: Tensor, data_layout: str, layout: str | None) -> Tensor:
    """Permute data to the order of axes that a network takes; data without a batch axis is one sample.

    Args:
        x: the data.
        data_layout: one letter per axis of the data: N or B the batch, C the channels, other letters positions; "S"
            may occur several times.
        layout: of the network's input; None: [N, C, *S].

    Raises:
        InputError: the number of axes is wrong, or the network takes other axes.
    """
    letters = data_layout.upper().replace("B", "N")
    if x.ndim != len(letters) or letters.count("N") > 1 or letters.count("C") > 1:
        raise InputError(
            f"the input has shape {list(x.shape)}, but data_layout={data_layout!r} has {len(letters)} axes; it must "
            "name every axis of the data, N and C at most once."
        )
    if "N" not in letters:
        x, letters = x.unsqueeze(0), "N" + letters
    positions = [i for i, letter in enumerate(letters) if letter not in "NC"]
    order = [letters.index("N"), *([letters.index("C")] if "C" in letters else []), *positions]
    if layout is not None and (len(layout) != len(letters) or ("C" in layout) != ("C" in letters)):
        raise InputError(
            f"data_layout={data_layout!r} does not have the axes of the network's layout {layout!r}: {len(positions)} "
            f"positions and {letters.count('C')} channel axes were given."
        )
    canonical = x.permute(order)
    if "C" not in letters:
        canonical = canonical.unsqueeze(1)
    return from_canonical(canonical, layout)


def class_axis(ndim: int, layout: str | None, output_layout: str | None = None) -> int:
    """The class axis of an output with `ndim` axes.

    Args:
        ndim: number of axes of the output.
        layout: of the input; without an output layout, the classes of a channels-last model are last.
        output_layout: of the output, if it is known.
    """
    if output_layout is not None and len(output_layout) == ndim and "C" in output_layout:
        return output_layout.index("C")
    return ndim - 1 if layout is not None and layout.endswith("C") else 1


def _canonical_order(layout: str) -> list[int]:
    spatial = [i for i, letter in enumerate(layout) if letter not in "NC"]
    return [layout.index("N"), layout.index("C"), *spatial]
