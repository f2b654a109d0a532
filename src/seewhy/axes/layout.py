"""Axis layouts: conversion between a model's layout and [N, C, *S], and the layout of a layer's features."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from torch.nn import functional as F

from seewhy.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from seewhy.types import Inputs

MAX_PREFIX_TOKENS = 16  # largest number of tokens (class token, registers) before a grid of patch tokens
MAX_SEQUENCE_PREFIX_TOKENS = 4  # the same before the tokens of a sequence


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
            f"the input has shape {list(x.shape)}, but the layout {layout!r} has {len(layout)} axes; "
            "one sample needs a batch axis of size 1."
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


def class_axis(ndim: int, layout: str | None) -> int:
    """The class axis of an output with `ndim` axes: the last for channels-last models, else the second."""
    return ndim - 1 if layout is not None and layout.endswith("C") else 1


def _canonical_order(layout: str) -> list[int]:
    spatial = [i for i, letter in enumerate(layout) if letter not in "NC"]
    return [layout.index("N"), layout.index("C"), *spatial]


class FeatureLayout(NamedTuple):
    """The channel axis and the grid of positions of a layer's output.

    Attributes:
        channel_axis: the axis of the channels.
        grid: the number of positions along each spatial axis of the input.
        prefix: number of tokens before the tokens of the grid; None: the positions have axes of their own.
    """

    channel_axis: int
    grid: tuple[int, ...]
    prefix: int | None = None

    @property
    def spatial(self) -> bool:
        """Whether there is more than one position."""
        return max(self.grid) > 1


def find_feature_layout(
    shape: Sequence[int], input_size: Sequence[int], observed_grids: Sequence[tuple[int, ...]], channels_last: bool
) -> FeatureLayout | None:
    """Infer the channel axis and the grid of a layer's output [N, ...] from its shape; None if it has no positions.

    Args:
        shape: shape of the output.
        input_size: spatial size *S of the input.
        observed_grids: grids of the convolutions and poolings that ran before the layer, in execution order.
        channels_last: whether the model keeps its channels last.
    """
    if 0 in shape:  # an empty tensor, such as a padding of size 0
        return None
    if len(shape) == len(input_size) + 2:
        first_grid, last_grid = tuple(shape[2:]), tuple(shape[1:-1])  # with channels first, and with channels last
        known_grids = {*observed_grids, tuple(input_size)}
        candidates = (*reversed(observed_grids), tuple(input_size))
        latest = next((g for g in candidates if g in (first_grid, last_grid)), None)
        if first_grid != last_grid and latest is not None:
            return FeatureLayout(1, first_grid) if first_grid == latest else FeatureLayout(len(shape) - 1, last_grid)
        if len(input_size) == 1 and first_grid not in known_grids:
            excess = [last_grid[0] - g[0] for g in known_grids if g[0] > 1 and last_grid[0] > g[0]]
            prefix = min(excess, default=MAX_PREFIX_TOKENS)
            if prefix <= MAX_SEQUENCE_PREFIX_TOKENS:  # a class token before the time steps
                return FeatureLayout(2, (last_grid[0] - prefix,), prefix)
        first, last = (_shrink_imbalance(grid, input_size) for grid in (first_grid, last_grid))
        if min(first, last) > math.log(2) and not (known_grids & {first_grid, last_grid}):
            return None  # neither is a grid: the axes may be heads, tokens and widths
        if last < first or (first == last and channels_last):
            return FeatureLayout(len(shape) - 1, last_grid)
        return FeatureLayout(1, first_grid)
    if len(shape) == 3 and len(input_size) > 1:
        tokens = _token_grid(shape[1], input_size, observed_grids)
        return None if tokens is None else FeatureLayout(2, *tokens)
    return None


def _shrink_imbalance(grid: Sequence[int], input_size: Sequence[int]) -> float:
    """Difference of the log shrink factors between the axes of the input; 0 if they are equal up to rounding."""
    log_factors = [math.log(s / g) for s, g in zip(input_size, grid, strict=True)]
    rounding = max(math.log((g + 1) / g) for g in grid)
    return max(0.0, max(log_factors) - min(log_factors) - rounding)


def _token_grid(
    count: int, input_size: Sequence[int], observed_grids: Sequence[tuple[int, ...]]
) -> tuple[tuple[int, ...], int] | None:
    """The grid of `count` tokens and the number of prefix tokens.

    The grid is one of those observed; if none was observed, the one with the proportions of the input.
    """
    candidates = [(grid, count - math.prod(grid)) for grid in reversed(observed_grids)]
    fitting = [(grid, prefix) for grid, prefix in candidates if 0 <= prefix <= MAX_PREFIX_TOKENS]
    if fitting:
        return min(fitting, key=lambda candidate: candidate[1])
    if observed_grids:
        return None
    for prefix in range(min(MAX_PREFIX_TOKENS + 1, count)):
        scale = ((count - prefix) / math.prod(input_size)) ** (1 / len(input_size))
        grid = tuple(round(scale * s) for s in input_size)
        if (
            math.prod(grid) == count - prefix
            and max(grid) > 1
            and all(g == scale * s for g, s in zip(grid, input_size, strict=True))
        ):
            return grid, prefix
    return None


def apply_feature_masks(features: Tensor, masks: Tensor, feature_layout: FeatureLayout) -> Tensor:
    """Multiply the features of one sample by each mask; prefix tokens are not masked.

    Args:
        features: a layer's output for one sample [1, ...].
        masks: [M, C or 1, *grid or 1].
        feature_layout: the axes of `features`.

    Returns:
        [M, ...].
    """
    channels_first = features.movedim(feature_layout.channel_axis, 1)
    if feature_layout.prefix is not None:
        expanded = masks.expand(*masks.shape[:2], *feature_layout.grid).flatten(2)
        masks = F.pad(expanded, (feature_layout.prefix, 0), value=1.0)
    return (channels_first * masks).movedim(1, feature_layout.channel_axis)


def to_feature_grid(features: Tensor, feature_layout: FeatureLayout) -> Tensor:
    """Rearrange a layer's output [N, ...] to [N, C, *grid], without prefix tokens."""
    channels_first = features.movedim(feature_layout.channel_axis, 1)
    if feature_layout.prefix is None:
        return channels_first
    on_grid: Tensor = channels_first[:, :, feature_layout.prefix :].unflatten(2, feature_layout.grid)
    return on_grid
