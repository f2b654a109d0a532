"""Occlusion and feature ablation: hide one part at a time."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from itertools import product
from numbers import Real
from typing import TYPE_CHECKING, Annotated, Any, cast

from seewhy.errors import OptionError
from seewhy.types import Attribution, Baseline, Between, ScoresHiding

from .segments import paint

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.types import Inputs, Scores

    Asking = Generator[ScoresHiding, Tensor, Attribution]


def occlusion(
    x: Inputs,
    score: Scores,
    *,
    mask_size: Any = None,
    stride: Any = None,
    mask_value: Baseline = None,
    clip: bool = True,
) -> Asking:
    """How far the score falls when a window hides a place, averaged over the windows that cover it.

    Zeiler and Fergus 2014, section 4.2: mean over masks m that cover a position of y(x) - y(x with m replaced). Signed,
    in units of the score: above 0 where what is hidden speaks for the class.

    Args:
        x: the input.
        score: its scores.
        mask_size: side of the window in positions, one number or one an axis; a smaller one sees finer things and is
            noisier. Default: a fifth of the input.
        stride: from one window to the next, likewise; a finer one takes more passes, halved in two axes four times as
            many. Default: a tenth of the input.
        mask_value: what stands in the window: a number, one a channel, "mean" (of each channel, the default; 0 for
            plain features), "blur", "black", or another input.
        clip: whether the last window of an axis, if it hangs over the border, is cut off there; else it is left out,
            and what no window covers is 0.
    """
    import torch

    size = x.shape[2:]
    sides = _sides("mask_size", mask_size, size, 0.2)
    steps = _sides("stride", stride, size, 0.1)
    axes = [_spans(*one, clip) for one in zip(size, sides, steps, strict=True)]
    windows = torch.tensor(list(product(*axes)))  # [M, axes, 2]

    def hidden(start: int, stop: int) -> Tensor:
        masks = torch.ones(stop - start, 1, 1, *size, dtype=torch.bool)
        for axis, count in enumerate(size):
            at = torch.arange(count)
            low, high = windows[start:stop, axis, 0, None], windows[start:stop, axis, 1, None]
            along = (at >= low) & (at < high)
            masks &= along.view(stop - start, 1, 1, *[count if a == axis else 1 for a in range(len(size))])
        return masks

    left = yield ScoresHiding(len(windows), hidden, cast("Tensor", mask_value), windows=windows)
    falls = (score - left).double().cpu()
    total = torch.zeros(*score.shape, *size, dtype=torch.float64)
    covered = torch.zeros(size, dtype=torch.float64)
    for window, fall in zip(windows.tolist(), falls, strict=True):
        place: tuple[Any, ...] = (..., *(slice(low, high) for low, high in window))
        total[place] += fall.view(*fall.shape, *[1] * len(size))
        covered[place] += 1
    bare = int((covered == 0).sum())
    notes = (f"{bare} of {covered.numel()} positions are under no window: their value is 0",) if bare else ()
    values = (total / covered.clamp(min=1)).unsqueeze(2).to(x)
    return Attribution(values, notes=(f"{len(windows)} windows of {' × '.join(map(str, sides))}", *notes))


def feature_ablation(
    x: Inputs,
    score: Scores,
    *,
    segments: Any = "superpixels",
    features: Annotated[int, Between(2)] = 49,
    mask_value: Baseline = None,
) -> Asking:
    """How far the score falls when one segment is hidden; each segment by itself.

    y(x) - y(x with the segment replaced). Signed, in units of the score; all positions of a segment have its value.

    Args:
        x: the input.
        score: its scores.
        segments: "superpixels" (SLIC; of a sequence equal spans), "grid", or whole numbers, one a position.
            Plain features are one each.
        features: about how many segments.
        mask_value: what stands where a part is hidden, as for `occlusion`.
    """
    import torch

    values, importances = [], []

    def boxes(labels: Tensor, count: int) -> Tensor:  # [F, axes, 2]
        each = [(labels == f).nonzero() for f in range(count)]
        return torch.stack([torch.stack([at.amin(0), at.amax(0) + 1], 1) for at in each])

    def one_each(labels: Tensor) -> Callable[[int, int], Tensor]:
        return lambda a, b: labels == torch.arange(a, b).view(-1, *[1] * (labels.ndim + 2))

    for n, labels in enumerate(cast("Tensor", segments)):
        count = int(labels.max()) + 1
        left = yield ScoresHiding(count, one_each(labels), cast("Tensor", mask_value), n, boxes(labels, count))
        falls = (score[n] - left[:, 0]).T.double().cpu()
        values.append(paint(falls, labels))
        importances.append(falls)
    extras = {"segments": cast("Tensor", segments), "importances": padded(importances)}
    return Attribution(torch.stack(values).to(x), extras=extras)


def padded(rows: Sequence[Tensor]) -> Tensor:
    """[K, F] each, with unequal F, as [N, K, F]; NaN where a sample has no such segment."""
    import torch

    widest = max(row.shape[1] for row in rows)
    return torch.stack([torch.nn.functional.pad(row, (0, widest - row.shape[1]), value=torch.nan) for row in rows])


def _sides(name: str, given: Any, size: Sequence[int], share: float) -> list[int]:
    """One whole number an axis, no larger than the input.

    Raises:
        OptionError: it is none, or there are too many.
    """
    if given is None:
        return [max(1, round(share * s)) for s in size]
    several = list(given) if isinstance(given, (list, tuple)) else [given] * len(size)
    whole = all(
        isinstance(v, Real) and not isinstance(v, bool) and float(v).is_integer() and float(v) > 0 for v in several
    )
    if not whole or len(several) != len(size):
        raise OptionError(f"{name}={given!r}: a whole number above 0 is needed, or {len(size)} of them, one an axis.")
    return [min(int(v), s) for v, s in zip(several, size, strict=True)]


def _spans(size: int, side: int, step: int, clip: bool) -> list[tuple[int, int]]:
    """Starts and stops along one axis: from 0 on, until the end is reached."""
    found = [(0, side)]
    while found[-1][1] < size and (clip or found[-1][0] + step + side <= size):
        start = found[-1][0] + step
        if start >= size:
            break
        found.append((start, min(start + side, size)))
    return found
