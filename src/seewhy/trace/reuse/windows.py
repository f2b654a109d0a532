"""Where in a layer a mask is felt: windows of one size for all masks, and how operations move and grow them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Window(NamedTuple):
    """Axis by axis the range [start, start + size) that masks can change: one start a mask, one size for all.

    `starts` is [M, D]; inside the layer, unless it is a region to be read, which may hang over.
    """

    starts: Tensor
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
        starts = [self.window.starts[:, self.axes.index(a)] if a in self.axes else None for a in axes]
        nothing = torch.zeros_like(self.window.starts[:, 0])
        size = tuple(self.window.size[self.axes.index(a)] if a in self.axes else self.shape[a] for a in axes)
        columns = torch.stack([nothing if s is None else s for s in starts], 1)
        return Change(self.shape, tuple(axes), Window(columns, size))

    def whole(self) -> Window:
        """All of it."""
        return Window(torch.zeros_like(self.window.starts), self.lengths)


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


def hull(low: Tensor, high: Tensor, lengths: Sequence[int]) -> Window:
    """Windows of one size around the ranges [low, high) [M, D]; at the borders they are shifted inwards."""
    limits = torch.tensor(lengths, device=low.device)
    low, high = (torch.minimum(v.clamp(min=0), limits) for v in (low, high))
    size = (high - low).amax(0).clamp(min=1)
    return Window(torch.minimum(low, limits - size), tuple(size.tolist()))


def union(windows: Sequence[Window], lengths: Sequence[int]) -> Window:
    """Windows around several."""
    first = windows[0]
    if all(same(first, other) for other in windows[1:]):
        return first
    ends = [w.starts + torch.tensor(w.size, device=w.starts.device) for w in windows]
    low = torch.stack([w.starts for w in windows]).amin(0)
    return hull(low, torch.stack(ends).amax(0), lengths)


def same(a: Window, b: Window) -> bool:
    """Whether two windows are the same for every mask."""
    return a.size == b.size and (a.starts is b.starts or torch.equal(a.starts, b.starts))


def felt(window: Window, slides: Sequence[Slide], lengths: Sequence[int]) -> Window:
    """Which outputs of a sliding kernel read something of a window: o with o · stride - padding + tap inside it."""
    low, high = [], []
    for start, width, k in zip(window.starts.unbind(1), window.size, slides, strict=True):
        low.append(-((k.span - 1 - k.padding - start) // k.stride))  # rounded up
        high.append((start + width - 1 + k.padding) // k.stride + 1)
    return hull(torch.stack(low, 1), torch.stack(high, 1), lengths)


def needed(window: Window, slides: Sequence[Slide]) -> Window:
    """What a sliding kernel reads for these outputs; hangs over into the padding."""
    starts = [s * k.stride - k.padding for s, k in zip(window.starts.unbind(1), slides, strict=True)]
    size = [(n - 1) * k.stride + k.span for n, k in zip(window.size, slides, strict=True)]
    return Window(torch.stack(starts, 1), tuple(size))


def spread(window: Window, slides: Sequence[Slide], lengths: Sequence[int]) -> Window:
    """Which outputs of a transposed convolution a window reaches: input i writes i · stride - padding + tap."""
    low, high = [], []
    for start, width, k in zip(window.starts.unbind(1), window.size, slides, strict=True):
        low.append(start * k.stride - k.padding)
        high.append((start + width - 1) * k.stride - k.padding + k.span)
    return hull(torch.stack(low, 1), torch.stack(high, 1), lengths)


def sources(window: Window, slides: Sequence[Slide]) -> tuple[Window, Tensor]:
    """What a transposed convolution reads for these outputs, and where they begin in what it then writes [M, D]."""
    starts, skips, size = [], [], []
    for start, width, k in zip(window.starts.unbind(1), window.size, slides, strict=True):
        first = -((k.span - 1 - k.padding - start) // k.stride)
        last = (start + width - 1 + k.padding) // k.stride
        starts.append(first)
        size.append(int((last - first).max()) + 1)
        skips.append(start - (first * k.stride - k.padding))
    return Window(torch.stack(starts, 1), tuple(size)), torch.stack(skips, 1)
