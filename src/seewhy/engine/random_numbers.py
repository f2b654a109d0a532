"""Random numbers that depend on the seed and the number of the draw only, not on the batch or any global state."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.types import Inputs


def normal_sampler(seed: int, x: Inputs) -> Callable[[int, int], Tensor]:
    """Return draws(start, stop) -> [stop - start, C, *S], standard normal numbers with the dtype and device of `x`."""

    def draws(start: int, stop: int) -> Tensor:
        shape = x.shape[1:]
        return torch.stack([torch.randn(shape, generator=_generator(seed, j, 0)) for j in range(start, stop)]).to(x)

    return draws


def uniform_sampler(seed: int) -> Callable[..., Tensor]:
    """Return draws(start, stop, width=2) -> [stop - start, width], numbers uniform in [0, 1)."""

    def draws(start: int, stop: int, width: int = 2) -> Tensor:
        return torch.stack([torch.rand(width, generator=_generator(seed, j, 1)) for j in range(start, stop)])

    return draws


def shift_sampler(seed: int, max_shift: int, axes: int) -> Callable[[int], list[int]]:
    """Return draw(j) -> one integer per axis, uniform in -max_shift..max_shift."""

    def draw(j: int) -> list[int]:
        shift: list[int] = torch.randint(-max_shift, max_shift + 1, (axes,), generator=_generator(seed, j, 2)).tolist()
        return shift

    return draw


def _generator(seed: int, j: int, stream: int) -> torch.Generator:
    """Return the generator of draw `j`; draws of different streams are independent."""
    state = int(np.random.SeedSequence((seed, j, stream)).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(state)
