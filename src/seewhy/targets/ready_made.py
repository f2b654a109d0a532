"""Ready-made target functions: from a network's output to one number per sample, for `explain(target=...)`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from seewhy.errors import OptionError
from seewhy.inputs.arrays import tensor_of

TargetFunction = Callable[[Any], Tensor]


@dataclass(frozen=True)
class LogitFunction:
    """A target function of class scores, with classes on the second axis whatever the layout of the output.

    It receives what enters a final softmax or sigmoid, where there is one.
    """

    function: TargetFunction

    def __call__(self, output: Any) -> Tensor:
        """The score of each sample."""
        return self.function(output)


def region(index: int, mask: Any) -> TargetFunction:
    """Score of class `index`, summed over the positions where `mask` [*P] is true.

    Vinogradova et al. 2020, eq. 2. The output must be [N, classes, *P].
    """
    selected = tensor_of(mask).bool()

    def score(output: Tensor) -> Tensor:
        if output.shape[2:] != selected.shape:
            raise OptionError(
                f"the mask has shape {list(selected.shape)}, but the output's positions have shape "
                f"{list(output.shape[2:])}: give a mask of that shape."
            )
        return (output[:, index] * selected.to(output)).flatten(1).sum(1)

    return LogitFunction(score)


def box(index: int, top: int, left: int, bottom: int, right: int) -> TargetFunction:
    """Score of class `index`, summed over the rows top to bottom-1 and the columns left to right-1 of the output."""

    def score(output: Tensor) -> Tensor:
        inside = output[:, index, top:bottom, left:right]
        if inside.numel() == 0:
            raise OptionError(f"the box {(top, left, bottom, right)} is outside the output {list(output.shape[2:])}.")
        return inside.flatten(1).sum(1)

    return LogitFunction(score)


def similarity(embedding: Any) -> TargetFunction:
    """Cosine similarity of the output [N, D] with an embedding [D]."""
    other = tensor_of(embedding)
    return lambda output: F.cosine_similarity(output, other.to(output)[None], dim=1)


def contrast(index: int, rivals: int | Sequence[int] = 3, alpha: float = 1.0) -> TargetFunction:
    """Score of a class minus the scores of its rivals: sum_i p_i (z_c - alpha z_i) / sum_i p_i.

    Zhang et al. 2025 (Finer-CAM), eq. 5. The softmax probabilities p are constants in the gradient.

    Args:
        index: the class c.
        rivals: the classes i; or their number: the classes whose scores are nearest to that of c.
        alpha: weight of the rivals' scores.
    """

    def score(output: Tensor) -> Tensor:
        z = output[:, index : index + 1]
        if isinstance(rivals, int):
            distance = (output - z).abs().detach()
            distance[:, index] = torch.inf
            others = distance.topk(rivals, 1, largest=False).indices
        else:
            others = torch.tensor(list(rivals), device=output.device).expand(len(output), -1)
        p = output.detach().softmax(1).gather(1, others)
        return (p * (z - alpha * output.gather(1, others))).sum(1) / p.sum(1)

    return LogitFunction(score)
