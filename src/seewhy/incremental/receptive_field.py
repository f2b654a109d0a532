"""Windows that masks change in a layer, one size for all masks, and how sliding kernels move and grow them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Window(NamedTuple):
    """The range [start, start + size) along each axis: one start per mask, one size for all masks.

    Attributes:
        starts: [M, D] first positions. A changed window lies inside the layer; a window to read may extend beyond it.
        size: D lengths.
    """

    starts: np.ndarray
    size: tuple[int, ...]


class ChangedRegion(NamedTuple):
    """The windows inside which the masks change a value.

    Attributes:
        shape: [1, ...] shape of the full value for one sample.
        axes: its position axes; column d of the window belongs to axes[d].
        window: the windows that change.
    """

    shape: tuple[int, ...]
    axes: tuple[int, ...]
    window: Window

    @property
    def lengths(self) -> tuple[int, ...]:
        """Length of the value along each position axis."""
        return tuple(self.shape[a] for a in self.axes)

    @property
    def fraction(self) -> float:
        """Fraction of the value inside a window."""
        return math.prod(self.window.size) / max(1, math.prod(self.lengths))

    def with_axes(self, axes: Sequence[int]) -> ChangedRegion:
        """The same region with these position axes; an axis that is new is changed over its full length."""
        if tuple(axes) == self.axes:
            return self
        columns = [self.axes.index(a) if a in self.axes else None for a in axes]
        starts = np.zeros((len(self.window.starts), len(axes)), dtype=np.int64)
        for d, i in enumerate(columns):
            if i is not None:
                starts[:, d] = self.window.starts[:, i]
        size = tuple(self.shape[a] if i is None else self.window.size[i] for a, i in zip(axes, columns, strict=True))
        return ChangedRegion(self.shape, tuple(axes), Window(starts, size))

    def full_window(self) -> Window:
        """The window of each mask that covers the full value."""
        return Window(np.zeros_like(self.window.starts), self.lengths)


class SlidingKernel(NamedTuple):
    """Geometry of a sliding kernel along one axis."""

    size: int
    stride: int
    padding: int
    dilation: int

    @property
    def dilated_size(self) -> int:
        """Number of positions from the first to the last kernel element."""
        return self.dilation * (self.size - 1) + 1


def enclosing_window(low: np.ndarray, high: np.ndarray, lengths: Sequence[int]) -> Window:
    """Windows of one size that contain the ranges [low, high) [M, D]; at the borders they are shifted inward."""
    limits = np.asarray(lengths)
    low, high = np.clip(low, 0, limits), np.clip(high, 0, limits)
    size = np.maximum((high - low).max(0), 1)
    return Window(np.minimum(low, limits - size), tuple(size.tolist()))


def union_window(windows: Sequence[Window], lengths: Sequence[int]) -> Window:
    """Windows of one size that contain several windows."""
    first = windows[0]
    if all(same_windows(first, other) for other in windows[1:]):
        return first
    low = np.min([w.starts for w in windows], axis=0)
    return enclosing_window(low, np.max([w.starts + np.asarray(w.size) for w in windows], axis=0), lengths)


def same_windows(a: Window, b: Window) -> bool:
    """Whether two windows are the same for every mask."""
    return a.size == b.size and (a.starts is b.starts or np.array_equal(a.starts, b.starts))


def output_window(window: Window, kernels: Sequence[SlidingKernel], lengths: Sequence[int]) -> Window:
    """Outputs of a sliding kernel that depend on the window: all o with o · stride - padding + offset inside it."""
    stride, padding, dilated_size = _kernel_columns(kernels)
    low = -((dilated_size - 1 - padding - window.starts) // stride)  # rounded up
    high = (window.starts + np.asarray(window.size) - 1 + padding) // stride + 1
    return enclosing_window(low, high, lengths)


def input_window(window: Window, kernels: Sequence[SlidingKernel]) -> Window:
    """Inputs that a sliding kernel uses for the outputs in the window; may extend into the padding."""
    stride, padding, _ = _kernel_columns(kernels)
    size = tuple((n - 1) * k.stride + k.dilated_size for n, k in zip(window.size, kernels, strict=True))
    return Window(window.starts * stride - padding, size)


def transposed_output_window(window: Window, kernels: Sequence[SlidingKernel], lengths: Sequence[int]) -> Window:
    """Outputs of a transposed convolution that depend on the window: input i writes i · stride - padding + offset."""
    stride, padding, dilated_size = _kernel_columns(kernels)
    low = window.starts * stride - padding
    return enclosing_window(low, low + (np.asarray(window.size) - 1) * stride + dilated_size, lengths)


def transposed_input_window(window: Window, kernels: Sequence[SlidingKernel]) -> tuple[Window, np.ndarray]:
    """Inputs that a transposed convolution uses for the outputs in the window, and the window's start in its result.

    Returns:
        The input window, and [M, D] the position of the output window in the convolution of that input window.
    """
    stride, padding, dilated_size = _kernel_columns(kernels)
    first = -((dilated_size - 1 - padding - window.starts) // stride)
    last = (window.starts + np.asarray(window.size) - 1 + padding) // stride
    size = (last - first).max(0) + 1
    return Window(first, tuple(size.tolist())), window.starts - (first * stride - padding)


def group_masks(window: Window, lengths: Sequence[int], max_size: int) -> list[np.ndarray]:
    """Groups of at most `max_size` masks with similar distances to the border, whose windows are clipped similarly."""
    end_distance = np.asarray(lengths) - np.asarray(window.size) - window.starts
    distance = np.minimum(window.starts, end_distance)

    def split(members: np.ndarray) -> list[np.ndarray]:
        if len(members) <= max_size:
            return [members]
        member_distance = distance[members]
        axis = int(np.argmax(member_distance.max(0) - member_distance.min(0)))
        ordered = members[np.argsort(member_distance[:, axis], kind="stable")]
        # a multiple of max_size, so that at most one group is small
        half = -(-len(ordered) // (2 * max_size)) * max_size if len(ordered) > 2 * max_size else (len(ordered) + 1) // 2
        return split(ordered[:half]) + split(ordered[half:])

    return split(np.arange(len(window.starts)))


def _kernel_columns(kernels: Sequence[SlidingKernel]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    stride, padding, dilated_size = np.array([(k.stride, k.padding, k.dilated_size) for k in kernels]).T
    return stride, padding, dilated_size
