"""LeGrad."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


def legrad(own_gradients: Sequence[Float[Tensor, "N K heads T T"]]) -> Float[Tensor, "N K T"]:
    """How sensitive what each block forms is to its attention, where more attention speaks for the class.

    Bousselham et al. 2025, sec. 3: y_l is the score read off the mean token behind block l, by what follows the last
    block; the map is the mean over blocks, heads and queries of ReLU(dy_l / dW_l), key by key. 0 or above, in units of
    the score; their rescaling to [0, 1] is left to `scaled`. The weights themselves do not enter.
    """
    import torch

    return torch.stack([slopes.relu().mean((2, 3)) for slopes in own_gradients]).mean(0)
