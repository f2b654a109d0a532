"""LeGrad."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


def legrad(block_gradients: Sequence[Float[Tensor, "N K heads T T"]]) -> Float[Tensor, "N K T"]:
    """LeGrad: positive gradient of each block's score with respect to its attention weights, averaged over blocks.

    Bousselham et al. 2025, sec. 3: y_l is the score that the layers after the last block compute from the mean token
    of block l's output. The map is the mean over blocks, heads and queries of ReLU(dy_l / dW_l), one value per key.
    0 or above, in units of the score: it shows where more attention would increase the score. The paper's rescaling to
    [0, 1] is left to `scaled`. The attention weights themselves are not used.
    """
    import torch

    return torch.stack([gradients.relu().mean((2, 3)) for gradients in block_gradients]).mean(0)
