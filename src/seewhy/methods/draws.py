"""Random draws: number j depends on (seed, j) only, so no map depends on its batch, and no global state is touched."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.types import Inputs


def normal(seed: int, x: Inputs) -> Callable[[int, int], Tensor]:
    """draws(start, stop) -> [stop - start, C, *S] standard normal numbers, in the precision and place of `x`."""

    def draws(start: int, stop: int) -> Tensor:
        shape = x.shape[1:]
        return torch.stack([torch.randn(shape, generator=_generator(seed, j, 0)) for j in range(start, stop)]).to(x)

    return draws


def uniform(seed: int) -> Callable[..., Tensor]:
    """draws(start, stop, width=2) -> [stop - start, width] numbers uniform in 0..1."""

    def draws(start: int, stop: int, width: int = 2) -> Tensor:
        return torch.stack([torch.rand(width, generator=_generator(seed, j, 1)) for j in range(start, stop)])

    return draws


def shifts(seed: int, most: int, axes: int) -> Callable[[int], list[int]]:
    """draw(j) -> a whole number for each axis, uniform in -most..most."""

    def draw(j: int) -> list[int]:
        found: list[int] = torch.randint(-most, most + 1, (axes,), generator=_generator(seed, j, 2)).tolist()
        return found

    return draw


def _generator(seed: int, j: int, stream: int) -> torch.Generator:
    state = int(np.random.SeedSequence((seed, j, stream)).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(state)
