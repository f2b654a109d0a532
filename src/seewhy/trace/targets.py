"""Ready-made targets: functions from a network's output to one number a sample, for `explain(target=...)`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from seewhy.errors import OptionError

Callback = Callable[[Tensor], Tensor]


def region(index: int, mask: Any) -> Callback:
    """The score of class `index` summed over the positions where `mask` [*P] is true.

    Vinogradova et al. 2020, eq. 2. The output must be [N, classes, *P].
    """
    chosen = torch.as_tensor(mask, dtype=torch.bool)

    def of(output: Tensor) -> Tensor:
        if output.shape[2:] != chosen.shape:
            raise OptionError(f"the mask is {list(chosen.shape)}, the output's positions are {list(output.shape[2:])}.")
        return (output[:, index] * chosen.to(output)).flatten(1).sum(1)

    return of


def box(index: int, top: int, left: int, bottom: int, right: int) -> Callback:
    """The score of class `index` summed over the rows top..bottom-1 and columns left..right-1 of the output."""

    def of(output: Tensor) -> Tensor:
        inside = output[:, index, top:bottom, left:right]
        if inside.numel() == 0:
            raise OptionError(f"the box {(top, left, bottom, right)} is outside the output {list(output.shape[2:])}.")
        return inside.flatten(1).sum(1)

    return of


def similarity(embedding: Any) -> Callback:
    """Cosine similarity of the output [N, D] with an embedding [D]."""
    other = torch.as_tensor(embedding)
    return lambda output: F.cosine_similarity(output, other.to(output)[None], dim=1)


def contrast(index: int, rivals: int | Sequence[int] = 3, alpha: float = 1.0) -> Callback:
    """What speaks for a class and not for its rivals: sum_i p_i (z_c - alpha z_i) / sum_i p_i.

    Zhang et al. 2025 (Finer-CAM), eq. 5; p is held constant.

    Args:
        index: the class c.
        rivals: the classes i, or how many of those with the nearest scores.
        alpha: how much the rivals count.
    """

    def of(output: Tensor) -> Tensor:
        own = output[:, index : index + 1]
        if isinstance(rivals, int):
            distance = (output - own).abs().detach()
            distance[:, index] = torch.inf
            others = distance.topk(rivals, 1, largest=False).indices
        else:
            others = torch.tensor(list(rivals), device=output.device).expand(len(output), -1)
        share = output.detach().softmax(1).gather(1, others)
        return (share * (own - alpha * output.gather(1, others))).sum(1) / share.sum(1)

    return of
