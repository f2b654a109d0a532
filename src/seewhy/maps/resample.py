"""Resampling of maps to another size: cubic, linear or nearest, in one to three axes, as MATLAB's imresize."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from seewhy.errors import OptionError, check_choice

if TYPE_CHECKING:
    from jaxtyping import Float, Int64
    from torch import Tensor

    from seewhy.types import Maps

KERNEL_RADIUS = {"bicubic": 2, "linear": 1, "nearest": 0}


def resample(maps: Maps, size: Sequence[int], mode: str = "bicubic") -> Float[Tensor, "N K *R"]:
    """Resample maps [N, K, *S'] to [N, K, *size], axis by axis, with antialiasing where an axis shrinks.

    The result is not clipped: cubic resampling may overshoot the range of the maps.

    Args:
        maps: maps with one, two or three axes after N and K. An axis whose size does not change is not resampled.
        size: the new size of each of these axes.
        mode: "bicubic" (Keys 1981, a = -1/2, for any number of axes), "linear" or "nearest" (no averaging).

    Raises:
        OptionError: `mode` is unknown, or `size` does not fit the maps.
    """
    check_choice("mode", mode, KERNEL_RADIUS)
    if len(size) != maps.ndim - 2 or not 1 <= len(size) <= 3 or min(size) < 1:
        raise OptionError(
            f"size={tuple(size)} does not fit maps of {tuple(maps.shape[2:])}: give one size ≥ 1 per axis, 1 to 3 axes."
        )
    for axis, length in enumerate(size, 2):
        if length != maps.shape[axis]:
            indices, weights = _taps(maps.shape[axis], length, mode)
            indices, weights = indices.to(maps.device), weights.to(maps.dtype).to(maps.device)
            lines = maps.movedim(axis, -1)
            # A sum over taps, because a matrix would be too large for long signals. Differences from the center tap
            # keep a constant map exactly constant.
            center = lines[..., indices[0]]
            terms = ((lines[..., i] - center) * w for i, w in zip(indices[1:], weights[1:], strict=True))
            maps = sum(terms, start=center).movedim(-1, axis)
    return maps.contiguous()


def _taps(old: int, new: int, mode: str) -> tuple[Int64[Tensor, "taps new"], Float[Tensor, "taps new"]]:
    """Indices of the old values for each new value, and their weights, which sum to one.

    The pixel grids are center-aligned, and edges are mirrored. The center tap comes first.
    """
    import torch

    i = torch.arange(new)
    if mode == "nearest":
        return ((2 * i + 1) * old // (2 * new))[None], torch.ones(1, new, dtype=torch.float64)
    u = (i.double() + 0.5) * old / new - 0.5
    shrink = min(1.0, new / old)
    reach = KERNEL_RADIUS[mode] / shrink
    taps = torch.arange(int(2 * reach) + 3)
    taps = taps.roll(-(len(taps) // 2))
    j = (u - reach).floor().long() + taps[:, None]
    x = (shrink * (u - j)).abs()
    inner, outer = (
        ((1.5 * x - 2.5) * x * x + 1, ((2.5 - 0.5 * x) * x - 4) * x + 2) if mode == "bicubic" else (1 - x, 0 * x)
    )
    weights = torch.where(x <= 1, inner, outer).where(x < KERNEL_RADIUS[mode], 0.0)
    used = weights.any(1)
    used[0] = True
    indices, weights = j[used] % (2 * old), weights[used]
    return torch.minimum(indices, 2 * old - 1 - indices), weights / weights.sum(0)
