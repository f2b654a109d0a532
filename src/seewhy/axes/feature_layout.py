"""The axes of a layer's output: its channels and its positions, arranged as [N, C, *grid].

The axes are read from the operations that made the output (`feature_layout`). Where these are unknown, a convention
about shapes is used (`conventional_axes`), and the layout says so.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from .factors import Axes, Axis, Factor, Tokens, is_position, make_axis

if TYPE_CHECKING:
    from torch import Tensor

MAX_PREFIX_TOKENS = 16  # largest number of tokens (class token, registers) before a grid of patch tokens


class FeatureLayout(NamedTuple):
    """How a layer's output is arranged as [N, C, *grid].

    Attributes:
        sizes: sizes of the factors of all axes, in order; -1: samples.
        factors_per_axis: number of factors of each axis.
        samples, channels, positions: indices of the factors with these meanings; positions in the order of the grid.
        grid: the number of positions along each spatial axis of the input.
        tokens: for positions on an axis with other values before and after them: their numbers, else None.
        convention: what was assumed, where the operations do not determine the axes; else empty.
    """

    sizes: tuple[int, ...]
    factors_per_axis: tuple[int, ...]
    samples: int
    channels: tuple[int, ...]
    positions: tuple[int, ...]
    grid: tuple[int, ...]
    tokens: tuple[int, int] | None = None
    convention: str = ""

    @property
    def spatial(self) -> bool:
        """Whether there is more than one position."""
        return max(self.grid) > 1

    @property
    def on_token_axis(self) -> bool:
        """Whether the positions are tokens: all on one axis, or parts of the axis of the samples (windows)."""
        return self.tokens is not None or max(self.factors_per_axis) > 1

    @property
    def samples_share_axis(self) -> bool:
        """Whether the axis of the samples also holds something else, such as time steps or windows."""
        return self.factors_per_axis[self.axis_of(self.samples)] > 1

    @property
    def channel_axis(self) -> int | None:
        """The axis of the channels; None if they do not have an axis of their own."""
        axis = self.axis_of(self.channels[0]) if len(self.channels) == 1 else None
        return axis if axis is not None and self.factors_per_axis[axis] == 1 else None

    @property
    def prefix(self) -> int:
        """Number of values before the tokens of the grid."""
        return self.tokens[0] if self.tokens is not None else 0

    def axis_of(self, factor: int) -> int:
        """The axis to which a factor belongs."""
        ends = itertools.accumulate(self.factors_per_axis)
        return next(axis for axis, end in enumerate(ends) if factor < end)


def feature_layout(axes: Axes, spatial_axes: int) -> FeatureLayout | None:
    """Return the layout of a layer's output; None if it has no samples, no positions, or positions on unclear axes.

    Args:
        axes: the meaning of its axes.
        spatial_axes: number of spatial axes of the network's input.
    """
    if not any("N" in axis.letters for axis in axes) and axes and not axes[0].factors:
        axes = (make_axis("N", 1), *axes[1:])  # the network runs its samples one by one
    factors: list[Factor] = []
    per_axis, prefix, suffix, has_tokens = [], 0, 0, False
    for axis in axes:
        if any(isinstance(f, Tokens) for f in axis.factors):
            if len(axis.factors) > 1:
                return None
            has_tokens = True
            inner, prefix, suffix = axis.tokens
        else:
            inner = axis.factors or (Factor("", 1),)  # type: ignore[assignment]
        factors += inner
        per_axis.append(len(inner))
    indices: dict[str, list[int]] = {}
    for i, f in enumerate(factors):
        indices.setdefault(f.letter, []).append(i)
    position_letters = sorted(filter(is_position, indices))
    if len(indices.get("N", ())) != 1 or "?" in indices or not position_letters:
        return None
    positions, grid = [], [1] * spatial_axes
    for letter in position_letters:
        ordered = sorted(indices[letter], key=lambda i: -factors[i].step)
        pairs = [(factors[a], factors[b]) for a, b in itertools.pairwise(ordered)]
        if any(a.step != b.size * b.step for a, b in pairs):
            return None  # two axes of the same positions, as in attention weights
        positions += ordered
        grid[int(letter)] = math.prod(factors[i].size for i in ordered)
    if has_tokens and sum(map(is_position, (f.letter for f in factors))) != len(positions):
        return None
    others = [i for i, f in enumerate(factors) if i not in positions and f.letter not in ("N", "")]
    sizes = tuple(-1 if f.letter == "N" else f.size for f in factors)
    return FeatureLayout(
        sizes, tuple(per_axis), indices["N"][0], tuple(others), tuple(positions), tuple(grid),
        (prefix, suffix) if has_tokens else None,
    )  # fmt: skip


def _arranged_order(layout: FeatureLayout) -> tuple[int, ...]:
    """The factors in the order samples, channels, positions, and those of size 1."""
    first = (layout.samples, *layout.channels, *layout.positions)
    return (*first, *(i for i in range(len(layout.sizes)) if i not in first))


def to_feature_grid(features: Tensor, layout: FeatureLayout) -> Tensor:
    """Rearrange a layer's output to [N, C, *grid], without the values before and after the tokens."""
    if layout.tokens is not None:
        axis, (prefix, suffix) = layout.axis_of(layout.positions[0]), layout.tokens
        features = features.narrow(axis, prefix, features.shape[axis] - prefix - suffix)
    by_factor = features.reshape(layout.sizes).permute(_arranged_order(layout))
    return by_factor.reshape(-1, math.prod(layout.sizes[i] for i in layout.channels), *layout.grid)


