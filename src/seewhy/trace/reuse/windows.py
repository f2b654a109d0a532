"""Where in a layer a mask is felt: windows of one size for all masks, and how operations move and grow them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Window(NamedTuple):
    """Axis by axis the range [start, start + size) that masks can change: one start a mask, one size for all.

    `starts` is [M, D]; inside the layer, unless it is a region to be read, which may hang over.
    """

    starts: np.ndarray
    size: tuple[int, ...]


class Change(NamedTuple):
    """A value that masks change inside windows only.

    Attributes:
        shape: of the whole value for one sample, [1, ...].
        axes: where its positions lie; column d of the window belongs to axes[d].
        window: what is changed.
    """

    shape: tuple[int, ...]
    axes: tuple[int, ...]
    window: Window

    @property
    def lengths(self) -> tuple[int, ...]:
        """Positions along each of its axes."""
        return tuple(self.shape[a] for a in self.axes)

    @property
    def share(self) -> float:
        """How much of the value is in a window."""
        return math.prod(self.window.size) / max(1, math.prod(self.lengths))

    def along(self, axes: Sequence[int]) -> Change:
        """The same with these axes as positions; one that had none is changed from end to end."""
        if tuple(axes) == self.axes:
            return self
        where = [self.axes.index(a) if a in self.axes else None for a in axes]
        starts = np.zeros((len(self.window.starts), len(axes)), dtype=np.int64)
        for d, i in enumerate(where):
            if i is not None:
                starts[:, d] = self.window.starts[:, i]
        size = tuple(self.shape[a] if i is None else self.window.size[i] for a, i in zip(axes, where, strict=True))
        return Change(self.shape, tuple(axes), Window(starts, size))

    def whole(self) -> Window:
        """All of it."""
        return Window(np.zeros_like(self.window.starts), self.lengths)


class Slide(NamedTuple):
    """How a kernel moves along one axis."""

    kernel: int
    stride: int
    padding: int
    dilation: int

    @property
    def span(self) -> int:
        """Positions from its first to its last tap."""
        return self.dilation * (self.kernel - 1) + 1


def hull(low: np.ndarray, high: np.ndarray, lengths: Sequence[int]) -> Window:
    """Windows of one size around the ranges [low, high) [M, D]; at the borders they are shifted inwards."""
    limits = np.asarray(lengths)
    low, high = np.clip(low, 0, limits), np.clip(high, 0, limits)
    size = np.maximum((high - low).max(0), 1)
    return Window(np.minimum(low, limits - size), tuple(size.tolist()))


def union(windows: Sequence[Window], lengths: Sequence[int]) -> Window:
    """Windows around several."""
    first = windows[0]
    if all(same(first, other) for other in windows[1:]):
        return first
    low = np.min([w.starts for w in windows], axis=0)
    return hull(low, np.max([w.starts + np.asarray(w.size) for w in windows], axis=0), lengths)


def same(a: Window, b: Window) -> bool:
    """Whether two windows are the same for every mask."""
    return a.size == b.size and (a.starts is b.starts or np.array_equal(a.starts, b.starts))


def felt(window: Window, slides: Sequence[Slide], lengths: Sequence[int]) -> Window:
    """Which outputs of a sliding kernel read something of a window: o with o · stride - padding + tap inside it."""
    stride, padding, span = _columns(slides)
    low = -((span - 1 - padding - window.starts) // stride)  # rounded up
    high = (window.starts + np.asarray(window.size) - 1 + padding) // stride + 1
    return hull(low, high, lengths)


def needed(window: Window, slides: Sequence[Slide]) -> Window:
    """What a sliding kernel reads for these outputs; hangs over into the padding."""
    stride, padding, _ = _columns(slides)
    size = tuple((n - 1) * k.stride + k.span for n, k in zip(window.size, slides, strict=True))
    return Window(window.starts * stride - padding, size)


def spread(window: Window, slides: Sequence[Slide], lengths: Sequence[int]) -> Window:
    """Which outputs of a transposed convolution a window reaches: input i writes i · stride - padding + tap."""
    stride, padding, span = _columns(slides)
    low = window.starts * stride - padding
    return hull(low, low + (np.asarray(window.size) - 1) * stride + span, lengths)


def sources(window: Window, slides: Sequence[Slide]) -> tuple[Window, np.ndarray]:
    """What a transposed convolution reads for these outputs, and where they begin in what it then writes [M, D]."""
    stride, padding, span = _columns(slides)
    first = -((span - 1 - padding - window.starts) // stride)
    last = (window.starts + np.asarray(window.size) - 1 + padding) // stride
    size = (last - first).max(0) + 1
    return Window(first, tuple(size.tolist())), window.starts - (first * stride - padding)


def groups(window: Window, lengths: Sequence[int], largest: int) -> list[np.ndarray]:
    """Masks as near each other as can be in their distances to the border, so that their windows are cut off alike."""
    far = np.asarray(lengths) - np.asarray(window.size) - window.starts
    distance = np.minimum(window.starts, far)

    def split(members: np.ndarray) -> list[np.ndarray]:
        if len(members) <= largest:
            return [members]
        own = distance[members]
        axis = int(np.argmax(own.max(0) - own.min(0)))
        ordered = members[np.argsort(own[:, axis], kind="stable")]
        # in whole portions: the last batch should not be a small one
        half = -(-len(ordered) // (2 * largest)) * largest if len(ordered) > 2 * largest else (len(ordered) + 1) // 2
        return split(ordered[:half]) + split(ordered[half:])

    return split(np.arange(len(window.starts)))


def _columns(slides: Sequence[Slide]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    stride, padding, span = np.array([(k.stride, k.padding, k.span) for k in slides]).T
    return stride, padding, span
