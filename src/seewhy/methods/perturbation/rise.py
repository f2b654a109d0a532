"""RISE."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Annotated, cast

from seewhy.maps import resample
from seewhy.methods.queries import Attribution, InputMaskQuery
from seewhy.methods.running_moments import Moments, add_samples, mean_and_stderr
from seewhy.types import Baseline, Range

from .lime import MAX_SAMPLE_FACTOR, next_sample_count, tolerance_note

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.types import Inputs, Scores

MASK_BATCH_SIZE = 64  # masks that are sampled at once


def rise(
    x: Inputs,
    score: Scores,
    uniform: Callable[..., Tensor],
    *,
    samples: Annotated[int, Range(4)] = 1000,
    cells: Annotated[int, Range(2)] = 7,
    mask_value: Baseline = None,
    tolerance: Annotated[float, Range(0)] | None = None,
) -> Generator[InputMaskQuery, Tensor, Attribution]:
    """RISE: mean score when a position is unmasked minus the mean score, over random soft masks.

    Petsiuk et al. 2018, eq. 6 and section 3.2, for pairs of masks m and 1 - m, which show half of the input on average:
    mean of (y(m) - y(1 - m)) (m - 1/2). This is the paper's mean of y m divided by the mean of m, minus the mean score.
    It is unbiased for any number of masks. Signed, in units of the score. `stderr` is the standard error of the mean
    over pairs: the interval value ± 1.96 stderr contains the expected value in 93 to 97% of cases, from 60 masks on.
    The map is smooth: it has about the resolution of the mask's cells.

    Args:
        x: the input.
        score: the target scores of the input.
        uniform: function that draws uniform numbers in [0, 1).
        samples: number of masks.
        cells: number of mask cells along each axis; the mask is then enlarged (linear) and shifted by a random part of
            a cell.
        mask_value: value that replaces masked positions, as for `occlusion`.
        tolerance: masks are added until the standard error (root mean square over the map) is below this fraction of
            the map's range.
    """
    import torch

    size = x.shape[2:]
    fill = cast("Tensor", mask_value)
    values, errors, counts, notes = [], [], [], []

    def soft_masks(start: int, stop: int) -> Tensor:
        return _soft_masks(uniform(start, stop, (cells + 1) ** len(size) + len(size)), size, cells)

    def slices(masks: Tensor) -> Callable[[int, int], Tensor]:
        return lambda a, b: masks[a:b]

    for n in range(len(x)):
        moments, mean, error, pairs = Moments(), x[:0], x[:0], (samples + 1) // 2
        while True:
            for start in range(moments.n_samples, pairs, MASK_BATCH_SIZE):
                kept = soft_masks(start, min(start + MASK_BATCH_SIZE, pairs))
                masks = torch.stack([1 - kept, kept], 1).flatten(0, 1)[:, None, None]  # replaced for m, for 1 - m
                y = (yield InputMaskQuery(len(masks), slices(masks), fill, sample_index=n))[:, 0].double().cpu()
                difference = (y[0::2] - y[1::2]).view(*y[0::2].shape, *[1] * len(size))
                moments = add_samples(moments, difference * (kept.unsqueeze(1) - 0.5))
            mean, error = mean_and_stderr(moments)
            if tolerance is None or (relative_error := _relative_map_error(mean, error)) <= tolerance:
                break
            if 2 * pairs >= MAX_SAMPLE_FACTOR * samples:
                notes.append(tolerance_note(n, 2 * pairs, "masks", relative_error, tolerance))
                break
            pairs = next_sample_count(pairs, relative_error, tolerance, (MAX_SAMPLE_FACTOR * samples + 1) // 2)
        values.append(mean.unsqueeze(1))
        errors.append(error.unsqueeze(1))
        counts.append(2 * pairs)
    extras = {"masks": torch.tensor(counts)}
    return Attribution(torch.stack(values).to(x), stderr=torch.stack(errors).to(x), extras=extras, notes=tuple(notes))


def _soft_masks(draws: Tensor, size: tuple[int, ...], cells: int) -> Tensor:
    """Soft masks [M, *size] in [0, 1]: grids of cells, 0 or 1 with equal probability, enlarged and shifted."""
    import torch

    axes = len(size)
    grid = (draws[:, axes:] < 0.5).double().view(-1, *[cells + 1] * axes)
    cell = [-(-s // cells) for s in size]
    large = resample(grid.unsqueeze(1), [(cells + 1) * c for c in cell], "linear").squeeze(1)
    shifts = (draws[:, :axes].double() * torch.tensor(cell, dtype=torch.float64)).long()
    return torch.stack([
        mask[tuple(slice(int(a), int(a) + s) for a, s in zip(shift, size, strict=True))]
        for mask, shift in zip(large, shifts, strict=True)
    ])  # fmt: skip


def _relative_map_error(maps: Tensor, stderr: Tensor) -> float:
    """Root mean square of the standard errors [K, *S] divided by the map's range; the largest over targets."""
    width = maps.flatten(1).amax(1) - maps.flatten(1).amin(1)
    rms = (stderr.flatten(1) ** 2).mean(1).sqrt()
    return float((rms / width).nan_to_num(0).max())  # 0 for a constant map without error
