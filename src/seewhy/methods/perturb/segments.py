"""Which positions of an input go together."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from seewhy.errors import InputError, OptionError

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.types import Inputs


def segmented(x: Inputs, given: Any, features: int, layout: str | None) -> tuple[Tensor, tuple[str, ...]]:
    """Numbers 0, 1, … of the segment that each position belongs to [N, *S], and what a reader must know.

    Args:
        x: the batch.
        given: "superpixels", "grid", or whole numbers [*S] or [N, *S]. Plain features are one segment each.
        features: about how many there should be.
        layout: of the network's input; "NF" are plain features.

    Raises:
        OptionError: `given` does not fit.
        InputError: the superpixels of a sample are one segment.
    """
    import torch

    size = tuple(x.shape[2:])
    if not isinstance(given, str):
        return _given(given, len(x), size), ()
    if layout == "NF":
        return torch.arange(size[0]).expand(len(x), -1).contiguous(), ()
    if given == "grid" or (given == "superpixels" and len(size) == 1):
        notes = () if given == "grid" else ("a sequence has no superpixels: equal spans of time are its segments",)
        return _grid(size, features).expand(len(x), *size).contiguous(), notes
    if given != "superpixels":
        raise OptionError(f"segments={given!r} is not 'superpixels', 'grid' or whole numbers {list(size)}.")
    return torch.stack([_superpixels(sample, features, n) for n, sample in enumerate(x)]), ()


def _given(given: Any, count: int, size: tuple[int, ...]) -> Tensor:
    import torch

    try:
        labels = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):
        raise OptionError(
            f"segments of type {type(given).__name__}: 'superpixels', 'grid' or whole numbers are needed."
        ) from None
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise OptionError(f"segments are {labels.dtype}: whole numbers are needed, one a position.")
    if tuple(labels.shape) not in (size, (count, *size)):
        raise OptionError(f"segments of shape {list(labels.shape)}: {list(size)} or {[count, *size]} is needed.")
    each = labels.long().cpu().expand(count, *size)
    return torch.stack([torch.unique(one, return_inverse=True)[1] for one in each])  # 0, 1, … without gaps


def _grid(size: tuple[int, ...], features: int) -> Tensor:
    """Equal cells, about `features` of them, about as many along each axis that is long enough."""
    import torch

    side = features ** (1 / len(size))
    counts = [min(s, max(1, round(side))) for s in size]
    labels = torch.zeros(size, dtype=torch.int64)
    for axis, (s, count) in enumerate(zip(size, counts, strict=True)):
        along = torch.arange(s) * count // s
        labels = labels * count + along.view(*[s if a == axis else 1 for a in range(len(size))])
    cells: Tensor = torch.unique(labels, return_inverse=True)[1]
    return cells


def _superpixels(sample: Tensor, features: int, n: int) -> Tensor:
    import torch
    from skimage.segmentation import slic

    picture = sample.detach().double().cpu()
    low, high = float(picture.min()), float(picture.max())
    picture = (picture - low) / (high - low) if high > low else picture * 0
    colour = len(picture) == 3 and picture.ndim == 3
    found = slic(
        picture.movedim(0, -1).numpy(), n_segments=min(features, prod(picture.shape[1:])),
        compactness=10.0 if colour else 0.1, channel_axis=-1, start_label=0, convert2lab=colour,
    )  # fmt: skip
    labels: Tensor = torch.unique(torch.from_numpy(found.astype("int64")), return_inverse=True)[1]
    if int(labels.max()) == 0 and features > 1:
        raise InputError(
            f"the superpixels of sample {n} are one segment (of noise, or of a picture too small for {features}): "
            "use segments='grid', or give your own."
        )
    return labels


def paint(importances: Tensor, labels: Tensor) -> Tensor:
    """[K, F] on the positions of F segments: [K, 1, *S]."""
    return importances[:, labels.to(importances.device)].unsqueeze(1)
