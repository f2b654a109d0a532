"""Regions of a layer, each with what its mask changed pasted into what the clean picture gave."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .windows import Change, Window

FILLS = (0.0, -math.inf)  # what lies beyond the border: for sums, for maxima


class Shelf(NamedTuple):
    """A value as rows, one a position: the fills, the clean ones, then those of every mask's window."""

    rows: Tensor
    fresh: Tensor  # the last of them, a view


def shelf(clean: Tensor, change: Change, masks: int) -> Shelf:
    """Room for the clean value [1, ...] and the windows of so many masks."""
    flat = _positions_first(clean, change).reshape(math.prod(change.lengths), -1)
    first = len(FILLS) + len(flat)
    rows = flat.new_empty(first + masks * math.prod(change.window.size), flat.shape[1])
    for i, fill in enumerate(FILLS):
        rows[i] = fill
    rows[len(FILLS) : first] = flat
    return Shelf(rows, rows[first:])


def put(shelf: Shelf, fresh: Tensor, change: Change) -> None:
    """Lay the windows of some masks on the shelf."""
    moved = _positions_first(fresh, change)
    count = math.prod(moved.shape[: len(change.axes) + 1])
    shelf.fresh[:count].view(moved.shape).copy_(moved)


def region(shelf: Shelf, change: Change, wanted: Window, part: slice, fill: float) -> Tensor:
    """What lies in the wanted windows of some masks. [M, ...] with the wanted size along the value's axes."""
    device = shelf.rows.device
    starts, own = tensor(wanted.starts[part], device), tensor(change.window.starts[part], device)
    rows = _rows(starts, wanted.size, own, change.window.size, change.lengths, FILLS.index(fill))
    found = shelf.rows.index_select(0, rows.flatten())
    order = _order(change)
    found = found.view(len(starts), *wanted.size, *(change.shape[a] for a in order[len(change.axes) + 1 :]))
    return found.permute([order.index(a) for a in range(len(order))])


def tensor(starts: np.ndarray, device: torch.device) -> Tensor:
    """Starts [M, D], or [M], where the numbers lie."""
    return torch.from_numpy(np.ascontiguousarray(starts)).to(device)


def cut(value: Tensor, begins: np.ndarray, axes: Sequence[int], size: Sequence[int]) -> Tensor:
    """From each row of a batch its own piece: [M, ...] -> [M, ...] with the given size along the axes."""
    starts = tensor(begins, value.device)
    for start, axis, n in zip(starts.unbind(1), axes, size, strict=True):
        shape, wide = [1] * value.ndim, list(value.shape)
        shape[0], shape[axis], wide[axis] = len(value), n, n
        value = value.gather(axis, steps(start, n).view(shape).expand(wide))
    return value


def steps(starts: Tensor, size: int) -> Tensor:
    """[M] -> [M, size]: every position of every window along one axis."""
    return starts[:, None] + torch.arange(size, device=starts.device)


def _order(change: Change) -> list[int]:
    return [0, *change.axes, *(a for a in range(1, len(change.shape)) if a not in change.axes)]


def _positions_first(value: Tensor, change: Change) -> Tensor:
    return value.permute(_order(change))


def _rows(
    starts: Tensor, size: Sequence[int], own: Tensor, width: Sequence[int], lengths: Sequence[int], fill: int
) -> Tensor:
    """The row of the shelf for each position of each wanted window. [M, *size]."""
    masks, dims = starts.shape
    clean = torch.full([], len(FILLS), device=starts.device)
    fresh = torch.arange(masks, device=starts.device) * math.prod(width) + (len(FILLS) + math.prod(lengths))
    fresh = fresh.view([masks] + [1] * dims)
    inside = changed = torch.ones([], dtype=torch.bool, device=starts.device)
    for d in range(dims):
        shape = [masks] + [1] * dims
        shape[1 + d] = size[d]
        at = steps(starts[:, d], size[d])
        into = at - own[:, d, None]
        clean = clean + (at * math.prod(lengths[d + 1 :])).view(shape)
        fresh = fresh + (into * math.prod(width[d + 1 :])).view(shape)
        inside = inside & ((at >= 0) & (at < lengths[d])).view(shape)
        changed = changed & ((into >= 0) & (into < width[d])).view(shape)
    return torch.where(changed, fresh, torch.where(inside, clean, fill))
