"""Segments of an input: which positions are masked together."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from seewhy.errors import InputError, OptionError

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.types import Inputs


def segment_labels(x: Inputs, given: Any, features: int, layout: str | None) -> tuple[Tensor, tuple[str, ...]]:
    """Segment number (0, 1, …) of each position [N, *S], and notes for the user.

    Args:
        x: the batch.
        given: "superpixels", "grid", or whole numbers [*S] or [N, *S]. Tabular features are one segment each.
        features: approximate number of segments.
        layout: layout of the network's input; "NF" is tabular features.

    Raises:
        OptionError: `given` has another type or shape.
        InputError: the superpixels of a sample are one segment.
    """
    import torch

    size = tuple(x.shape[2:])
    if not isinstance(given, str):
        return _checked_labels(given, len(x), size), ()
    if layout == "NF":
        return torch.arange(size[0]).expand(len(x), -1).contiguous(), ()
    if given == "grid" or (given == "superpixels" and len(size) == 1):
        notes = (
            () if given == "grid" else ("a sequence has no superpixels: equal intervals of time are used as segments",)
        )
        return _grid_labels(size, features).expand(len(x), *size).contiguous(), notes
    if given != "superpixels":
        raise OptionError(f"segments={given!r} is not 'superpixels', 'grid' or whole numbers {list(size)}.")
    return torch.stack([_superpixel_labels(sample, features, n) for n, sample in enumerate(x)]), ()


def _checked_labels(given: Any, count: int, size: tuple[int, ...]) -> Tensor:
    """Segment numbers given by the caller, renumbered 0, 1, … and expanded to [N, *S]."""
    import torch

    try:
        from seewhy.inputs.arrays import tensor_of

        labels = tensor_of(given)
    except (TypeError, ValueError, RuntimeError):
        raise OptionError(
            f"segments of type {type(given).__name__}: 'superpixels', 'grid' or whole numbers are needed."
        ) from None
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise OptionError(f"segments are {labels.dtype}: whole numbers are needed, one per position.")
    if tuple(labels.shape) not in (size, (count, *size)):
        raise OptionError(f"segments of shape {list(labels.shape)}: {list(size)} or {[count, *size]} is needed.")
    labels = labels.long().cpu().expand(count, *size)
    return torch.stack([torch.unique(one, return_inverse=True)[1] for one in labels])  # 0, 1, … without gaps


def _grid_labels(size: tuple[int, ...], features: int) -> Tensor:
    """A grid of about `features` equal cells, with about the same number of cells along each axis."""
    import torch

    side = features ** (1 / len(size))
    counts = [min(s, max(1, round(side))) for s in size]
    labels = torch.zeros(size, dtype=torch.int64)
    for axis, (s, count) in enumerate(zip(size, counts, strict=True)):
        cell = torch.arange(s) * count // s
        labels = labels * count + cell.view(*[s if a == axis else 1 for a in range(len(size))])
    grid: Tensor = torch.unique(labels, return_inverse=True)[1]
    return grid


def _superpixel_labels(sample: Tensor, features: int, n: int) -> Tensor:
    """SLIC superpixels of one sample (number n of the batch)."""
    import torch
    from skimage.segmentation import slic

    picture = sample.detach().double().cpu()
    low, high = float(picture.min()), float(picture.max())
    picture = (picture - low) / (high - low) if high > low else picture * 0
    is_color = len(picture) == 3 and picture.ndim == 3
    superpixels = slic(
        picture.movedim(0, -1).numpy(), n_segments=min(features, prod(picture.shape[1:])),
        compactness=10.0 if is_color else 0.1, channel_axis=-1, start_label=0, convert2lab=is_color,
    )  # fmt: skip
    labels: Tensor = torch.unique(torch.from_numpy(superpixels.astype("int64")), return_inverse=True)[1]
    if int(labels.max()) == 0 and features > 1:
        raise InputError(
            f"the superpixels of sample {n} are one segment, as the picture is noise or too small for {features}: "
            "use segments='grid', or pass your own segments."
        )
    return labels


def importances_to_maps(importances: Tensor, labels: Tensor) -> Tensor:
    """Maps [K, 1, *S] with the importance [K, F] of its segment at each position."""
    return importances[:, labels.to(importances.device)].unsqueeze(1)
