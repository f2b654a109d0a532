"""Occlusion and feature ablation: mask one part of the input at a time."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from itertools import product
from numbers import Real
from typing import TYPE_CHECKING, Annotated, Any, cast

from seewhy.errors import OptionError
from seewhy.methods.queries import Attribution, InputMaskQuery
from seewhy.types import Baseline, Range

from .segments import importances_to_maps

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.types import Inputs, Scores

    MaskQueries = Generator[InputMaskQuery, Tensor, Attribution]


def occlusion(
    x: Inputs,
    score: Scores,
    *,
    mask_size: Any = None,
    stride: Any = None,
    mask_value: Baseline = None,
    clip: bool = True,
) -> MaskQueries:
    """Occlusion: drop of the score when a window of the input is masked, averaged over the windows at a position.

    Zeiler and Fergus 2014, section 4.2: mean of y(x) - y(x with the window replaced), over all windows that cover a
    position. Signed, in units of the score: above 0 where the masked part is positive evidence. The map depends on the
    window's size and on the value that replaces it.

    Args:
        x: the input.
        score: the target scores of the input.
        mask_size: side of the window in positions, one number or one per axis; a smaller window shows finer details
            and is noisier. Default: a fifth of the input.
        stride: distance between windows in positions, one number or one per axis; a smaller stride takes more forward
            passes, half the stride in two axes four times as many. Default: a tenth of the input.
        mask_value: value that replaces masked positions: a number, one number per channel, "mean" (of each channel, the
            default; 0 for tabular features), "blur", "black", or another input.
        clip: whether the last window of an axis is clipped if it extends beyond the border. If not, it is left out, and
            positions without a window have the value 0.
    """
    import torch

    size = x.shape[2:]
    sides = _window_lengths("mask_size", mask_size, size, 0.2)
    strides = _window_lengths("stride", stride, size, 0.1)
    spans = [_window_spans(*lengths, clip) for lengths in zip(size, sides, strides, strict=True)]
    windows = torch.tensor(list(product(*spans)))  # [M, axes, 2]

    def window_masks(start: int, stop: int) -> Tensor:
        masks = torch.ones(stop - start, 1, 1, *size, dtype=torch.bool)
        for axis, count in enumerate(size):
            position = torch.arange(count)
            low, high = windows[start:stop, axis, 0, None], windows[start:stop, axis, 1, None]
            inside = (position >= low) & (position < high)
            masks &= inside.view(stop - start, 1, 1, *[count if a == axis else 1 for a in range(len(size))])
        return masks

    masked_scores = yield InputMaskQuery(len(windows), window_masks, cast("Tensor", mask_value), windows=windows)
    drops = (score - masked_scores).double().cpu()
    total = torch.zeros(*score.shape, *size, dtype=torch.float64)
    coverage = torch.zeros(size, dtype=torch.float64)
    for window, drop in zip(windows.tolist(), drops, strict=True):
        inside: tuple[Any, ...] = (..., *(slice(low, high) for low, high in window))
        total[inside] += drop.view(*drop.shape, *[1] * len(size))
        coverage[inside] += 1
    uncovered = int((coverage == 0).sum())
    values = (total / coverage.clamp(min=1)).unsqueeze(2).to(x)
    notes = [f"{len(windows)} windows of {' × '.join(map(str, sides))}"]
    if uncovered:
        notes.append(f"{uncovered} of {coverage.numel()} positions are not covered by any window: their value is 0")
    return Attribution(values, notes=tuple(notes))


def feature_ablation(
    x: Inputs,
    score: Scores,
    *,
    segments: Any = "superpixels",
    features: Annotated[int, Range(2)] = 49,
    mask_value: Baseline = None,
) -> MaskQueries:
    """Feature ablation: drop of the score when one segment of the input is masked, for each segment.

    y(x) - y(x with the segment replaced). Signed, in units of the score; all positions of a segment have the same
    value. Each segment is masked alone, so interactions between segments are not shown. `extras`: `segments`,
    `importances` [N, K, F].

    Args:
        x: the input.
        score: the target scores of the input.
        segments: "superpixels" (SLIC; equal intervals for a sequence), "grid", or whole numbers, one per position.
            Tabular features are one segment each.
        features: approximate number of segments.
        mask_value: value that replaces masked positions, as for `occlusion`.
    """
    import torch

    values, importances = [], []

    def bounding_boxes(labels: Tensor, count: int) -> Tensor:  # [F, axes, 2]
        positions = [(labels == f).nonzero() for f in range(count)]
        return torch.stack([torch.stack([p.amin(0), p.amax(0) + 1], 1) for p in positions])

    def segment_masks(labels: Tensor) -> Callable[[int, int], Tensor]:
        return lambda a, b: labels == torch.arange(a, b).view(-1, *[1] * (labels.ndim + 2))

    for n, labels in enumerate(cast("Tensor", segments)):
        count = int(labels.max()) + 1
        boxes = bounding_boxes(labels, count)
        masked_scores = yield InputMaskQuery(count, segment_masks(labels), cast("Tensor", mask_value), n, boxes)
        drops = (score[n] - masked_scores[:, 0]).T.double().cpu()
        values.append(importances_to_maps(drops, labels))
        importances.append(drops)
    extras = {"segments": cast("Tensor", segments), "importances": pad_importances(importances)}
    return Attribution(torch.stack(values).to(x), extras=extras)


def pad_importances(importances: Sequence[Tensor]) -> Tensor:
    """Stack importances [K, F] with unequal F to [N, K, F]; NaN where a sample has no such segment."""
    import torch

    count = max(one.shape[1] for one in importances)
    return torch.stack(
        [torch.nn.functional.pad(one, (0, count - one.shape[1]), value=torch.nan) for one in importances]
    )


def _window_lengths(name: str, given: Any, size: Sequence[int], default_fraction: float) -> list[int]:
    """One whole number per axis, at most the input's size; by default a fraction of it.

    Raises:
        OptionError: `given` is not a whole number above 0, or has the wrong number of axes.
    """
    if given is None:
        return [max(1, round(default_fraction * s)) for s in size]
    lengths = list(given) if isinstance(given, (list, tuple)) else [given] * len(size)
    whole = all(
        isinstance(v, Real) and not isinstance(v, bool) and float(v).is_integer() and float(v) > 0 for v in lengths
    )
    if not whole or len(lengths) != len(size):
        raise OptionError(f"{name}={given!r}: a whole number above 0 is needed, or {len(size)} of them, one per axis.")
    return [min(int(v), s) for v, s in zip(lengths, size, strict=True)]


def _window_spans(size: int, side: int, stride: int, clip: bool) -> list[tuple[int, int]]:
    """Start and stop of the windows along one axis, from 0 to the end of the axis."""
    spans = [(0, side)]
    while spans[-1][1] < size and (clip or spans[-1][0] + stride + side <= size):
        start = spans[-1][0] + stride
        if start >= size:
            break
        spans.append((start, min(start + side, size)))
    return spans
