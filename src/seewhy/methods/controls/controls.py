"""Noise, edges of the input, and the middle of the picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from seewhy.types import Attribution

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.types import Inputs, Scores

NOTE = ("a control: this map does not depend on the network",)


def random(x: Inputs, score: Scores, normal: Callable[[int, int], Tensor]) -> Attribution:
    """Noise: an independent normal number at each position, another for another seed; a control, no explanation."""
    noise = normal(0, 1)[:, :1].unsqueeze(0)
    return Attribution(_repeated(noise.expand(len(x), *noise.shape[1:]), score), notes=NOTE)


def edges(x: Inputs, score: Scores) -> Attribution:
    """Edges of the input, whatever the network: the size of Sobel's slope, summed over channels; a control.

    It looks as sharp as many an explanation, and every test must find that it explains nothing.
    """
    import torch
    from skimage.filters import sobel

    pictures = x.detach().double().cpu().numpy()
    slopes = [[torch.from_numpy(sobel(channel)) for channel in sample] for sample in pictures]  # type: ignore[no-untyped-call]
    found = torch.stack([torch.stack(channels).sum(0) for channels in slopes])
    return Attribution(_repeated(found.to(x)[:, None, None], score), notes=NOTE)


def centre(x: Inputs, score: Scores) -> Attribution:
    """A Gaussian in the middle, a quarter of each side wide, whatever the input; a control, no explanation."""
    import torch

    found = torch.ones(len(x), 1, 1, *[1] * (x.ndim - 2), dtype=torch.float64)
    for axis, size in enumerate(x.shape[2:]):
        at = (torch.arange(size, dtype=torch.float64) - (size - 1) / 2) / (size / 4)
        found = found * (-(at**2) / 2).exp().view(*[size if a == axis else 1 for a in range(x.ndim - 2)])
    return Attribution(_repeated(found.to(x), score), notes=NOTE)


def _repeated(maps: Tensor, score: Scores) -> Tensor:
    """[N, 1, 1, *S], once for every target."""
    return maps.expand(-1, score.shape[1], *maps.shape[2:]).contiguous()
