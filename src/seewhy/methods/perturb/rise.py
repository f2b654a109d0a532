"""RISE."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Annotated, cast

from seewhy.maps import resample
from seewhy.types import Attribution, Baseline, Between, ScoresHiding

from ..gradients.moments import Moments, add, mean
from .lime import enough

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.types import Inputs, Scores

BLOCK = 64  # masks that are drawn at once
LIMIT = 64  # times `samples`, where a tolerance is given


def rise(
    x: Inputs,
    score: Scores,
    uniform: Callable[..., Tensor],
    *,
    samples: Annotated[int, Between(4)] = 1000,
    cells: Annotated[int, Between(2)] = 7,
    mask_value: Baseline = None,
    tolerance: Annotated[float, Between(0)] | None = None,
) -> Generator[ScoresHiding, Tensor, Attribution]:
    """How much more the score is on average when a place is seen, under random soft masks that show half of the input.

    Petsiuk et al. 2018, eq. 6 and section 3.2, for masks in pairs m and 1 - m: mean of (y(m) - y(1 - m)) (m - 1/2),
    which is their mean of y m over that of m, minus the mean score. Unbiased for any number of masks. Signed, in units
    of the score; `stderr` is the standard error of that mean over pairs: value ± 1.96 stderr holds the truth 93 to 97
    times of 100 from 60 masks on.

    Args:
        x: the input.
        score: its scores.
        uniform: draws in 0..1.
        samples: how many masks.
        cells: cells of a mask along each axis, before it is enlarged (linear) and shifted by a part of a cell.
        mask_value: what stands where a part is hidden, as for `occlusion`.
        tolerance: go on until the standard error is below that share of the map's range (root mean square over it).
    """
    import torch

    size = x.shape[2:]
    fill = cast("Tensor", mask_value)
    values, errors, counts, notes = [], [], [], []

    def pairs(start: int, stop: int) -> Tensor:
        return _masks(uniform(start, stop, (cells + 1) ** len(size) + len(size)), size, cells)

    def slices(masks: Tensor) -> Callable[[int, int], Tensor]:
        return lambda a, b: masks[a:b]

    for n in range(len(x)):
        moments, found, error, number = Moments(), x[:0], x[:0], (samples + 1) // 2
        while True:
            for start in range(moments.number, number, BLOCK):
                seen = pairs(start, min(start + BLOCK, number))
                both = torch.stack([1 - seen, seen], 1).flatten(0, 1)[:, None, None]  # hidden: that of m, of 1 - m
                y = (yield ScoresHiding(len(both), slices(both), fill, row=n))[:, 0].double().cpu()
                apart = (y[0::2] - y[1::2]).view(*y[0::2].shape, *[1] * len(size))
                moments = add(moments, apart * (seen.unsqueeze(1) - 0.5))
            found, error = mean(moments)
            if tolerance is None or (far := _relative(found, error)) <= tolerance:
                break
            if 2 * number >= LIMIT * samples:
                notes.append(f"sample {n}: after {2 * number} masks the standard error is {far:.3g} of the range")
                break
            number = enough(number, far, tolerance, (LIMIT * samples + 1) // 2)
        values.append(found.unsqueeze(1))
        errors.append(error.unsqueeze(1))
        counts.append(2 * number)
    extras = {"masks": torch.tensor(counts)}
    return Attribution(torch.stack(values).to(x), stderr=torch.stack(errors).to(x), extras=extras, notes=tuple(notes))


def _masks(draws: Tensor, size: tuple[int, ...], cells: int) -> Tensor:
    """Grids of cells, on or off with equal chance, enlarged and shifted: [m, *size] in 0..1."""
    import torch

    axes = len(size)
    grid = (draws[:, axes:] < 0.5).double().view(-1, *[cells + 1] * axes)
    cell = [-(-s // cells) for s in size]
    large = resample(grid.unsqueeze(1), [(cells + 1) * c for c in cell], "linear").squeeze(1)
    shifts = (draws[:, :axes].double() * torch.tensor(cell, dtype=torch.float64)).long()
    return torch.stack([
        one[tuple(slice(int(a), int(a) + s) for a, s in zip(shift, size, strict=True))]
        for one, shift in zip(large, shifts, strict=True)
    ])  # fmt: skip


def _relative(found: Tensor, error: Tensor) -> float:
    """Root mean square of the standard errors, as a share of the map's range; the worst target's."""
    width = found.flatten(1).amax(1) - found.flatten(1).amin(1)
    typical = (error.flatten(1) ** 2).mean(1).sqrt()
    return float((typical / width).nan_to_num(0).max())  # a constant map without error is good enough
