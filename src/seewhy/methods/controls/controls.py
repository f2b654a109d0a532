"""The controls: noise, edges of the input, and a Gaussian in the middle of the image."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from seewhy.methods.queries import Attribution

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.types import Inputs, Scores

CONTROL_NOTE = ("a control: this map does not depend on the network",)


def random(x: Inputs, score: Scores, normal: Callable[[int, int], Tensor]) -> Attribution:
    """Noise: an independent standard normal number at each position; a control, not an explanation.

    The map depends on the seed only.
    """
    noise = normal(0, 1)[:, :1].unsqueeze(0)
    return Attribution(_repeat_per_target(noise.expand(len(x), *noise.shape[1:]), score), notes=CONTROL_NOTE)


def edges(x: Inputs, score: Scores) -> Attribution:
    """Edges: magnitude of the input's Sobel gradient, summed over channels; a control, not an explanation.

    The map depends on the input only. It is as sharp as many explanations; every check must find that it does not
    explain the network.
    """
    import torch
    from skimage.filters import sobel

    images = x.detach().double().cpu().numpy()
    edges_by_channel = [[torch.from_numpy(sobel(channel)) for channel in image] for image in images]  # type: ignore[no-untyped-call]
    maps = torch.stack([torch.stack(channels).sum(0) for channels in edges_by_channel])
    return Attribution(_repeat_per_target(maps.to(x)[:, None, None], score), notes=CONTROL_NOTE)


def centre(x: Inputs, score: Scores) -> Attribution:
    """Center: Gaussian in the middle of the input, standard deviation a quarter of each side; a control.

    The map depends on the size of the input only. It is not an explanation.
    """
    import torch

    maps = torch.ones(len(x), 1, 1, *[1] * (x.ndim - 2), dtype=torch.float64)
    for axis, size in enumerate(x.shape[2:]):
        distance = (torch.arange(size, dtype=torch.float64) - (size - 1) / 2) / (size / 4)
        maps = maps * (-(distance**2) / 2).exp().view(*[size if a == axis else 1 for a in range(x.ndim - 2)])
    return Attribution(_repeat_per_target(maps.to(x), score), notes=CONTROL_NOTE)


def _repeat_per_target(maps: Tensor, score: Scores) -> Tensor:
    """Expand [N, 1, 1, *S] to [N, K, 1, *S], the same map for every target."""
    return maps.expand(-1, score.shape[1], *maps.shape[2:]).contiguous()
