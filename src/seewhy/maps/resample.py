"""Maps at another size: cubic, linear or nearest in any number of axes, as MATLAB's imresize does it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from seewhy.errors import OptionError, choose

if TYPE_CHECKING:
    from jaxtyping import Float, Int64
    from torch import Tensor

    from seewhy.types import Maps

REACH = {"bicubic": 2, "linear": 1, "nearest": 0}


def resample(maps: Maps, size: Sequence[int], how: str = "bicubic") -> Float[Tensor, "N K *R"]:
    """Maps [N, K, *S'] -> [N, K, *size], axis by axis, antialiased where an axis shrinks; nothing is clipped.

    Args:
        maps: one, two or three axes after N and K. An axis that keeps its size keeps its numbers.
        size: the wanted size of each of them.
        how: "bicubic" (Keys 1981, a = -1/2, in every rank), "linear" or "nearest", which never averages.

    Raises:
        OptionError: `how` is unknown, or `size` does not fit the maps.
    """
    choose("how", how, REACH)
    if len(size) != maps.ndim - 2 or not 1 <= len(size) <= 3 or min(size) < 1:
        raise OptionError(f"size={tuple(size)} does not fit maps of {tuple(maps.shape[2:])}: one to three sizes ≥ 1.")
    for axis, wanted in enumerate(size, 2):
        if wanted != maps.shape[axis]:
            places, weights = _taps(maps.shape[axis], wanted, how)
            places, weights = places.to(maps.device), weights.to(maps.dtype).to(maps.device)
            lines = maps.movedim(axis, -1)
            # tap by tap: a matrix is too large for long signals; differences keep a constant exactly constant
            middle = lines[..., places[0]]
            rest = ((lines[..., p] - middle) * w for p, w in zip(places[1:], weights[1:], strict=True))
            maps = sum(rest, start=middle).movedim(-1, axis)
    return maps.contiguous()


def _taps(old: int, new: int, how: str) -> tuple[Int64[Tensor, "taps new"], Float[Tensor, "taps new"]]:
    """Where each new value looks, and the weights, which sum to one. Pixel centres aligned, edges mirrored.

    The middle tap comes first.
    """
    import torch

    i = torch.arange(new)
    if how == "nearest":
        return ((2 * i + 1) * old // (2 * new))[None], torch.ones(1, new, dtype=torch.float64)
    u = (i.double() + 0.5) * old / new - 0.5
    shrink = min(1.0, new / old)
    reach = REACH[how] / shrink
    steps = torch.arange(int(2 * reach) + 3)
    steps = steps.roll(-(len(steps) // 2))
    j = (u - reach).floor().long() + steps[:, None]
    x = (shrink * (u - j)).abs()
    near, far = ((1.5 * x - 2.5) * x * x + 1, ((2.5 - 0.5 * x) * x - 4) * x + 2) if how == "bicubic" else (1 - x, 0 * x)
    weights = torch.where(x <= 1, near, far).where(x < REACH[how], 0.0)
    used = weights.any(1)
    used[0] = True
    places, weights = j[used] % (2 * old), weights[used]
    return torch.minimum(places, 2 * old - 1 - places), weights / weights.sum(0)
