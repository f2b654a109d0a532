"""Names of tensor shapes, the range of an option, and the capabilities of models. Imports no torch.

N samples, K explained targets per sample, C channels, *S the spatial or temporal axes of the input.
"""

from __future__ import annotations

from enum import Flag, auto
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int64
    from torch import Tensor

    Baseline = int | float | str | list[float] | tuple[float, ...] | Tensor | np.ndarray | None

    Inputs = Float[Tensor, "N C *S"]
    Values = Float[Tensor, "N K C *S"]
    Features = Float[Tensor, "N A *R"]  # a layer's output: A channels on a grid *R
    FeatureGradients = Float[Tensor, "N K A *R"]  # the gradient of each target score with respect to the features
    Maps = Float[Tensor, "N K *S"]
    Scores = Float[Tensor, "N K"]
    Indices = Int64[Tensor, "N K"]
else:
    Baseline = Any


class Range(NamedTuple):
    """The allowed range of a number, both ends included; used in the annotation of an option."""

    low: float = float("-inf")
    high: float = float("inf")


class Capability(Flag):
    """What a model can compute, and what a method requires."""

    SCORES = auto()
    GRADIENTS = auto()  # of a score with respect to the input, by autograd
    LAYERS = auto()  # named layers

    def __str__(self) -> str:
        return ", ".join(str(flag.name).lower() for flag in self) or "nothing"
