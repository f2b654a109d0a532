"""EigenCAM."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seewhy.types import Attribution

if TYPE_CHECKING:
    from seewhy.types import Features, Scores


def eigencam(activations: Features, score: Scores) -> Attribution:
    """What most of a layer's features have in common, whatever the class: their first principal component.

    Muhammad and Yeasin 2020, eq. 4: A (positions × channels) = U S V^T, map = A v_1; nothing is centred. The sign,
    which a singular vector does not have, is that of more activation. Needs no gradient, and depends on no class.
    """
    import torch

    grid = activations.shape[2:]
    left, size, _ = torch.linalg.svd(activations.flatten(2).transpose(1, 2), full_matrices=False)
    main = left[:, :, 0] * size[:, :1]
    main = main * main.sum(1, keepdim=True).sign()
    found = main.reshape(-1, 1, 1, *grid).expand(-1, score.shape[1], -1, *(-1 for _ in grid))
    return Attribution(found.contiguous(), notes=("this map shows what the layer holds and depends on no class",))
