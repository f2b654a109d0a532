"""Patch buffers: windows of a layer read from the reference value with the patches of the masks pasted in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .receptive_field import ChangedRegion, Window

BORDER_FILLS = (0.0, -math.inf)  # values beyond the border: for sums, for maxima


class PatchBuffer(NamedTuple):
    """A value as a matrix with one row per position.

    Attributes:
        rows: the border fills, then the positions of the reference value, then those of each mask's window.
        patch_rows: the rows of the masks' windows, a view of `rows`.
    """

    rows: Tensor
    patch_rows: Tensor


def make_patch_buffer(reference: Tensor, region: ChangedRegion, num_masks: int) -> PatchBuffer:
    """Allocate a buffer with the reference value [1, ...] and space for the windows of `num_masks` masks."""
    flat = _positions_first(reference, region).reshape(math.prod(region.lengths), -1)
    num_fixed = len(BORDER_FILLS) + len(flat)
    rows = flat.new_empty(num_fixed + num_masks * math.prod(region.window.size), flat.shape[1])
    smallest = -math.inf if flat.is_floating_point() or flat.is_complex() else torch.iinfo(flat.dtype).min
    for i, fill in enumerate(BORDER_FILLS):
        rows[i] = max(fill, smallest)
    rows[len(BORDER_FILLS) : num_fixed] = flat
    return PatchBuffer(rows, rows[num_fixed:])


def write_patches(buffer: PatchBuffer, patches: Tensor, region: ChangedRegion) -> None:
    """Write the patches [M, ...] of a batch of masks into the buffer."""
    moved = _positions_first(patches, region)
    count = math.prod(moved.shape[: len(region.axes) + 1])
    buffer.patch_rows[:count].view(moved.shape).copy_(moved)


def read_windows(buffer: PatchBuffer, region: ChangedRegion, wanted: Window, mask_slice: slice, fill: float) -> Tensor:
    """Contents of the wanted windows for a batch of masks. [M, ...] with the wanted size along the region's axes.

    Args:
        buffer: the reference value and the patches.
        region: the region the patches cover.
        wanted: the windows to read; they may extend beyond the border.
        mask_slice: the batch, as a slice of the masks of `wanted` and `region`.
        fill: value beyond the border, one of `BORDER_FILLS`.
    """
    device = buffer.rows.device
    starts, changed = to_tensor(wanted.starts[mask_slice], device), to_tensor(region.window.starts[mask_slice], device)
    rows = _buffer_rows(starts, wanted.size, changed, region.window.size, region.lengths, BORDER_FILLS.index(fill))
    contents = buffer.rows.index_select(0, rows.flatten())
    order = _positions_first_order(region)
    contents = contents.view(len(starts), *wanted.size, *(region.shape[a] for a in order[len(region.axes) + 1 :]))
    return contents.permute([order.index(a) for a in range(len(order))])


def to_tensor(starts: np.ndarray, device: torch.device) -> Tensor:
    """Window starts [M, D] or [M] as a tensor on the device."""
    return torch.from_numpy(np.ascontiguousarray(starts)).to(device)


def slice_per_sample(value: Tensor, starts: np.ndarray, axes: Sequence[int], size: Sequence[int]) -> Tensor:
    """Slice each sample of a batch at its own start: [M, ...] -> [M, ...] with the given size along the axes."""
    start_columns = to_tensor(starts, value.device)
    for start, axis, n in zip(start_columns.unbind(1), axes, size, strict=True):
        shape, index_shape = [1] * value.ndim, list(value.shape)
        shape[0], shape[axis], index_shape[axis] = len(value), n, n
        value = value.gather(axis, window_positions(start, n).view(shape).expand(index_shape))
    return value


def window_positions(starts: Tensor, size: int) -> Tensor:
    """The positions of each window along one axis: [M] -> [M, size]."""
    return starts[:, None] + torch.arange(size, device=starts.device)


def _positions_first_order(region: ChangedRegion) -> list[int]:
    return [0, *region.axes, *(a for a in range(1, len(region.shape)) if a not in region.axes)]


def _positions_first(value: Tensor, region: ChangedRegion) -> Tensor:
    return value.permute(_positions_first_order(region))


def _buffer_rows(
    starts: Tensor,
    size: Sequence[int],
    changed_starts: Tensor,
    changed_size: Sequence[int],
    lengths: Sequence[int],
    fill: int,
) -> Tensor:
    """Row of the buffer for each position of each wanted window. [M, *size]."""
    num_masks, dims = starts.shape
    reference_row = torch.full([], len(BORDER_FILLS), device=starts.device)
    patch_row = torch.arange(num_masks, device=starts.device) * math.prod(changed_size) + (
        len(BORDER_FILLS) + math.prod(lengths)
    )
    patch_row = patch_row.view([num_masks] + [1] * dims)
    inside = changed = torch.ones([], dtype=torch.bool, device=starts.device)
    for d in range(dims):
        shape = [num_masks] + [1] * dims
        shape[1 + d] = size[d]
        position = window_positions(starts[:, d], size[d])
        offset = position - changed_starts[:, d, None]
        reference_row = reference_row + (position * math.prod(lengths[d + 1 :])).view(shape)
        patch_row = patch_row + (offset * math.prod(changed_size[d + 1 :])).view(shape)
        inside = inside & ((position >= 0) & (position < lengths[d])).view(shape)
        changed = changed & ((offset >= 0) & (offset < changed_size[d])).view(shape)
    return torch.where(changed, patch_row, torch.where(inside, reference_row, fill))