def from_feature_grid(values: Tensor, features: Tensor, layout: FeatureLayout) -> Tensor:
    """Rearrange values [M, C, *grid] as the layer's output; values beside the tokens are those of one sample.

    Args:
        values: on the grid, for M samples.
        features: the layer's output for one sample.
        layout: the axes of `features`.
    """
    order = _arranged_order(layout)
    by_factor = values.reshape([len(values) if i == layout.samples else layout.sizes[i] for i in order])
    by_factor = by_factor.permute([order.index(i) for i in range(len(order))])
    starts = [0, *itertools.accumulate(layout.factors_per_axis)]
    result = by_factor.reshape([math.prod(by_factor.shape[a:b]) for a, b in itertools.pairwise(starts)])
    if layout.tokens is None:
        return result
    axis, (prefix, suffix) = layout.axis_of(layout.positions[0]), layout.tokens
    samples = layout.axis_of(layout.samples)
    repeated = features.expand([len(values) if i == samples else -1 for i in range(features.ndim)])
    after = repeated.narrow(axis, features.shape[axis] - suffix, suffix)
    return torch.cat([repeated.narrow(axis, 0, prefix), result, after], axis)


def apply_feature_masks(features: Tensor, masks: Tensor, layout: FeatureLayout) -> Tensor:
    """Multiply the features of one sample by each mask; values before and after the tokens are not masked.

    Args:
        features: a layer's output for one sample.
        masks: [M, C or 1, *grid or 1].
        layout: the axes of `features`.

    Returns:
        The masked outputs of M samples.
    """
    return from_feature_grid(to_feature_grid(features, layout) * masks, features, layout)


def conventional_axes(axes: Axes, known_grids: Sequence[tuple[int, ...]]) -> list[Axes]:
    """Return the readings of a layer's axes that fit what is known of them and a grid that is known of other layers.

    Args:
        axes: the axes, some of them unknown.
        known_grids: the grids of earlier layers, in execution order, after that of the input.

    Returns:
        The readings for the latest grid that has any: channels first, channels last, or tokens.
    """
    for grid in reversed(known_grids):
        positions = tuple(make_axis(str(i), size) for i, size in enumerate(grid))
        readings = [(axes[0], axes[1], *positions), (axes[0], *positions, axes[-1])] if len(axes) > 1 else []
        if len(axes) == 3 and 0 <= (prefix := axes[1].size - math.prod(grid)) <= MAX_PREFIX_TOKENS:
            inner = tuple(Factor(str(i), size) for i, size in enumerate(grid) if size > 1)
            tokens = Axis((Tokens(inner, prefix, 0),)) if prefix else Axis(inner)
            readings.append((axes[0], tokens, axes[2]))
        fitting = [tuple(map(_with_channels, reading)) for reading in readings if _agrees(axes, reading)]
        fitting = list(dict.fromkeys(reading for reading in fitting if feature_layout(reading, len(grid))))
        if fitting:
            return fitting
    return []


def _with_channels(axis: Axis) -> Axis:
    """An unknown axis, read as channels."""
    return make_axis("C", axis.size) if "?" in axis.letters else axis


def _agrees(axes: Axes, reading: Axes) -> bool:
    """Whether a reading has the sizes of the axes, and differs from them only where they are unknown."""
    return len(axes) == len(reading) and all(
        a.size == r.size and ("?" in a.letters or a == r) for a, r in zip(axes, reading, strict=True)
    )
